"""What a replication remembers of its tests, of its failover, and of what other workflows asked of it."""

from dataclasses import dataclass
from datetime import datetime

from deltaferry.model.policy import FailbackPolicy
from deltaferry.model.recovery_points import RecoveryPointRecord
from deltaferry.model.states import HealthError, JobOutcome, ReplicationState
from deltaferry.planning.dr_states import AnyReplicationState, DrState
from workflows.messages.operator_input import FailoverOptions, ReprotectOptions, TargetProperties, TestOptions
from workflows.messages.reverse_records import MadeVm, PassRecord, ReverseBase


@dataclass(frozen=True, slots=True)
class TestRun:
    """A test of the VM in Azure, from the request until all of it is deleted again."""

    number: int
    """Of the replication's tests and other jobs: names the workflow, the VM and its disks."""
    state: DrState
    job_id: str
    """Workflow id of what makes it, or deletes it."""
    options: TestOptions
    target: TargetProperties
    """Those of the replication at that time, with the test's own."""
    requested_at: datetime
    point: RecoveryPointRecord | None = None
    """From which point it is; None before one is chosen."""
    vm_id: str | None = None
    ready_at: datetime | None = None
    error: HealthError | None = None


@dataclass(frozen=True, slots=True)
class ReverseCopy:
    """How a failed-over VM is replicated back to its site, and brought home."""

    options: ReprotectOptions
    to_start: bool = True
    """A job that replicates back is to be started."""
    job_id: str = ""
    """That job's workflow id."""
    policy: FailbackPolicy | None = None
    """What that job was last told of the failback policy."""
    base: ReverseBase | None = None
    """What the disks at the site hold; with one, failback is possible."""
    last: PassRecord | None = None
    next_due: datetime | None = None
    start_target: bool = False
    """The VM in Azure is to be started first: a failback that was given up had stopped it."""
    nics_at_power_on: tuple[int, ...] = ()
    failback_job: str = ""
    """Workflow id of the failback while it runs; empty once its report was taken."""
    phases: tuple[tuple[str, float], ...] = ()
    """Of the failback: name and seconds of each phase, in order."""
    downtime_s: float | None = None
    information: tuple[str, ...] = ()
    undone: bool = False
    """All that replicating back made or changed was undone when it ended; else that is done before replication ends."""
    to_commit: bool = False
    """The failback is accepted as final: what is left in Azure is to be deleted."""
    site_vm: str = ""
    """Instance UUID of the VM that is made at another place, known before it exists; empty where the original is written to."""
    made: MadeVm | None = None
    """That VM, once it exists."""
    left_vms: tuple[str, ...] = ()
    """Instance UUIDs of VMs that earlier tries have made, or may have, and could not delete."""

    @property
    def vms_to_delete(self) -> tuple[str, ...]:
        """Instance UUIDs of all VMs that were made at another place, or may have been, and are not known to be deleted."""
        if self.undone:
            return ()
        return (*self.left_vms, *((self.site_vm,) if self.site_vm else ()))


@dataclass(frozen=True, slots=True)
class MadeInAzure:
    """What a job of a failover has made, or may have: all that is needed to delete it."""

    job: str
    """The tag by which it is known."""
    target: TargetProperties
    disk_keys: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FailoverState:
    """A failover, from the request until it is cancelled, or brought home and committed."""

    planned: bool
    requested_at: datetime
    target: TargetProperties
    options: FailoverOptions
    before: AnyReplicationState = ReplicationState.DELTA_SYNC
    """What the replication was in when it was asked for: cancelling goes back to that."""
    number: int = 0
    """Of the last job that was started for it."""
    job_id: str = ""
    """That job's workflow id while it runs; empty once its report was taken."""
    made: tuple[MadeInAzure, ...] = ()
    """All that its jobs may have left in Azure; the failed-over VM is the last one's."""
    holders: tuple[str, ...] = ()
    """Workflow ids in whose names points are pinned."""
    cancelled: bool = False
    """It is to be undone."""
    source_may_run: bool = False
    """It has cut a rollback that was powering the source on: how that ended is not known."""
    point: RecoveryPointRecord | None = None
    """What the VM in Azure was made from."""
    vm_id: str | None = None
    running_at: datetime | None = None
    information: tuple[str, ...] = ()
    phases: tuple[tuple[str, float], ...] = ()
    """Name and seconds of each phase, in order."""
    committed_at: datetime | None = None
    given_up_bytes: int = 0
    """What cycles had changed that were committed after the point that was chosen."""
    reverse: ReverseCopy | None = None


@dataclass(frozen=True, slots=True)
class ServedRequest:
    """What a workflow asked for, so that it is not done twice, and is answered when it has ended."""

    requester: str
    request_id: str
    operation: str
    accepted: bool
    number: int = 0
    """Of the job that it became: a test's."""
    outcome: JobOutcome | None = None
    """None while it goes on."""
    sentence: str = ""
    target_vm_id: str | None = None
