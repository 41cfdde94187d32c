"""How a replication watches the age of its latest recovery point, beside everything else that it does (spec §8)."""

from datetime import datetime, timedelta

from temporalio import workflow

from deltaferry.model.errors import ErrorKind
from deltaferry.planning.dr_states import NO_CYCLES
from deltaferry.planning.rpo import RpoChange, RpoWatch, crosses_at, look
from workflows.entity_tests import EntityTests
from workflows.replication_state import FailureView
from workflows.steps import health_error


class EntityRpo(EntityTests):
    """Raises a health error when the policy's threshold is crossed, and takes it back when it is not any more."""

    def _look_at_rpo(self) -> None:
        """Compare the latest recovery point's age with what the policy allows; each crossing is told once."""
        s = self._state
        if s.point is None or s.migration_state in NO_CYCLES:
            s.rpo, s.rpo_exceeded = RpoWatch(), None  # cycles that begin again are told of a crossing anew
            return
        threshold = s.policy.rpo_threshold if s.policy is not None else None
        s.rpo, event = look(s.rpo, s.point.taken_at, workflow.now(), threshold)
        if event is None:
            return
        s.rpo_exceeded = None
        if event.change is RpoChange.CROSSED:
            s.rpo_exceeded = health_error(FailureView(ErrorKind.RPO_EXCEEDED, event.sentence), event.at, retried=True)
        workflow.logger.info("%s: %s", event.change, event.sentence)
        self._present()

    async def _watch_rpo(self) -> None:
        """Look again whenever a point was committed, the policy changed, or the threshold is reached."""
        s = self._state
        while True:
            self._look_at_rpo()
            seen = (s.point, s.policy, s.migration_state in NO_CYCLES)
            at = self._next_crossing()
            timeout = max(at - workflow.now(), timedelta(milliseconds=1)) if at is not None else None
            summary = f"the RPO threshold is reached {at:%Y-%m-%d %H:%M:%S} UTC" if at is not None else None
            try:
                await workflow.wait_condition(
                    lambda seen=seen: (s.point, s.policy, s.migration_state in NO_CYCLES) != seen,  # type: ignore[misc]
                    timeout=timeout,
                    timeout_summary=summary,
                )
            except TimeoutError:
                continue

    def _next_crossing(self) -> datetime | None:
        """Return when the threshold will be crossed; None where there is none to cross, or it is crossed already."""
        s = self._state
        watched = s.policy is not None and s.point is not None and s.migration_state not in NO_CYCLES
        if not watched or s.rpo.crossed_at is not None:
            return None
        assert s.policy is not None and s.point is not None
        return crosses_at(s.point.taken_at, s.policy.rpo_threshold)
