"""A job's side of its replication: it reports how it ended, and waits where the replication does not run at that moment."""

from collections.abc import Awaitable
from datetime import timedelta
from typing import TypeVar

from temporalio import workflow

from workflows import names
from workflows.messages.job import JobReport
from workflows.steps import told

T = TypeVar("T")

_FIRST_WAIT = timedelta(minutes=1)
_LONGEST_WAIT = timedelta(hours=1)


class ReportingJob:
    """What the workflows share that a replication starts, and that outlive its runs."""

    _entity_adopted = False

    @workflow.signal(
        name=names.ENTITY_ADOPTED, description="Sent by a replication that runs again: it may have missed the report."
    )
    def entity_adopted(self) -> None:
        """Report at once."""
        self._entity_adopted = True

    async def deliver(self, entity_id: str, report: JobReport) -> None:
        """Report to the replication; while it does not run (terminated, say), wait until it is adopted.

        A cancellation ends the wait, and the report is lost.
        """
        wait = _FIRST_WAIT
        while not await report_once(entity_id, report):
            workflow.set_current_details("It has ended; its result waits for the replication to be adopted (`deltaferry adopt`).")
            try:
                await workflow.wait_condition(
                    lambda: self._entity_adopted, timeout=wait, timeout_summary="waiting for the replication to be adopted"
                )
            except TimeoutError:
                wait = min(wait * 2, _LONGEST_WAIT)
            self._entity_adopted = False


async def in_phase(phases: list[tuple[str, float]], name: str, work: Awaitable[T]) -> T:
    """Carry out a phase of a job, and note in `phases` how many seconds it took."""
    workflow.set_current_details(f"**{name}** since {workflow.now():%H:%M:%S} UTC")
    begun = workflow.now()
    try:
        return await work
    finally:
        phases.append((name, round((workflow.now() - begun).total_seconds(), 3)))


async def report_once(entity_id: str, report: JobReport) -> bool:
    """Report to the replication; return whether it runs."""
    return await told(entity_id, names.JOB_FINISHED, report)


async def is_running(job_id: str) -> bool:
    """Return whether a job runs, and have it report again what a replication may have missed."""
    return await told(job_id, names.ENTITY_ADOPTED)
