"""What `ReprotectVm` and `FailbackVm` share: transfer slots at the site, and telling the entity how far they are.

A pass writes to disks through the host's NFC service, as replication reads through it: so it takes its share of the same
slots (spec §3), on the appliance and on the VM's host. It takes none of a datastore, since it holds no snapshot there.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from temporalio import workflow
from temporalio.exceptions import FailureError, is_cancelled_exception

from deltaferry.model.replication import CycleKind
from workflows import names
from workflows.delta_cycle import on_appliance
from workflows.messages.reverse import (
    ReverseProgress,
)
from workflows.messages.site import Placement, SiteProfile
from workflows.messages.slot import SlotsAskedBack, SlotsDelayed, SlotsGranted
from workflows.reporting import ReportingJob
from workflows.slots.holding import SlotHolder
from workflows.steps import cancellation_kept

R = TypeVar("R")


def _never() -> bool:
    return False


class SiteLane:
    """The slots of a job's passes: taken before a pass first touches the site, given back when it has ended."""

    def __init__(self, entity_id: str, profile: SiteProfile, disks: int, host: str) -> None:
        self.slots = SlotHolder(entity_id, self._show)
        self.profile = profile
        self.host = host
        self._disks = disks
        self._held = False
        self.unless: Callable[[], bool] = _never
        """When waiting for slots is over without them: PreemptedError."""

    async def carry_out(self, kind: CycleKind, step: Callable[[str], Awaitable[R]]) -> R:
        """Carry out a step on the appliance's queue, with slots; on another appliance where nobody takes it up."""
        if not self._held:
            self._show()
            self.profile = await self.slots.acquire(
                self.profile, kind, self._disks, Placement(self.host), whatever_window=kind is CycleKind.FINAL, unless=self.unless
            )
            self._held = True
        result, self.profile = await on_appliance(self.slots, self.profile, step)
        return result

    async def chunk_done(self) -> None:
        """Give way to more urgent work, if the arbiter asked for that."""
        if self._held:
            self.profile = await self.slots.give_way(self.profile)

    async def leave(self) -> None:
        """Give the slots back."""
        self._held = False
        await self.slots.release(self.profile)

    def _show(self) -> None:
        workflow.set_current_details(f"**{self.slots.waits_because(self.profile, workflow.now())}**")


class ReverseJob(ReportingJob):
    """A job of the reverse direction, as the site's arbiter knows it."""

    _told: ReverseProgress | None = None
    """What the entity was told last."""

    def _take_lane(self, entity_id: str, profile: SiteProfile, disks: int, host: str) -> None:
        self._entity_id = entity_id
        self._lane = SiteLane(entity_id, profile, disks, host)

    @workflow.signal(name=names.SLOTS_GRANTED, description="Sent by the site's arbiter.")
    async def slots_granted(self, grant: SlotsGranted) -> None:
        """Take a grant, or give back one that came too late."""
        await self._lane.slots.granted(grant)

    @workflow.signal(name=names.SLOTS_ASKED_BACK, description="Sent by the site's arbiter: something more urgent waits.")
    def slots_asked_back(self, asked: SlotsAskedBack) -> None:
        """Note that the slots are to be given back at the chunk's end."""
        self._lane.slots.asked_back(asked)

    @workflow.signal(name=names.SLOTS_DELAYED, description="Sent by the site's arbiter: why there are no slots yet.")
    def slots_delayed(self, delayed: SlotsDelayed) -> None:
        """Note why there are no slots yet."""
        self._lane.slots.delayed(delayed)

    @workflow.signal(name=names.ANNOUNCE_SLOTS, description="Sent by an arbiter that starts afresh.")
    async def announce_slots(self) -> None:
        """Tell the arbiter what is held and waited for."""
        await self._lane.slots.announce(self._lane.profile)

    async def _signal_entity(self, progress: ReverseProgress) -> None:
        """Tell the entity how far it is; where that does not run at the moment, it is told after the next step."""
        self._told = progress
        try:
            async with cancellation_kept():
                await workflow.get_external_workflow_handle(self._entity_id).signal(names.REVERSE_PROGRESSED, progress)
        except FailureError as error:
            if is_cancelled_exception(error):
                raise
            workflow.logger.warning("the replication does not run; it is told again after the next step")
