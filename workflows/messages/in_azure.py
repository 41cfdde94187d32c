"""What a replication knows of what is its own in Azure: an audit compares it with what is there (decision 17)."""

from deltaferry.model.audit import KnownInAzure, KnownVm
from deltaferry.model.states import MigrationState
from deltaferry.planning.dr_states import IN_FAILOVER, DrState
from workflows.messages.dr_state import FailoverState
from workflows.messages.job import migration_job, planned_job, point_job, test_job
from workflows.messages.replication_state import EntityState

_BEING_CHANGED = frozenset({DrState.FAILOVER_IN_PROGRESS, DrState.FAILOVER_FAILED})
"""States of a failover in which its VM is being made, replaced or deleted, or there is none."""


def known_in_azure(state: EntityState) -> KnownInAzure:
    """Return what a replication has in Azure, or may have. Right at any moment: the state says so before anything is made."""
    jobs = {test_job(test.number) for test in state.tests}
    jobs |= {made.job for made in state.left_by_migrations} | set(state.left_to_owner)
    if state.migration_state in (MigrationState.MIGRATION_IN_PROGRESS, MigrationState.MIGRATED):
        jobs.add(migration_job(job_of(state.job_id)))
    vms = [
        KnownVm(test.vm_id, test.ready_at)
        for test in state.tests
        if test.state is DrState.CLEAN_UP_PENDING and test.vm_id and test.ready_at
    ]
    result = state.migration
    if state.migration_state is MigrationState.MIGRATED and result is not None and result.target_vm_id and state.migrated_at:
        vms.append(KnownVm(result.target_vm_id, state.migrated_at))
    failover = state.failover
    if failover is None:
        return KnownInAzure(tuple(sorted(jobs)), tuple(vms))
    jobs |= {made.job for made in failover.made} | {point_job(failover.number), planned_job(failover.number)}
    reverse = failover.reverse
    stays = state.migration_state in IN_FAILOVER - _BEING_CHANGED and (reverse is None or not reverse.to_commit)
    if stays and failover.vm_id and failover.running_at:
        vms.append(KnownVm(failover.vm_id, failover.running_at))
    return KnownInAzure(
        jobs=tuple(sorted(jobs)),
        vms=tuple(vms),
        disk_snapshots=_compared_with(failover),
        takes_disk_snapshots=reverse is not None
        and bool(reverse.job_id or reverse.failback_job or reverse.to_start or reverse.to_commit),
    )


def _compared_with(failover: FailoverState) -> tuple[str, ...]:
    base = failover.reverse.base if failover.reverse is not None else None
    return tuple(name for _, name in base.snapshots) if base is not None else ()


def job_of(job_id: str | None) -> int:
    """Return the number in a job's workflow id; 0 where there is none."""
    number = (job_id or "").rpartition("/")[2]
    return int(number) if number.isdecimal() else 0
