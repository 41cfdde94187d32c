"""A holder's side of the arbiter: ask, wait, give back."""

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import FailureError, WorkflowAlreadyStartedError

from deltaferry.model.replication import CycleKind
from workflows import names
from workflows.site_messages import Placement, SiteProfile
from workflows.slot_messages import SlotsGranted, SlotsReleased, SlotsState, SlotsWanted
from workflows.steps import cancellation_kept

_ASK_AGAIN = timedelta(minutes=5)
"""An arbiter that was terminated knows nothing of a request: it is announced again after this time."""


class SlotHolder:
    """Holds at most one lease at a time. Grants that come too late are given back at once."""

    def __init__(self) -> None:
        self._request_id: str | None = None
        self._grant: SlotsGranted | None = None

    async def acquire(self, profile: SiteProfile, kind: CycleKind, disks: int, placement: Placement) -> SiteProfile:
        """Wait for the whole vector of slots; return the site's settings as the grant brought them.

        A cancellation while waiting takes the request back.
        """
        request_id = str(workflow.uuid4())
        self._request_id, self._grant = request_id, None
        wanted = SlotsWanted(
            holder=workflow.info().workflow_id,
            request_id=request_id,
            kind=kind,
            appliance=profile.appliance,
            disks=max(min(disks, profile.disks_per_appliance, profile.disks_per_host), 1),
            placement=placement,
        )
        try:
            grant = await self._wait_for_grant(profile, wanted)
        except asyncio.CancelledError:
            await self.release(profile)
            raise
        return grant.profile

    async def _wait_for_grant(self, profile: SiteProfile, wanted: SlotsWanted) -> SlotsGranted:
        while self._grant is None:
            with cancellation_kept():
                await self._send(profile, names.SLOTS_REQUESTED, wanted)
            try:
                with cancellation_kept():
                    await workflow.wait_condition(
                        lambda: self._grant is not None, timeout=_ASK_AGAIN, timeout_summary="waiting for slots"
                    )
            except TimeoutError:
                continue
        return self._grant

    async def release(self, profile: SiteProfile) -> None:
        """Give back the lease, or take back the request; no-op when there is neither."""
        if self._request_id is None:
            return
        released = SlotsReleased(workflow.info().workflow_id, self._request_id)
        self._request_id, self._grant = None, None
        await self._send(profile, names.SLOTS_RELEASED, released)

    async def granted(self, grant: SlotsGranted) -> None:
        """Take a grant; give back one that nobody waits for."""
        if grant.request_id == self._request_id:
            self._grant = grant
            return
        await give_back(grant)

    async def _send(self, profile: SiteProfile, signal: str, message: SlotsWanted | SlotsReleased) -> None:
        arbiter = workflow.get_external_workflow_handle(names.slots_id(profile.site))
        try:
            await arbiter.signal(signal, message)
        except FailureError:
            if isinstance(message, SlotsReleased):
                return  # an arbiter that does not run holds no lease of ours
            await ensure_arbiter(profile)
            await arbiter.signal(signal, message)


async def give_back(grant: SlotsGranted) -> None:
    """Release a grant that came too late."""
    released = SlotsReleased(workflow.info().workflow_id, grant.request_id)
    try:
        await workflow.get_external_workflow_handle(names.slots_id(grant.profile.site)).signal(names.SLOTS_RELEASED, released)
    except FailureError:
        workflow.logger.info("the arbiter ended before a late grant could be given back")


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
