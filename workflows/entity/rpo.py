"""How a replication watches the age of its latest recovery point, beside everything else that it does (spec §8).

After a failover, while the VM is replicated back, what is watched is the copy at the site, by the failback policy's threshold.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.exceptions import FailureError, is_cancelled_exception

from activities.notices import Notices
from deltaferry.model.errors import ErrorKind
from deltaferry.planning.dr_states import NO_CYCLES, DrState
from deltaferry.planning.rpo import RpoChange, RpoEvent, RpoWatch, crosses_at, look
from workflows import meters, names
from workflows.entity.testing import EntityTests
from workflows.messages.notice import RpoNotice
from workflows.messages.replication_state import FailureView
from workflows.policies import TELL
from workflows.steps import failure_of, health_error, perform


@dataclass(frozen=True, slots=True)
class _Watched:
    """The copy whose age counts at the moment."""

    taken_at: datetime
    threshold: timedelta | None
    what: str
    """What sentences call it."""


class EntityRpo(EntityTests):
    """Raises a health error when the policy's threshold is crossed, takes it back when it is not any more, and has both told."""

    def _watched(self) -> _Watched | None:
        """Return what is watched; None while no copy is kept up to date."""
        s, policy = self._state, self._state.policy
        reverse = s.failover.reverse if s.failover is not None else None
        if reverse is not None and reverse.base is not None and s.migration_state is DrState.FAILBACK_READY:
            return _Watched(reverse.base.taken_at, policy.failback.rpo_threshold if policy else None, "copy at the site")
        if s.point is None or s.migration_state in NO_CYCLES:
            return None
        return _Watched(s.point.taken_at, policy.rpo_threshold if policy else None, "recovery point")

    def _look_at_rpo(self) -> None:
        """Compare the latest copy's age with what the policy allows; each crossing is told once."""
        s, watched = self._state, self._watched()
        if s.point is not None:
            meters.point_committed(self._replication.ref, self._replication.vm_name, s.point.taken_at)
        if watched is None:
            s.rpo, s.rpo_exceeded = RpoWatch(), None  # cycles that begin again are told of a crossing anew
            return
        s.rpo, event = look(s.rpo, watched.taken_at, workflow.now(), watched.threshold, watched.what)
        if event is None:
            return
        s.rpo_exceeded = None
        if event.change is RpoChange.CROSSED:
            s.rpo_exceeded = health_error(FailureView(ErrorKind.RPO_EXCEEDED, event.sentence), event.at, retried=True)
        s.rpo_untold = (*s.rpo_untold, self._notice(event))
        workflow.logger.info("%s: %s", event.change, event.sentence)
        self._present()

    def _notice(self, event: RpoEvent) -> RpoNotice:
        return RpoNotice(
            workflow_id=workflow.info().workflow_id,
            ref=self._replication.ref,
            vm_name=self._replication.vm_name,
            change=event.change,
            at=event.at,
            rpo=event.rpo,
            threshold=event.threshold,
            sentence=event.sentence,
        )

    async def _watch_rpo(self) -> None:
        """Look again whenever a copy was committed, the policy changed, or the threshold is reached."""
        while True:
            self._look_at_rpo()
            seen = self._watched()
            at = self._next_crossing()
            timeout = max(at - workflow.now(), timedelta(milliseconds=1)) if at is not None else None
            summary = f"the RPO threshold is reached {at:%Y-%m-%d %H:%M:%S} UTC" if at is not None else None
            try:
                await workflow.wait_condition(
                    lambda seen=seen: self._watched() != seen,  # type: ignore[misc]
                    timeout=timeout,
                    timeout_summary=summary,
                )
            except TimeoutError:
                continue

    def _next_crossing(self) -> datetime | None:
        """Return when the threshold will be crossed; None where there is none to cross, or it is crossed already."""
        watched = self._watched()
        if watched is None or watched.threshold is None or self._state.rpo.crossed_at is not None:
            return None
        return crosses_at(watched.taken_at, watched.threshold)

    async def _tell_rpo(self) -> None:
        """Have the operators' webhook told of each crossing, in order; one that cannot be told in time is logged and left."""
        s = self._state
        while True:
            await workflow.wait_condition(lambda: bool(s.rpo_untold))
            notice = s.rpo_untold[0]
            try:
                await perform(
                    Notices.announce_rpo, notice, queue=names.CONTROL_QUEUE, limits=TELL, summary=f"tell: {notice.change.value}"
                )
            except FailureError as error:
                if is_cancelled_exception(error):
                    raise
                workflow.logger.warning("the webhook was not told of an RPO event: %s", failure_of(error).kind.value)
            s.rpo_untold = s.rpo_untold[1:]
