"""`SiteSlots`: one arbiter per site, which every cycle acquires from and releases to."""

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import FailureError

with workflow.unsafe.imports_passed_through():
    from deltaferry.model.replication import CycleKind
    from deltaferry.planning.slots import Lease, Priority, SlotLimits, SlotRequest, grant
    from workflows import names
    from workflows.site_messages import SiteProfile
    from workflows.slot_messages import HeldLease, SlotsGranted, SlotsReleased, SlotsState, SlotsWanted, WaitingRequest
    from workflows.steps import require_carried

_ASK_HOLDERS_EVERY = timedelta(minutes=1)
"""While others wait: twice the heartbeat limit of the steps, after which nothing of a dead holder's runs any more."""

_PRIORITIES = {
    CycleKind.FINAL: Priority.PRE_FAILOVER,
    CycleKind.ON_DEMAND: Priority.PRE_FAILOVER,
    CycleKind.INITIAL: Priority.INITIAL,
    CycleKind.RESYNC: Priority.RESYNC,
    CycleKind.DELTA: Priority.DELTA,
}


@workflow.defn(name=names.SITE_SLOTS)
class SiteSlots:
    """Grants whole vectors of slots by priority and age; the decision is `planning.slots.grant`."""

    @workflow.init
    def __init__(self, state: SlotsState | None = None) -> None:
        if state is None:
            return  # run() says what that means
        self._state = state
        self._changed = True

    @workflow.run
    async def run(self, state: SlotsState | None = None) -> None:
        """Grant what fits whenever something changed; for ever."""
        require_carried(state)
        while True:
            try:
                await workflow.wait_condition(
                    lambda: self._changed or self._should_roll_over(),
                    timeout=_ASK_HOLDERS_EVERY if self._state.waiting and self._state.leases else None,
                    timeout_summary="ask the holders of leases whether they still run",
                )
            except TimeoutError:
                await self._ask_holders()
                continue
            if not self._changed:
                await workflow.wait_condition(workflow.all_handlers_finished)
                workflow.continue_as_new(self._state)
            self._changed = False
            await self._grant_what_fits()
            self._present()

    @workflow.signal(name=names.SLOTS_REQUESTED, description="Sent by replications: they ask for slots.")
    def slots_requested(self, wanted: SlotsWanted) -> None:
        """Queue a request, once; a holder that asks again without its lease has lost the grant, so it is sent again.

        A holder holds at most one lease: what it had, or asked for, before it was terminated or reset is forgotten.
        """
        known = {waiting.wanted.request_id for waiting in self._state.waiting}
        if wanted.request_id in known:
            return
        self._state.waiting = tuple(w for w in self._state.waiting if w.wanted.holder != wanted.holder)
        self._state.leases = tuple(held for held in self._state.leases if held.wanted.holder != wanted.holder)
        self._state.tickets += 1
        self._state.waiting += (WaitingRequest(wanted, self._state.tickets, workflow.now()),)
        self._changed = True

    @workflow.signal(name=names.SLOTS_RELEASED, description="Sent by replications: they give slots back.")
    def slots_released(self, released: SlotsReleased) -> None:
        """Free a lease, or forget a request."""
        self._state.waiting = tuple(w for w in self._state.waiting if w.wanted.request_id != released.request_id)
        self._state.leases = tuple(h for h in self._state.leases if h.wanted.request_id != released.request_id)
        self._changed = True

    @workflow.query(description="Leases that are held and requests that wait.")
    def status(self) -> SlotsState:
        """Return the arbiter's state."""
        return self._state

    async def _grant_what_fits(self) -> None:
        profile = self._state.profile
        waiting = {w.wanted.request_id: w for w in self._state.waiting}
        chosen = grant(
            tuple(_request(w) for w in self._state.waiting),
            tuple(_lease(h) for h in self._state.leases),
            _limits(profile),
            workflow.now(),
        )
        grants = []
        for request in chosen:
            wanted = waiting[request.request_id].wanted
            lease_id = f"{workflow.info().run_id[:8]}-{request.ticket}"
            self._state.leases += (HeldLease(wanted, lease_id, workflow.now()),)
            grants.append((wanted, SlotsGranted(wanted.request_id, lease_id, profile)))
        granted = {request.request_id for request in chosen}
        self._state.waiting = tuple(w for w in self._state.waiting if w.wanted.request_id not in granted)
        await asyncio.gather(*(self._send(wanted, message) for wanted, message in grants))

    async def _ask_holders(self) -> None:
        """Send every grant again: a holder that does not run, or does not know of its lease any more, frees it."""
        profile = self._state.profile
        held = self._state.leases
        await asyncio.gather(*(self._send(h.wanted, SlotsGranted(h.wanted.request_id, h.lease_id, profile)) for h in held))

    async def _send(self, wanted: SlotsWanted, message: SlotsGranted) -> None:
        """Send a grant; a holder that no longer runs has no use for it, and its lease is free again."""
        try:
            await workflow.get_external_workflow_handle(wanted.holder).signal(names.SLOTS_GRANTED, message)
        except FailureError:
            self._state.leases = tuple(h for h in self._state.leases if h.lease_id != message.lease_id)
            self._changed = True

    def _should_roll_over(self) -> bool:
        info = workflow.info()
        return info.is_continue_as_new_suggested() or info.is_target_worker_deployment_version_changed()

    def _present(self) -> None:
        lines = [
            f"**Site {self._state.profile.site}**",
            "",
            f"{len(self._state.leases)} leases held, {len(self._state.waiting)} waiting",
            "",
        ]
        lines += [f"- holds {h.wanted.disks} disks: {h.wanted.holder} ({h.wanted.kind})" for h in self._state.leases]
        lines += [f"- waits for {w.wanted.disks} disks: {w.wanted.holder} ({w.wanted.kind})" for w in self._state.waiting]
        workflow.set_current_details("\n".join(lines))


def _limits(profile: SiteProfile) -> SlotLimits:
    return SlotLimits(
        disks_per_appliance=profile.disks_per_appliance,
        disks_per_host=profile.disks_per_host,
        snapshots_per_datastore=profile.snapshots_per_datastore,
    )


def _request(waiting: WaitingRequest) -> SlotRequest:
    wanted = waiting.wanted
    return SlotRequest(
        holder=wanted.holder,
        request_id=wanted.request_id,
        priority=_PRIORITIES[wanted.kind],
        appliance=wanted.appliance,
        host=wanted.placement.host,
        disks=wanted.disks,
        datastores=wanted.placement.datastores,
        ticket=waiting.ticket,
        requested_at=waiting.requested_at,
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
        disks=wanted.disks,
        datastores=wanted.placement.datastores,
    )
