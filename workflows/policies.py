"""Time limits and retry policies of every step, in one table.

Retries stop early for errors that the taxonomy calls final (`non_retryable`); a retryable error's own `retry_after`
overrides the interval. What a step may take in all is its `schedule_to_close`; None means that it is tried until it works.
"""

from dataclasses import dataclass
from datetime import timedelta

from temporalio.common import Priority, RetryPolicy

from deltaferry.model.errors import ErrorKind
from deltaferry.model.replication import CycleKind


@dataclass(frozen=True, slots=True)
class Step:
    """The limits of one kind of step."""

    start_to_close: timedelta
    heartbeat: timedelta | None
    schedule_to_start: timedelta | None
    schedule_to_close: timedelta | None
    retry: RetryPolicy


def _retry(*, initial_s: float, maximum_s: float, attempts: int = 0, but_not: tuple[ErrorKind, ...] = ()) -> RetryPolicy:
    return RetryPolicy(
        initial_interval=timedelta(seconds=initial_s),
        backoff_coefficient=2.0,
        maximum_interval=timedelta(seconds=maximum_s),
        maximum_attempts=attempts,
        non_retryable_error_types=[kind.value for kind in but_not],
    )


_HEARTBEAT = timedelta(seconds=30)
_NO_ROOM = (ErrorKind.DATASTORE_FULL,)
"""Not waited out inside a step that has a snapshot, or would take one: the workflow releases it and tries again later."""

ASK = Step(
    start_to_close=timedelta(minutes=2),
    heartbeat=None,
    schedule_to_start=timedelta(minutes=2),
    schedule_to_close=timedelta(minutes=10),
    retry=_retry(
        initial_s=1,
        maximum_s=10,
        attempts=5,
        but_not=(ErrorKind.VSPHERE_LOGIN_REJECTED, ErrorKind.AZURE_LOGIN_REJECTED, ErrorKind.STORE_ACCESS_DENIED),
    ),
)
"""A short reading on behalf of a person who waits for the answer: no worker, no answer or a refused credential fails soon."""

LOOK = Step(
    start_to_close=timedelta(minutes=2),
    heartbeat=None,
    schedule_to_start=timedelta(minutes=2),
    schedule_to_close=timedelta(minutes=4),
    retry=_retry(initial_s=1, maximum_s=1, attempts=1),
)
"""A short reading that another one follows soon."""

TELL = Step(
    start_to_close=timedelta(minutes=1),
    heartbeat=None,
    schedule_to_start=None,
    schedule_to_close=timedelta(hours=6),
    retry=_retry(initial_s=1, maximum_s=300),
)
"""Telling a receiver of ours what happened: an event of yesterday helps nobody."""

DISCOVER = Step(
    start_to_close=timedelta(minutes=10),
    heartbeat=_HEARTBEAT,
    schedule_to_start=timedelta(minutes=2),
    schedule_to_close=timedelta(minutes=15),
    retry=_retry(
        initial_s=1,
        maximum_s=30,
        attempts=5,
        but_not=(ErrorKind.VSPHERE_LOGIN_REJECTED, ErrorKind.STORE_ACCESS_DENIED),
    ),
)
"""Reading all VMs of a site: given up soon, since the next one on the schedule reads them again."""

PREPARE = Step(
    start_to_close=timedelta(minutes=20),
    heartbeat=_HEARTBEAT,
    schedule_to_start=None,
    schedule_to_close=timedelta(hours=2),
    retry=_retry(initial_s=1, maximum_s=60),
)
"""Something small is created on one side."""

SNAPSHOT = Step(
    start_to_close=timedelta(hours=1),
    heartbeat=_HEARTBEAT,
    schedule_to_start=None,
    schedule_to_close=timedelta(hours=6),
    retry=_retry(initial_s=1, maximum_s=60, but_not=_NO_ROOM),
)
"""Gates, snapshot, changed areas, plan."""

TOGETHER = Step(
    start_to_close=timedelta(minutes=20),
    heartbeat=_HEARTBEAT,
    schedule_to_start=timedelta(minutes=2),
    schedule_to_close=timedelta(minutes=30),
    retry=_retry(initial_s=1, maximum_s=5, attempts=3),
)
"""The snapshots of a replication group, and removing them where there is no shared point: all members are idle meanwhile."""

TRANSFER = Step(
    start_to_close=timedelta(hours=1),
    heartbeat=_HEARTBEAT,
    schedule_to_start=timedelta(minutes=10),
    schedule_to_close=timedelta(hours=2),
    retry=_retry(initial_s=1, maximum_s=30, but_not=_NO_ROOM),
)
"""One chunk of at most 15 minutes, from the snapshot to the log store. A dead appliance is noticed after 10 minutes."""

APPLY = Step(
    start_to_close=timedelta(hours=4),
    heartbeat=_HEARTBEAT,
    schedule_to_start=None,
    schedule_to_close=timedelta(hours=8),
    retry=_retry(initial_s=1, maximum_s=30),
)
"""One chunk from the log store onto the seed disks. A page blob takes 60 MiB/s, so that this may be the longer half."""

WRITE_BACK = Step(
    start_to_close=timedelta(hours=4),
    heartbeat=_HEARTBEAT,
    schedule_to_start=timedelta(minutes=10),
    schedule_to_close=timedelta(hours=8),
    retry=_retry(initial_s=1, maximum_s=30),
)
"""One chunk from the log store onto disks at the site, and all of it read back. A dead appliance is noticed after 10 minutes."""

VERIFY = Step(
    start_to_close=timedelta(hours=1),
    heartbeat=_HEARTBEAT,
    schedule_to_start=None,
    schedule_to_close=timedelta(hours=4),
    retry=_retry(initial_s=1, maximum_s=30),
)
"""Comparing sets and digests, sealing, taking the recovery point."""

RELEASE = Step(
    start_to_close=timedelta(hours=12),
    heartbeat=_HEARTBEAT,
    schedule_to_start=None,
    schedule_to_close=timedelta(hours=24),
    retry=_retry(initial_s=1, maximum_s=120),
)
"""Removing our snapshot and consolidating: never given up lightly, since a snapshot left behind fills the datastore."""

SETTLE = Step(
    start_to_close=timedelta(hours=1),
    heartbeat=_HEARTBEAT,
    schedule_to_start=None,
    schedule_to_close=None,
    retry=_retry(initial_s=1, maximum_s=120),
)
"""Writing the commit record and deleting what a commit made superfluous."""

POWER = Step(
    start_to_close=timedelta(hours=6),
    heartbeat=_HEARTBEAT,
    schedule_to_start=timedelta(minutes=10),
    schedule_to_close=timedelta(hours=6),
    retry=_retry(initial_s=1, maximum_s=30),
)
"""Shutting the source down or starting it; the guest's own time limit is in the input."""

TRY = Step(
    start_to_close=timedelta(minutes=6),
    heartbeat=_HEARTBEAT,
    schedule_to_start=timedelta(seconds=30),
    schedule_to_close=timedelta(minutes=7),
    retry=_retry(initial_s=1, maximum_s=1, attempts=1),
)
"""Something at a site that may be down, on the way to a failover: what does not succeed soon is not waited for."""

AZURE = Step(
    start_to_close=timedelta(hours=12),
    heartbeat=_HEARTBEAT,
    schedule_to_start=None,
    schedule_to_close=timedelta(hours=24),
    retry=_retry(initial_s=1, maximum_s=60, attempts=20),
)
"""A long-running operation of Azure Resource Manager; the import of a disk takes as long as the service needs."""

CLEAN = Step(
    start_to_close=timedelta(hours=6),
    heartbeat=_HEARTBEAT,
    schedule_to_start=None,
    schedule_to_close=timedelta(hours=6),
    retry=_retry(initial_s=1, maximum_s=120, attempts=30),
)
"""Deleting what is ours at the end; afterwards the workflow says what is left, and waits for `retry`."""

SCRIPT = Step(
    start_to_close=timedelta(hours=25),
    heartbeat=_HEARTBEAT,
    schedule_to_start=timedelta(minutes=5),
    schedule_to_close=None,
    retry=_retry(initial_s=1, maximum_s=1, attempts=1),
)
"""A recovery plan's script, with a time limit of its own. Run at most once: one that may have run is an operator's to retry."""

WEBHOOK = Step(
    start_to_close=timedelta(minutes=1),
    heartbeat=None,
    schedule_to_start=None,
    schedule_to_close=timedelta(hours=24),
    retry=_retry(initial_s=1, maximum_s=60, attempts=10),
)
"""A recovery plan's webhook; the step's own time limit takes the place of `schedule_to_close`."""

RUNBOOK = Step(
    start_to_close=timedelta(hours=25),
    heartbeat=_HEARTBEAT,
    schedule_to_start=timedelta(minutes=10),
    schedule_to_close=timedelta(hours=26),
    retry=_retry(initial_s=1, maximum_s=60),
)
"""A recovery plan's Automation runbook: its job has an id that the plan chose, so that another attempt finds it."""


_PRIORITIES = {
    CycleKind.FINAL: 1,
    CycleKind.ON_DEMAND: 1,
    CycleKind.INITIAL: 2,
    CycleKind.RESYNC: 3,
    CycleKind.DELTA: 4,
}


def priority(kind: CycleKind) -> Priority:
    """Return the task queue priority of a cycle's steps (spec §3): pre-failover delta, then IR, then resync, then delta."""
    return Priority(priority_key=_PRIORITIES[kind])


CYCLES_PER_RUN = 24
"""The entity continues as new after this many cycles, so that a history stays readable."""
