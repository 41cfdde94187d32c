"""A holder's side of the arbiter: ask, wait, give way at a chunk's end, give back."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.exceptions import FailureError, WorkflowAlreadyStartedError

from deltaferry.model.replication import CycleKind
from workflows import meters, names
from workflows.messages.site import Placement, SiteProfile
from workflows.messages.slot import (
    ApplianceSilent,
    ReplicationLeft,
    SlotsAnnounced,
    SlotsAskedBack,
    SlotsDelayed,
    SlotsGranted,
    SlotsPart,
    SlotsReleased,
    SlotsState,
    SlotsWanted,
)
from workflows.slots.book import closed_until
from workflows.steps import cancellation_kept

_ASK_AGAIN = timedelta(minutes=5)
"""An arbiter that was terminated knows nothing of a request: it is announced again after this time."""


class PreemptedError(Exception):
    """Something else is to be done before what slots were waited for; the request was taken back."""


def _never() -> bool:
    return False


class SlotHolder:
    """Holds at most one lease at a time. Grants that come too late are given back at once."""

    def __init__(
        self,
        replication: str,
        changed: Callable[[], None] = lambda: None,
        look: Callable[[], Awaitable[None]] | None = None,
        gave_way: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Hold slots on behalf of a replication; `changed` is called when the reason for waiting has become another.

        `look` is called from time to time while a snapshot is held and transfer slots are waited for; what it raises ends that.
        `gave_way` is called when that waiting begins, and when it has ended.
        """
        self._replication = replication
        self._wanted: SlotsWanted | None = None
        self._grant: SlotsGranted | None = None
        self._asked_back = False
        self._delayed = ""
        self._why = ""
        """Why the transfer gives way, in words."""
        self._changed = changed
        self._look = look
        self._gave_way = gave_way

    async def acquire(
        self,
        profile: SiteProfile,
        kind: CycleKind,
        disks: int,
        placement: Placement,
        *,
        whatever_window: bool = False,
        unless: Callable[[], bool] = _never,
    ) -> SiteProfile:
        """Wait for the whole vector of slots; return the site's settings as the grant brought them.

        Without disks it is snapshot slots alone.
        A cancellation while waiting takes the request back, and so does `unless` when it comes to hold: PreemptedError.
        """
        wanted = SlotsWanted(
            holder=workflow.info().workflow_id,
            request_id=str(workflow.uuid4()),
            kind=kind,
            appliance=profile.appliance,
            disks=max(min(disks, profile.disks_per_appliance, profile.disks_per_host), 1) if disks else 0,
            placement=placement,
            replication=self._replication,
            whatever_window=whatever_window,
        )
        return await self._wait_for(wanted, profile, unless)

    async def acquire_together(
        self, profile: SiteProfile, parts: tuple[SlotsPart, ...], unless: Callable[[], bool] = _never
    ) -> SiteProfile:
        """Wait for the slots of all members of a group at once; the request ids of the parts begin with one of their own.

        The group holds them until each member has taken its own over. Raises PreemptedError as `acquire` does.
        """
        stores: dict[str, int] = {}
        for part in parts:
            for name, disks in part.placement.datastores:
                stores[name] = stores.get(name, 0) + disks
        wanted = SlotsWanted(
            holder=workflow.info().workflow_id,
            request_id=parts[0].request_id.rpartition("/")[0],
            kind=CycleKind.DELTA,
            appliance=profile.appliance,
            disks=sum(part.disks for part in parts),
            placement=Placement("", tuple(sorted(stores.items()))),
            group=workflow.info().workflow_id,
            parts=parts,
        )
        return await self._wait_for(wanted, profile, unless)

    def part_ids(self) -> dict[str, str]:
        """Return the request ids of the parts of a group's request, by member."""
        return {part.replication: part.request_id for part in self._wanted.parts} if self._wanted is not None else {}

    async def release_part(self, profile: SiteProfile, replication: str, *, snapshot_left: bool = False) -> None:
        """Give one member's part of the group's slots back; no-op for one that is over."""
        parts = self._wanted.parts if self._wanted is not None else ()
        for part in parts:
            if part.replication == replication:
                released = SlotsReleased(workflow.info().workflow_id, part.request_id, snapshot_left=snapshot_left)
                await self._send(profile, names.SLOTS_RELEASED, released)
        self.part_is_over(replication)

    def part_is_over(self, replication: str) -> None:
        """Note that a member holds its part itself, or has given it back: the group does not speak for it any more."""
        if self._wanted is not None:
            left = tuple(part for part in self._wanted.parts if part.replication != replication)
            self._wanted = dataclasses.replace(self._wanted, parts=left) if left else None

    async def take_over(
        self, profile: SiteProfile, kind: CycleKind, disks: int, placement: Placement, request_id: str, group: str
    ) -> SiteProfile:
        """Take over what a group holds for this replication, and wait for its transfer slots where it has to take turns.

        What the group does not hold any more is waited for like anything else.
        """
        wanted = SlotsWanted(
            holder=workflow.info().workflow_id,
            request_id=request_id,
            kind=kind,
            appliance=profile.appliance,
            disks=max(min(disks, profile.disks_per_appliance, profile.disks_per_host), 1),
            placement=placement,
            replication=self._replication,
            turn=1,
            group=group,
        )
        return await self._wait_for(wanted, profile)

    @asynccontextmanager
    async def momentary_snapshot(
        self, profile: SiteProfile, placement: Placement, unless: Callable[[], bool] = _never
    ) -> AsyncIterator[None]:
        """Hold snapshot slots, in any window, around a step that takes a snapshot and removes it at once.

        No slots where it is not known on which datastores the VM is. Raises PreemptedError as `acquire` does.
        """
        if not placement.datastores:
            yield
            return
        await self.acquire(profile, CycleKind.DELTA, 0, placement, whatever_window=True, unless=unless)
        try:
            yield
        except (FailureError, asyncio.CancelledError):
            await self.release(profile, snapshot_left=True)
            raise
        await self.release(profile)

    async def give_way(self, profile: SiteProfile, *, at_once: bool = False) -> SiteProfile:
        """Give the transfer slots back at a chunk's end if the arbiter asked for that, keeping the snapshot; wait for new ones.

        Returns the settings to go on with: the appliance may be another by then. `at_once` gives way unasked.
        """
        if self._wanted is None or self._grant is None or not (self._asked_back or at_once):
            return profile
        wanted = dataclasses.replace(self._wanted, turn=self._wanted.turn + 1)
        return await self._wait_for(wanted, profile)

    async def leave_silent(self, profile: SiteProfile) -> SiteProfile:
        """Tell the arbiter that the appliance does not answer, and wait for slots of another one.

        Returns the settings of now: with the same appliance where the site has no other.
        """
        await self._send(profile, names.APPLIANCE_SILENT, ApplianceSilent(profile.appliance))
        self._why = f"nobody answers on the appliance {profile.appliance}"
        return await self.give_way(profile, at_once=True)

    async def _wait_for(self, wanted: SlotsWanted, profile: SiteProfile, unless: Callable[[], bool] = _never) -> SiteProfile:
        self._wanted, self._grant, self._asked_back, self._delayed = wanted, None, False, ""
        asked_at = workflow.now()
        try:
            while self._grant is None:
                async with cancellation_kept():
                    await self._send(profile, names.SLOTS_REQUESTED, wanted)
                await self._show_giving_way()
                try:
                    async with cancellation_kept():
                        await workflow.wait_condition(
                            lambda: self._grant is not None or unless(), timeout=_ASK_AGAIN, timeout_summary="waiting for slots"
                        )
                    if self._grant is None:
                        raise PreemptedError
                except TimeoutError:
                    if wanted.turn and self._look is not None:
                        await self._look()
        except (asyncio.CancelledError, PreemptedError):
            if not wanted.turn:  # else there is a snapshot under these slots: whoever removes it releases them
                await self.release(profile)
            raise
        self._delayed = self._why = ""
        meters.slots_granted(profile.site, wanted.kind, workflow.now() - asked_at)
        if wanted.turn and self._gave_way is not None:
            await self._gave_way()
        return self._grant.profile

    async def _show_giving_way(self) -> None:
        if self.gave_way_because():
            self._changed()
            if self._gave_way is not None:
                await self._gave_way()

    async def release(self, profile: SiteProfile, short_of_space: tuple[str, ...] = (), *, snapshot_left: bool = False) -> None:
        """Give back the lease, or take back the request; no-op when there is neither.

        With `snapshot_left` the arbiter counts the snapshot until it is known to be gone.
        """
        if self._wanted is None:
            return
        released = SlotsReleased(workflow.info().workflow_id, self._wanted.request_id, short_of_space, snapshot_left)
        self._wanted, self._grant, self._asked_back = None, None, False
        await self._send(profile, names.SLOTS_RELEASED, released)

    async def granted(self, grant: SlotsGranted) -> None:
        """Take a grant; give back one that nobody waits for. One of an earlier turn was given way to already."""
        if self._wanted is None or grant.request_id != self._wanted.request_id:
            await give_back(grant)
        elif grant.turn == self._wanted.turn:
            self._grant = grant

    def asked_back(self, asked: SlotsAskedBack) -> None:
        """Note that the transfer slots are to be given back at the chunk's end."""
        if self._wanted is not None and asked.request_id == self._wanted.request_id:
            self._asked_back = True
            self._why = asked.why

    def delayed(self, delayed: SlotsDelayed) -> None:
        """Note why there are no slots yet."""
        if self._wanted is not None and delayed.request_id == self._wanted.request_id:
            self._delayed = delayed.sentence
            self._changed()

    async def announce(self, profile: SiteProfile) -> None:
        """Tell an arbiter that starts afresh what is held and waited for."""
        lease_id = self._grant.lease_id if self._grant is not None else ""
        held_before = self._wanted is not None and self._wanted.turn > 0
        announced = SlotsAnnounced(
            workflow.info().workflow_id,
            self._replication,
            profile.appliance,
            self._wanted,
            lease_id or (f"kept-{workflow.info().run_id[:8]}" if held_before else ""),
            waits=self._wanted is not None and self._grant is None,
        )
        await self._send(profile, names.SLOTS_ANNOUNCED, announced)

    def gave_way_because(self) -> str:
        """Return why a transfer that has begun waits for slots to go on, in words; empty if none does."""
        if self._wanted is None or self._grant is not None or not self._wanted.turn:
            return ""
        if self._wanted.group and self._wanted.turn == 1:
            return "has its snapshot, taken with its group's, and waits for transfer slots"
        return "gave way at a chunk's end, keeping its snapshot, and waits for slots" + (f": {self._why}" if self._why else "")

    def waits_because(self, profile: SiteProfile, now: datetime) -> str:
        """Return what is waited for, in words."""
        if self._delayed:
            return f"waiting for an appliance: {self._delayed}"
        if self.gave_way_because():
            return self.gave_way_because()
        until = closed_until(profile, now)
        if until is not None:
            return f"waiting for the blackout window's end, {until:%Y-%m-%d %H:%M} UTC"
        return "waiting for slots"

    async def _send(self, profile: SiteProfile, signal: str, message: object) -> None:
        arbiter = workflow.get_external_workflow_handle(names.slots_id(profile.site))
        try:
            await arbiter.signal(signal, message)
        except FailureError:
            if not isinstance(message, SlotsWanted):
                return  # an arbiter that does not run knows nothing that would have to be corrected
            await ensure_arbiter(profile)
            await arbiter.signal(signal, message)


async def leave_site(profile: SiteProfile, replication: str) -> None:
    """Tell the arbiter that a replication has ended; one that does not run learns nothing wrong."""
    await _tell(profile.site, names.REPLICATION_LEFT, ReplicationLeft(replication))


async def give_back(grant: SlotsGranted) -> None:
    """Release a grant that came too late."""
    await _tell(grant.profile.site, names.SLOTS_RELEASED, SlotsReleased(workflow.info().workflow_id, grant.request_id))


async def _tell(site: str, signal: str, message: object) -> None:
    try:
        await workflow.get_external_workflow_handle(names.slots_id(site)).signal(signal, message)
    except FailureError:
        workflow.logger.info("the site's arbiter does not run")


async def ensure_arbiter(profile: SiteProfile) -> None:
    """Start the site's arbiter unless it runs."""
    try:
        await workflow.start_child_workflow(
            names.SITE_SLOTS,
            SlotsState(profile=profile),
            id=names.slots_id(profile.site),
            task_queue=names.CONTROL_QUEUE,
            parent_close_policy=workflow.ParentClosePolicy.ABANDON,
            static_summary=f"slots of site {profile.site}",
        )
    except WorkflowAlreadyStartedError:
        return
