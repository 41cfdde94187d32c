"""What of a replication lies in Azure, compared with what it says itself that it has there. Everything here is pure.

A replication that runs notes a test, a failover or a migration before anything of it is made, and forgets it when all of it is
deleted. So what was seen, and is none of what the replication names when it is asked afterwards, belongs to nothing any more:
it was left by a step that came too late, or by a run that was reset. Only copies are deleted (of a recovery point, by a test;
of a disk, by a pass back to the site): what a VM has, or a failover has made, may be all that there is of something.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta

from deltaferry.model.audit import (
    Existing,
    Finding,
    FindingCode,
    KnownInAzure,
    ResourceKind,
    RunningReplication,
    SeenContainer,
    SeenResource,
    SeenTarget,
    Verdict,
)
from deltaferry.model.naming import TEST_JOB_PREFIX, Owner, copies_prefix, disk_snapshot_prefix
from deltaferry.planning.fates import Fate, fate, new_finding, young

_C, _V = FindingCode, Verdict

OF_RESOURCES = frozenset({
    _C.MANAGED_DISK, _C.DISK_SNAPSHOT, _C.NETWORK_INTERFACE, _C.OPEN_DISK_ACCESS, _C.TEST_VM, _C.VIRTUAL_MACHINE,
})  # fmt: skip
"""Codes of what was seen through Azure Resource Manager: the key is a resource id."""

_OF_KIND: Mapping[ResourceKind, FindingCode] = {
    ResourceKind.DISK: _C.MANAGED_DISK,
    ResourceKind.DISK_SNAPSHOT: _C.DISK_SNAPSHOT,
    ResourceKind.NETWORK_INTERFACE: _C.NETWORK_INTERFACE,
    ResourceKind.VIRTUAL_MACHINE: _C.VIRTUAL_MACHINE,
}
_BY_HAND = "Delete it in Azure if nobody needs what is on it."
_REVOKE = "Revoke it (`az disk revoke-access`, `az snapshot revoke-access`)."


def in_azure(target: SeenTarget, existing: Existing, now: datetime, grace: timedelta) -> Iterator[Finding]:
    """Yield what does not belong of what carries our tags, and which VMs of a replication that runs are missing."""
    running = {one.replication_id: one for one in existing.running if one.replication_id is not None}
    for resource in target.resources:
        whose = fate(resource.owner, existing)
        if young(resource.created_at, now, grace) or whose in (Fate.FOREIGN, Fate.ELSEWHERE, Fate.ENDED):
            continue
        one = running.get(resource.owner.replication_id)
        if one is not None and one.known is not None and whose in (Fate.WORKING, Fate.PARKED):
            yield from _of_known(resource, one, one.known)
        elif resource.kind is ResourceKind.VIRTUAL_MACHINE:
            yield from _test_vm(resource, whose)
        else:
            yield from _of_unknown(resource, whose, one)
    for one in existing.running:
        yield from _missing(one, target, grace)


def left_copies(
    container: SeenContainer, owner: Owner, known: KnownInAzure, now: datetime, grace: timedelta
) -> Iterator[Finding]:
    """Yield the copies of recovery points that no test and no failover of a replication needs."""
    rid = owner.replication_id
    for copies in container.copies:
        if copies.job in known.jobs or young(copies.modified_at, now, grace):
            continue
        what = f"The container {container.name} holds copies of a recovery point that {copies.job} made, of which replication {rid} knows nothing."
        where = f"container {container.name}, {copies_prefix(copies.job)}"
        key = f"{container.name}/{copies_prefix(copies.job)}"
        yield new_finding(_C.POINT_COPIES, _V.REPAIR, what, "They are deleted.", where, key, rid, owner.instance_uuid)


def _of_known(resource: SeenResource, one: RunningReplication, known: KnownInAzure) -> Iterator[Finding]:
    """Judge a resource by what its replication says that it has."""
    rid = resource.owner.replication_id
    name = resource.resource_id.rpartition("/")[2]
    is_vm = resource.kind is ResourceKind.VIRTUAL_MACHINE
    place = (f"{resource.kind.value} {name}", resource.resource_id, rid, one.instance_uuid)
    by_test = resource.job.startswith(TEST_JOB_PREFIX)
    if resource.kind is ResourceKind.DISK_SNAPSHOT:
        if not known.takes_disk_snapshots and name not in known.disk_snapshots:
            yield from _left_snapshot(resource, name, place)
        return
    if resource.open_access and not one.has_jobs:
        what = f"Access to the {resource.kind.value} {name} of replication {rid} was granted and has not been revoked."
        yield new_finding(_C.OPEN_DISK_ACCESS, _V.REPORT, what, _REVOKE, *place)
    if resource.job in known.jobs or (not resource.job and (is_vm or one.has_jobs)) or (resource.in_use and not is_vm):
        return  # what a VM has is its: the VM is reported, or is somebody else's
    by = f", made by {resource.job}" if resource.job else ""
    if is_vm:
        what = f"The VM {name}{by}, is none that replication {rid} knows of; it costs money."
        remedy = "Delete it in Azure with its disks and its network interface, if nobody uses it."
        yield new_finding(_C.TEST_VM if by_test else _C.VIRTUAL_MACHINE, _V.REPORT, what, remedy, *place)
    elif by_test and resource.kind is ResourceKind.DISK and resource.created_at is not None:
        what = f"No VM has the disk {name}{by}, a copy of a recovery point, and replication {rid} knows nothing of that test."
        yield new_finding(_C.MANAGED_DISK, _V.REPAIR, what, "It is deleted.", *place)
    else:
        what = f"No VM has the {resource.kind.value} {name}{by}, and replication {rid} does not need it."
        yield new_finding(_OF_KIND[resource.kind], _V.REPORT, what, _BY_HAND, *place)


def _left_snapshot(resource: SeenResource, name: str, place: tuple[str, str, str, str]) -> Iterator[Finding]:
    """Judge a snapshot of a disk that no pass back to the site is compared with."""
    rid = resource.owner.replication_id
    what = f"No pass of replication {rid} back to its site needs the disk snapshot {name}."
    if resource.created_at is not None and name.startswith(disk_snapshot_prefix(rid)):
        yield new_finding(_C.DISK_SNAPSHOT, _V.REPAIR, what, "It is deleted; the disk that it is of stays.", *place)
    else:
        yield new_finding(_C.DISK_SNAPSHOT, _V.REPORT, what, _BY_HAND, *place)


def _of_unknown(resource: SeenResource, whose: Fate, one: RunningReplication | None) -> Iterator[Finding]:
    """Judge what may be a replication's that does not run, or has not said what it has.

    It is reported: what a migration made may be all that there is of a VM. Snapshots of passes are deleted: no VM is lost with them.
    """
    rid = resource.owner.replication_id
    busy = resource.kind is ResourceKind.DISK_SNAPSHOT or one is None or one.has_jobs
    if whose in (Fate.WORKING, Fate.PARKED) and busy:
        return
    name = resource.resource_id.rpartition("/")[2]
    place = (f"{resource.kind.value} {name}", resource.resource_id, rid, "")
    if resource.open_access:
        what = f"Access to the {resource.kind.value} {name} of replication {rid} was granted and has not been revoked."
        yield new_finding(_C.OPEN_DISK_ACCESS, _V.REPORT, what, _REVOKE, *place)
    if resource.kind is ResourceKind.DISK_SNAPSHOT and whose in (Fate.GONE, Fate.UNSURE) and resource.created_at is not None:
        what = f"The disk snapshot {name} is of replication {rid} back to its site, of which there is no commit record."
        yield new_finding(_C.DISK_SNAPSHOT, _V.REPAIR, what, "It is deleted; the disk that it is of stays.", *place)
    elif not resource.in_use:
        what = f"No VM has the {resource.kind.value} {name}, which replication {rid} made and no migration needs now."
        yield new_finding(_OF_KIND[resource.kind], _V.REPORT, what, _BY_HAND, *place)


def _test_vm(vm: SeenResource, whose: Fate) -> Iterator[Finding]:
    """Report a test's VM of a replication that is gone. Any other VM is the customer's, whatever became of its replication."""
    if not vm.job.startswith(TEST_JOB_PREFIX) or whose not in (Fate.GONE, Fate.UNSURE):
        return
    name, rid = vm.resource_id.rpartition("/")[2], vm.owner.replication_id
    what = f"The VM {name} is a test of replication {rid}, of which there is no commit record; it costs money."
    remedy = "Delete it in Azure with its disks and its network interface, if nobody uses it."
    yield new_finding(_C.TEST_VM, _V.REPORT, what, remedy, f"{vm.kind.value} {name}", vm.resource_id, rid)


def _missing(one: RunningReplication, target: SeenTarget, grace: timedelta) -> Iterator[Finding]:
    """Report VMs that a replication has had for longer than the grace time, and that were not where it made them."""
    if one.known is None or one.replication_id is None or target.read_at is None:
        return
    looked_at = {group.lower() for group in target.groups}
    there = {resource.resource_id.lower() for resource in target.resources if resource.kind is ResourceKind.VIRTUAL_MACHINE}
    for vm in one.known.vms:
        group, name = group_of(vm.resource_id), vm.resource_id.rpartition("/")[2]
        if target.read_at - vm.since < grace or group.lower() not in looked_at or vm.resource_id.lower() in there:
            continue
        what = f"The VM {name}, which replication {one.replication_id} has made, is not in the resource group {group} any more, or has lost its tags."
        remedy = "Find out who deleted it; `deltaferry status` says what can be done instead: clean_up, cancel_failover, resume, complete."
        yield new_finding(
            _C.VM_MISSING, _V.REPORT, what, remedy, f"VM {name}", vm.resource_id, one.replication_id, one.instance_uuid
        )


def group_of(resource_id: str) -> str:
    """Return the resource group in a resource id: `/subscriptions/<s>/resourceGroups/<group>/…`; empty for another text."""
    parts = resource_id.split("/")
    return parts[4] if len(parts) > 4 else ""
