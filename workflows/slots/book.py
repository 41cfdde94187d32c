"""What the arbiter of slots knows, and how each message changes it: plain state, without a server, so that it is easily tested.

The decisions are those of `deltaferry.planning`; this is their bookkeeping.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable
from datetime import datetime

from deltaferry.model.replication import CycleKind
from deltaferry.planning.appliances import assign, reassigned_from, refusal_of_assignment
from deltaferry.planning.closures import Closure, open_again_at
from deltaferry.planning.slots import Lease, Priority, SlotLimits, SlotRequest, clamped, grant, over_limits, yielding
from workflows.messages.site import SiteProfile
from workflows.messages.slot import (
    HeldLease,
    SlotsAnnounced,
    SlotsAskedBack,
    SlotsDelayed,
    SlotsGranted,
    SlotsReleased,
    SlotsState,
    SlotsWanted,
    WaitingRequest,
)
from workflows.slots.parts import asked_as, in_groups_hands, leases_of, replications_of, request_together

_PRIORITIES = {
    CycleKind.FINAL: Priority.PRE_FAILOVER,
    CycleKind.ON_DEMAND: Priority.PRE_FAILOVER,
    CycleKind.INITIAL: Priority.INITIAL,
    CycleKind.RESYNC: Priority.RESYNC,
    CycleKind.DELTA: Priority.DELTA,
}


_WORDS = {
    Priority.PRE_FAILOVER: "pre-failover delta",
    Priority.INITIAL: "initial replication",
    Priority.RESYNC: "resync",
    Priority.DELTA: "delta",
}


def closures_of(profile: SiteProfile, appliance: str) -> tuple[Closure, ...]:
    """Return the occurrences of blackout windows that hold for an appliance."""
    return tuple(Closure(window.start, window.end) for window in profile.closed if window.appliance in ("", appliance))


def closed_until(profile: SiteProfile, now: datetime) -> datetime | None:
    """Return until when no cycle may start on the profile's appliance; None if one may start now."""
    return open_again_at(closures_of(profile, profile.appliance), now)


class SlotBook:
    """Requests, leases and assignments of one site."""

    def __init__(self, state: SlotsState) -> None:
        self.state = state
        self._asked_again: set[str] = set()
        """Leases whose grants are sent once more."""
        self._given_back: set[str] = set()
        """Requests that this run was told are over."""

    # --- what holders say ---

    def want(self, wanted: SlotsWanted, now: datetime) -> bool:
        """Queue a request, once; return whether that changed anything.

        A replication holds at most one lease: of what it, or a job of it, had or asked for before it was terminated or reset,
        the snapshots alone go on counting, as the new request's, since its cycle removes them before it takes another. A
        holder that asks again for what it has a lease of has lost the grant, which is then sent again.
        """
        state = self.state
        self._given_back.discard(wanted.request_id)  # a member asks by the id of what its group gave back
        same = [waiting for waiting in state.waiting if _same(waiting.wanted, wanted)]
        if same and same[0].wanted.turn == wanted.turn:
            return False
        if wanted.parts:
            return self._want_together(wanted, now)
        if wanted.group and self._hand_over(wanted, now):
            return True
        lease = next((held for held in state.leases if _same(held.wanted, wanted)), None)
        if lease is not None and wanted.turn:
            return self._give_way(lease, wanted, now)
        if lease is not None and not lease.gave_way:
            self._asked_again.add(lease.lease_id)  # the grant may be on its way, or in use: the lease must go on counting
            return True
        state.waiting = tuple(w for w in state.waiting if not _of_one(w.wanted, wanted))
        left = [held for held in state.leases if _of_one(held.wanted, wanted)]
        state.leases = tuple(held for held in state.leases if held not in left)
        inherited = next((held for held in left if wanted.placement.datastores == held.wanted.placement.datastores), None)
        if inherited is not None and wanted.placement.datastores:
            state.leases += (_without_transfer(dataclasses.replace(inherited, wanted=wanted, holder_gone=False)),)
        self._queue(wanted, now)
        return True

    def _want_together(self, wanted: SlotsWanted, now: datetime) -> bool:
        """Queue a group's request. What it had before goes on counting until the snapshots are known to be gone."""
        held = [lease for lease in self.state.leases if in_groups_hands(lease.wanted) and lease.wanted.holder == wanted.holder]
        known = [lease for lease in held if asked_as(lease.wanted) == wanted.request_id]
        if known:
            self._asked_again.add(known[0].lease_id)
            return True
        self.state.waiting = tuple(w for w in self.state.waiting if w.wanted.holder != wanted.holder)
        for lease in held:
            self._leave(lease)
        self._queue(wanted, now)
        return True

    def _hand_over(self, wanted: SlotsWanted, now: datetime) -> bool:
        """Give a member its part of what the group holds, and tell it; return whether the group still held that."""
        part = next((held for held in self.state.leases if _is_part(held, wanted)), None)
        if part is None:
            return False
        taken = dataclasses.replace(wanted, appliance=part.wanted.appliance, disks=part.wanted.disks)
        self._replace(part, dataclasses.replace(part, wanted=taken, asked_back=False, holder_gone=False))
        if part.gave_way:
            self._queue(wanted, now)
        else:
            self._asked_again.add(part.lease_id)
        return True

    def _give_way(self, lease: HeldLease, wanted: SlotsWanted, now: datetime) -> bool:
        """Take a lease's transfer slots back and queue the holder for them; its snapshots stay."""
        if lease.wanted.turn >= wanted.turn:
            return False
        self._replace(lease, _without_transfer(lease))
        self.state.waiting = tuple(w for w in self.state.waiting if not _same(w.wanted, wanted))
        self._queue(wanted, now)
        return True

    def _queue(self, wanted: SlotsWanted, now: datetime) -> None:
        self.state.tickets += 1
        self.state.waiting += (WaitingRequest(wanted, self.state.tickets, now),)

    def release(self, released: SlotsReleased) -> None:
        """Free a lease, or forget a request; note which datastores were found short of space, and which were not.

        What the holder left behind, or was to remove under a request that it takes back before the grant, goes on counting.
        """
        state = self.state
        self._given_back.add(released.request_id)
        freed = [held for held in state.leases if _is_released(held.wanted, released)]
        taken_back = any(w.wanted.request_id == released.request_id and not w.wanted.turn for w in state.waiting)
        state.waiting = tuple(w for w in state.waiting if w.wanted.request_id != released.request_id)
        for held in freed:
            if released.snapshot_left or taken_back:
                self._leave(held)
            else:
                self._drop(held)
        used = {name for held in freed for name, _ in held.wanted.placement.datastores}
        short = (set(state.short_of_space) - used) | (used & set(released.short_of_space))
        state.short_of_space = tuple(sorted(short))

    def without_what_is_over(self, announced: SlotsAnnounced) -> SlotsAnnounced:
        """Return an announcement without what was given back while it was on its way."""
        wanted = announced.wanted
        if wanted is None:
            return announced
        if wanted.request_id in self._given_back:
            return dataclasses.replace(announced, wanted=None)
        parts = tuple(part for part in wanted.parts if part.request_id not in self._given_back)
        left = dataclasses.replace(wanted, parts=parts) if parts or not wanted.parts else None
        return dataclasses.replace(announced, wanted=left)

    def announce(self, announced: SlotsAnnounced, now: datetime) -> None:
        """Take over what a holder has, as an arbiter that starts afresh has to."""
        if announced.replication:
            self.state.assigned.setdefault(announced.replication, announced.appliance)
        wanted = announced.wanted
        if wanted is None:
            return
        if wanted.group:
            self.state.leases = tuple(held for held in self.state.leases if not _is_part(held, wanted))
        if wanted.parts and announced.lease_id:
            self._announce_parts(wanted, announced.lease_id, now)
            return
        known = any(_same(held.wanted, wanted) for held in self.state.leases)
        if announced.lease_id and not known:
            self.state.leases += (HeldLease(wanted, announced.lease_id, now, gave_way=announced.waits),)
        if announced.waits and not any(_same(waiting.wanted, wanted) for waiting in self.state.waiting):
            self._queue(wanted, now)

    def _announce_parts(self, wanted: SlotsWanted, lease_id: str, now: datetime) -> None:
        """Take over what a group holds of its members' slots, but for what they have announced themselves."""
        known = {held.wanted.request_id for held in self.state.leases}
        for part in wanted.parts:
            self.state.assigned.setdefault(part.replication, self.state.profile.appliance)
        request = request_together(WaitingRequest(wanted, 0, now), self.state.assigned)
        if request is not None:
            leases = leases_of(wanted, clamped(request, self.limits), lease_id, now)
            self.state.leases += tuple(held for held in leases if held.wanted.request_id not in known)

    # --- what is decided ---

    def assign_waiting(self) -> list[tuple[SlotsWanted, SlotsDelayed]]:
        """Give every replication that waits an appliance; return those that none has room for, with the sentence."""
        delayed = []
        for waiting, replication in [(w, one) for w in self.state.waiting for one in replications_of(w.wanted)]:
            if replication in self.state.assigned:
                continue
            loads, limits, silent = self._loads(), self.limits, frozenset(self.state.silent)
            appliance = assign(loads, limits, silent)
            if appliance is not None:
                self.state.assigned[replication] = appliance
                continue
            sentence = refusal_of_assignment(loads, limits, silent)
            delayed.append((waiting.wanted, SlotsDelayed(waiting.wanted.request_id, sentence or "")))
        return delayed

    def grant(self, now: datetime, run: str) -> list[tuple[SlotsWanted, SlotsGranted]]:
        """Grant what fits; return whom to tell."""
        state = self.state
        chosen = grant(self._requests(), self._leases(), self.limits, now, frozenset(state.short_of_space), self._closed(now))
        waiting = {(w.wanted.holder, w.wanted.request_id): w.wanted for w in state.waiting}
        grants = []
        for request in chosen:
            wanted = waiting[request.holder, request.request_id]
            if wanted.parts:
                lease_id = f"{run[:8]}-{request.ticket}"
                state.leases += leases_of(wanted, request, lease_id, now)
                grants.append((wanted, self._granted(wanted, lease_id)))
                continue
            wanted = dataclasses.replace(wanted, appliance=request.appliance, disks=request.disks)
            lease = next((held for held in state.leases if _same(held.wanted, wanted)), None)
            if lease is None:
                lease = HeldLease(wanted, f"{run[:8]}-{request.ticket}", now)
                state.leases += (lease,)
            else:
                self._replace(lease, dataclasses.replace(lease, wanted=wanted, granted_at=now, gave_way=False))
            grants.append((wanted, self._granted(wanted, lease.lease_id)))
        again = [held for held in state.leases if held.lease_id in self._asked_again]
        grants += [(held.wanted, self._granted(held.wanted, held.lease_id)) for held in again]
        self._asked_again.clear()
        granted = {(request.holder, request.request_id) for request in chosen}
        state.waiting = tuple(w for w in state.waiting if (w.wanted.holder, w.wanted.request_id) not in granted)
        return grants

    def ask_back(self, now: datetime) -> list[tuple[SlotsWanted, SlotsAskedBack]]:
        """Return whose holders are to give their transfer slots back at their chunk's end, each once, and what to tell them."""
        asked = frozenset(held.lease_id for held in self.state.leases if held.asked_back)
        leases, short = self._leases(), frozenset(self.state.short_of_space)
        why = {lease.lease_id: "a limit was lowered" for lease in over_limits(leases, self.limits, asked)}
        for held, lease in zip(self.state.leases, leases, strict=True):
            if lease.disks and self.appliance_of(held.wanted) != lease.appliance:
                why[lease.lease_id] = "it goes on through another appliance"
        for lease, urgent in yielding(self._requests(), leases, self.limits, now, short, self._closed(now), asked):
            why[lease.lease_id] = f"{urgent.holder} ({_WORDS[urgent.priority]}) goes first"
        newly = [held for held in self.state.leases if held.lease_id in why and not held.asked_back]
        for held in newly:
            self._replace(held, dataclasses.replace(held, asked_back=True))
        return [(held.wanted, SlotsAskedBack(held.wanted.request_id, why[held.lease_id])) for held in newly]

    def grants_again(self) -> list[tuple[SlotsWanted, SlotsGranted]]:
        """Return every grant that is in use: a holder that does not run, or knows nothing of it, frees it."""
        return [(held.wanted, self._granted(held.wanted, held.lease_id)) for held in self.state.leases if not held.holder_gone]

    def settings_for(self, replication: str) -> SiteProfile:
        """Return the site's settings as a replication gets them."""
        return self._profile_on(self.state.assigned.get(replication, self.state.profile.appliance))

    # --- accidents and operators ---

    def holder_gone(self, holder: str) -> None:
        """Free the transfer slots of a holder that does not run; its snapshots count until they are known to be gone."""
        state = self.state
        state.waiting = tuple(w for w in state.waiting if w.wanted.holder != holder)
        for held in [held for held in state.leases if held.wanted.holder == holder]:
            self._leave(held)

    def left_behind(self) -> tuple[HeldLease, ...]:
        """Return the leases under which nobody works: of snapshots that are not known to be gone."""
        return tuple(held for held in self.state.leases if held.holder_gone)

    def snapshot_gone(self, lease_id: str) -> None:
        """Free what was left behind; no-op if its replication has asked again meanwhile: it may have taken another snapshot."""
        self.state.leases = tuple(held for held in self.state.leases if not (held.lease_id == lease_id and held.holder_gone))

    def _leave(self, held: HeldLease) -> None:
        """Free a lease but for its snapshots."""
        if held.wanted.placement.datastores:
            self._replace(held, dataclasses.replace(_without_transfer(held), holder_gone=True))
        else:
            self._drop(held)

    def _drop(self, held: HeldLease) -> None:
        self.state.leases = tuple(lease for lease in self.state.leases if lease.lease_id != held.lease_id)

    def forget(self, holder: str) -> None:
        """Free everything that a holder has or waits for."""
        self.state.waiting = tuple(w for w in self.state.waiting if w.wanted.holder != holder)
        self.state.leases = tuple(held for held in self.state.leases if held.wanted.holder != holder)

    def silence(self, appliance: str) -> tuple[str, ...]:
        """Take its replications away from an appliance on whose queue nobody answers; return those that have moved.

        Without another appliance to go to, everything stays as it is.
        """
        others = self._appliances() - set(self.state.silent) - {appliance}
        if appliance not in self._appliances() or not others:
            return ()
        if appliance not in self.state.silent:
            self.state.silent += (appliance,)
        return self._move_away(appliance)

    def heard(self, appliances: Iterable[str]) -> None:
        """Note that appliances answer again."""
        back = set(appliances)
        self.state.silent = tuple(name for name in self.state.silent if name not in back)

    def change(self, profile: SiteProfile) -> tuple[str, ...]:
        """Take new settings over; return the replications whose appliance is gone and that have moved to another."""
        self.state.profile = profile
        self.heard(set(self.state.silent) - self._appliances())
        moved: tuple[str, ...] = ()
        for appliance in sorted(set(self.state.assigned.values()) - self._appliances()):
            moved += self._move_away(appliance)
        return moved

    def reassign(self, replication: str, appliance: str) -> None:
        """Move a replication to an appliance."""
        self.state.assigned[replication] = appliance
        self.heard([appliance])

    def leave(self, replication: str) -> None:
        """Forget a replication that has ended."""
        self.state.assigned.pop(replication, None)
        self.state.leases = tuple(
            held for held in self.state.leases if not (in_groups_hands(held.wanted) and held.wanted.replication == replication)
        )
        for wanted in self._known():
            if wanted.replication == replication:
                self.forget(wanted.holder)

    def holders(self) -> tuple[str, ...]:
        """Return who holds slots or waits for them, each once and in order."""
        return tuple(sorted({wanted.holder for wanted in self._known()}))

    def _known(self) -> list[SlotsWanted]:
        return [held.wanted for held in self.state.leases] + [waiting.wanted for waiting in self.state.waiting]

    def _move_away(self, appliance: str) -> tuple[str, ...]:
        carried = [replication for replication, on in self.state.assigned.items() if on == appliance]
        result = reassigned_from(appliance, carried, self._loads(), self.limits, frozenset(self.state.silent))
        self.state.assigned.update(dict(result.moved))
        return tuple(replication for replication, _ in result.moved)

    # --- how it looks to the decisions ---

    @property
    def limits(self) -> SlotLimits:
        """The site's limits."""
        profile = self.state.profile
        return SlotLimits(
            disks_per_appliance=profile.disks_per_appliance,
            disks_per_host=profile.disks_per_host,
            snapshots_per_datastore=profile.snapshots_per_datastore,
            replications_per_appliance=profile.replications_per_appliance,
            replications_per_site=profile.replications_per_site,
        )

    def appliance_of(self, wanted: SlotsWanted) -> str:
        """Return the appliance that a request's transfers go through; empty while there is none for it."""
        return self.state.assigned.get(wanted.replication, "") if wanted.replication else wanted.appliance

    def next_opening(self, now: datetime) -> datetime | None:
        """Return when the next blackout window that keeps somebody waiting ends."""
        ends = [open_again_at(closures_of(self.state.profile, name), now) for name in self._appliances()]
        return min((end for end in ends if end is not None), default=None) if self.state.waiting else None

    def _appliances(self) -> set[str]:
        return {self.state.profile.appliance, *(one.name for one in self.state.profile.appliances)}

    def _loads(self) -> Counter[str]:
        loads = Counter(self.state.assigned.values())
        for name in self._appliances():
            loads.setdefault(name, 0)
        return loads

    def _closed(self, now: datetime) -> frozenset[str]:
        profile = self.state.profile
        return frozenset(name for name in self._appliances() if open_again_at(closures_of(profile, name), now) is not None)

    def _requests(self) -> tuple[SlotRequest, ...]:
        held = {(lease.wanted.holder, lease.wanted.request_id) for lease in self.state.leases}
        together = (request_together(waiting, self.state.assigned) for waiting in self.state.waiting if waiting.wanted.parts)
        alone = (
            _request(waiting, appliance, has_lease=(waiting.wanted.holder, waiting.wanted.request_id) in held)
            for waiting in self.state.waiting
            if not waiting.wanted.parts and (appliance := self.appliance_of(waiting.wanted))
        )
        return (*alone, *(request for request in together if request is not None))

    def _leases(self) -> tuple[Lease, ...]:
        return tuple(_lease(held) for held in self.state.leases)

    def _granted(self, wanted: SlotsWanted, lease_id: str) -> SlotsGranted:
        return SlotsGranted(asked_as(wanted), lease_id, self._profile_on(wanted.appliance), wanted.turn)

    def _profile_on(self, appliance: str) -> SiteProfile:
        return dataclasses.replace(self.state.profile, appliance=appliance)

    def _replace(self, before: HeldLease, after: HeldLease) -> None:
        self.state.leases = tuple(after if held.lease_id == before.lease_id else held for held in self.state.leases)


def _same(one: SlotsWanted, other: SlotsWanted) -> bool:
    return (one.holder, one.request_id) == (other.holder, other.request_id)


def _of_one(one: SlotsWanted, other: SlotsWanted) -> bool:
    return one.holder == other.holder or (bool(one.replication) and one.replication == other.replication)


def _is_part(held: HeldLease, wanted: SlotsWanted) -> bool:
    """Return whether a lease is the part that a member asks for, still in the hands of its group."""
    return in_groups_hands(held.wanted) and held.wanted.group == wanted.group and held.wanted.request_id == wanted.request_id


def _is_released(wanted: SlotsWanted, released: SlotsReleased) -> bool:
    """Return whether a lease is given back. A group gives back what it still holds, one part or all, never its members'."""
    if wanted.group and wanted.holder != released.holder:
        return False
    return released.request_id in (wanted.request_id, asked_as(wanted))


def _without_transfer(held: HeldLease) -> HeldLease:
    """Return what a lease still holds without its transfer slots: its snapshots."""
    return dataclasses.replace(held, gave_way=True, asked_back=False)


def _request(waiting: WaitingRequest, appliance: str, *, has_lease: bool) -> SlotRequest:
    wanted = waiting.wanted
    return SlotRequest(
        holder=wanted.holder,
        request_id=wanted.request_id,
        priority=_PRIORITIES[wanted.kind],
        appliance=appliance,
        host=wanted.placement.host,
        disks=wanted.disks,
        datastores=() if has_lease else wanted.placement.datastores,
        ticket=waiting.ticket,
        requested_at=waiting.requested_at,
        in_progress=wanted.turn > 0 or wanted.whatever_window,
    )


def _lease(held: HeldLease) -> Lease:
    wanted = held.wanted
    return Lease(
        lease_id=held.lease_id,
        holder=wanted.holder,
        request_id=wanted.request_id,
        priority=_PRIORITIES[wanted.kind],
        appliance=wanted.appliance,
        host=wanted.placement.host,
        disks=0 if held.gave_way else wanted.disks,
        datastores=wanted.placement.datastores,
        granted_at=held.granted_at,
    )
