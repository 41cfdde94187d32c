"""What of a site does not belong, and what may be done about it: the decision of `SiteAudit`. Everything here is pure.

The order of reading makes it safe: first what lies about, then who exists. Whoever makes something exists before it does,
so that a thing without an owner had none when it was seen, and can get none: a replication's id is fresh for each enabling.
What the order does not cover (an answer that came late, a clock that is off) the grace time does.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from deltaferry.model.audit import (
    Existing,
    Finding,
    FindingCode,
    Owner,
    ResourceKind,
    RunningReplication,
    SeenContainer,
    SeenLease,
    SeenResource,
    SeenSnapshot,
    SeenSource,
    SeenTarget,
    SeenVm,
    Verdict,
)
from deltaferry.model.naming import SITES_CONTAINER, TEST_JOB_PREFIX, store_of_container
from deltaferry.model.replication import Store

DEFAULT_GRACE = timedelta(hours=1)
"""Nothing younger is touched or reported."""

_C, _V = FindingCode, Verdict


class Fate(Enum):
    """What has become of the replication that something belongs to."""

    FOREIGN = "another installation's"
    ELSEWHERE = "another site's"
    WORKING = "runs"
    PARKED = "runs, and waits for a person"
    ADOPTABLE = "does not run, and has a commit record"
    ENDED = "has just ended"
    UNSURE = "whether it runs is not known"
    GONE = "neither runs nor has a commit record"


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything that was seen of a site."""

    source: SeenSource
    target: SeenTarget
    leases: tuple[SeenLease, ...]


def fate(owner: Owner, existing: Existing) -> Fate:
    """Return what has become of a replication. In doubt it is one whose things are left alone."""
    if owner.installation != existing.installation:
        return Fate.FOREIGN
    rid = owner.replication_id
    if any(one.replication_id == rid for one in existing.ended):
        return Fate.ENDED
    recorded = next((one for one in existing.recorded if one.replication_id == rid), None)
    if recorded is not None and recorded.installation != existing.installation:
        return Fate.FOREIGN
    site = recorded.site if recorded is not None else owner.site
    if site and site != existing.site:
        return Fate.ELSEWHERE
    uuids = {owner.instance_uuid, recorded.instance_uuid if recorded is not None else ""} - {""}
    for running in existing.running:
        if running.replication_id == rid:
            return Fate.PARKED if running.parked else Fate.WORKING
        if running.replication_id is None and running.instance_uuid in uuids:
            return Fate.WORKING
    if recorded is not None or rid in existing.unreadable:
        return Fate.ADOPTABLE
    return Fate.GONE if uuids and site else Fate.UNSURE


def to_ask(seen: Seen) -> frozenset[str]:
    """Return the instance UUIDs of the VMs whose replications have to say which one they are, and what they do."""
    recorded = {owner.replication_id: owner for owner in seen.target.recorded}
    asked = {vm.instance_uuid for vm in seen.source.vms if any(snapshot.owner for snapshot in vm.snapshots)}
    asked |= {vm.instance_uuid for vm in seen.source.vms if vm.claim and vm.claim.replication_id not in recorded}
    owners = (container.owner for container in seen.target.containers)
    asked |= {owner.instance_uuid for owner in owners if owner and owner.replication_id not in recorded}
    asked |= {container.owner.instance_uuid for container in seen.target.containers if container.owner and container.stray}
    idle = (resource for resource in seen.target.resources if resource.open_access or not resource.in_use)
    asked |= {recorded[r.owner.replication_id].instance_uuid for r in idle if r.owner.replication_id in recorded}
    return frozenset(asked - {""})


def judge(seen: Seen, existing: Existing, now: datetime, grace: timedelta) -> tuple[Finding, ...]:
    """Return everything that does not belong, what is repaired first; nothing that is to be left alone is listed."""
    found = [
        *_on_vms(seen, existing, grace),
        *_records(seen.target, existing),
        *(finding for one in seen.target.containers for finding in _container(one, existing, now, grace)),
        *(finding for one in seen.target.resources for finding in _resource(one, existing, now, grace)),
    ]
    found += [finding for lease in seen.leases for finding in _lease(lease, seen.source, found, existing, now, grace)]
    order = list(FindingCode)
    return tuple(sorted(found, key=lambda f: (f.verdict is not _V.REPAIR, order.index(f.code), f.where, f.key)))


# --- the source side -------------------------------------------------------------------------------------------------


def _on_vms(seen: Seen, existing: Existing, grace: timedelta) -> Iterator[Finding]:
    held = {lease.instance_uuid for lease in seen.leases if lease.holder in existing.holders}
    now = seen.source.read_at
    for vm in seen.source.vms:
        snapshots = [finding for s in vm.snapshots for finding in _snapshot(vm, s, existing, now, grace, held)]
        yield from snapshots
        yield from _consolidation(vm, seen.target, existing, repaired={f.key for f in snapshots if f.verdict is _V.REPAIR})
        yield from _claim(vm, existing) if vm.made is None else _made(vm, vm.made, existing)


def _snapshot(
    vm: SeenVm, snapshot: SeenSnapshot, existing: Existing, now: datetime, grace: timedelta, held: set[str]
) -> Iterator[Finding]:
    if snapshot.owner is None or _young(snapshot.created_at, now, grace):
        return
    whose = fate(snapshot.owner, existing)
    rid = snapshot.owner.replication_id
    what = f"The snapshot {snapshot.name} of replication {rid}, which {whose.value}, is on the VM {vm.name}."
    place = (f"VM {vm.name}", snapshot.moref, rid, vm.instance_uuid)
    if whose is Fate.GONE or (whose is Fate.PARKED and vm.instance_uuid not in held):
        if snapshot.created_at is None:
            yield _finding(_C.SNAPSHOT, _V.REPORT, what, "Remove it in vCenter, without its children.", *place)
        else:
            yield _finding(
                _C.SNAPSHOT, _V.REPAIR, what, "It is removed without its children; the disks are consolidated.", *place
            )
    elif whose is Fate.ADOPTABLE:
        yield _finding(
            _C.SNAPSHOT, _V.REPORT, what, f"{_adopt(existing, vm.name)}; its first cycle removes the snapshot.", *place
        )


def _consolidation(vm: SeenVm, target: SeenTarget, existing: Existing, repaired: set[str]) -> Iterator[Finding]:
    """Whose VM it is tells the claim, our snapshots, and who replicates it or did so."""
    if not vm.consolidation_needed or repaired:  # removing a snapshot consolidates behind it
        return
    owners = [s.owner for s in vm.snapshots if s.owner] + ([vm.claim] if vm.claim else [])
    others = [*existing.recorded, *(container.owner for container in target.containers if container.owner)]
    owners += [owner for owner in others if owner.instance_uuid == vm.instance_uuid]
    fates = {fate(owner, existing) for owner in owners}
    if not fates or fates & {Fate.FOREIGN, Fate.ELSEWHERE, Fate.WORKING, Fate.ENDED, Fate.UNSURE}:
        return
    rid = owners[0].replication_id
    what = f"The disks of the VM {vm.name}, which replication {rid} has or had, need consolidation."
    place = (f"VM {vm.name}", vm.instance_uuid, rid, vm.instance_uuid)
    if fates == {Fate.GONE} and not vm.snapshots:
        yield _finding(_C.CONSOLIDATION_PENDING, _V.REPAIR, what, "The disks are consolidated.", *place)
    else:
        yield _finding(_C.CONSOLIDATION_PENDING, _V.REPORT, what, "Consolidate the VM's disks in vCenter.", *place)


def _claim(vm: SeenVm, existing: Existing) -> Iterator[Finding]:
    """Report a claim without an owner. It comes after the commit record: without one its replication cannot come back."""
    if vm.claim is None or fate(vm.claim, existing) is not Fate.GONE:
        return
    rid = vm.claim.replication_id
    what = f"The VM {vm.name} carries the claim of replication {rid}, which {Fate.GONE.value}: it cannot be enabled."
    remedy = "Remove the VM's advanced setting deltaferry.claim in vCenter; then it can be enabled again."
    yield _finding(_C.CLAIM, _V.REPORT, what, remedy, f"VM {vm.name}", vm.instance_uuid, rid, vm.instance_uuid)


def _made(vm: SeenVm, owner: Owner, existing: Existing) -> Iterator[Finding]:
    """Report a VM that was made for a failback to another place, and that nobody knows: it may be the last copy of its disks."""
    rid, whose = owner.replication_id, fate(owner, existing)
    recorded = next((one for one in existing.recorded if one.replication_id == rid), None)
    forgotten = recorded is not None and vm.instance_uuid not in recorded.made_vms
    if whose is Fate.GONE:
        why = f"which {whose.value}"
    elif forgotten and whose in (Fate.WORKING, Fate.PARKED, Fate.ADOPTABLE):
        why = "which does not know of it"
    else:
        return
    what = f"The VM {vm.name} was made for the failback of replication {rid}, {why}: it takes room, and cannot be enabled."
    remedy = (
        "Delete the VM in vCenter if nobody needs its disks; else remove its advanced settings "
        "deltaferry.made, deltaferry.failback and deltaferry.claim."
    )
    yield _finding(_C.MADE_VM, _V.REPORT, what, remedy, f"VM {vm.name}", vm.instance_uuid, rid, vm.instance_uuid)


def _lease(
    lease: SeenLease, source: SeenSource, found: Iterable[Finding], existing: Existing, now: datetime, grace: timedelta
) -> Iterator[Finding]:
    uuid = lease.instance_uuid
    runs = lease.holder in existing.holders or any(one.instance_uuid == uuid for one in existing.running)
    ended = any(one.instance_uuid == uuid for one in existing.ended)
    if runs or ended or _young(lease.granted_at, now, grace):
        return
    what = f"{lease.holder} holds slots of the site, and does not run."
    place = (lease.holder, lease.request_id, "", uuid)
    recorded = next((one for one in existing.recorded if one.instance_uuid == uuid), None)
    if recorded is not None or existing.unreadable or not uuid:
        yield _finding(_C.LEASE, _V.REPORT, what, f"{_adopt(existing, recorded.vm_name if recorded else '')}.", *place)
        return
    removed = {finding.key for finding in found if finding.code is _C.SNAPSHOT and finding.verdict is _V.REPAIR}
    ours = (s for vm in source.vms if vm.instance_uuid == uuid for s in vm.snapshots if s.owner)
    if any(snapshot.moref not in removed for snapshot in ours):
        yield _finding(
            _C.LEASE, _V.REPORT, what, "Remove the replication's snapshot from the VM first, then audit again.", *place
        )
    else:
        yield _finding(_C.LEASE, _V.REPAIR, what, "The slots are released.", *place)


# --- the target side -------------------------------------------------------------------------------------------------


def _records(target: SeenTarget, existing: Existing) -> Iterator[Finding]:
    for owner in existing.recorded:
        if fate(owner, existing) is Fate.ADOPTABLE:
            rid = owner.replication_id
            what = f"The replication {rid} of {owner.vm_name} does not run. Its seed disks, log and claim stay, and cost money."
            remedy = f"{_adopt(existing, owner.vm_name)}; then `deltaferry stop` if it is not wanted any more."
            yield _finding(_C.NOT_RUNNING, _V.REPORT, what, remedy, f"VM {owner.vm_name}", rid, rid, owner.instance_uuid)
    owners = {c.owner.replication_id: c.owner for c in target.containers if c.owner is not None}
    for rid in sorted(existing.unreadable):
        known = owners.get(rid)
        if known is None or fate(known, existing) is Fate.ADOPTABLE:
            what = f"The commit record of replication {rid} cannot be read by this version: nothing of it is touched."
            remedy = "Run `deltaferry adopt` with the version that wrote it, or look at the object by hand."
            yield _finding(_C.RECORD_UNREADABLE, _V.REPORT, what, remedy, f"container df-gw-{rid}", rid, rid)


_OF_STORE = {Store.LOG: _C.LOG_CONTAINER, Store.SEED: _C.SEED_DISKS, Store.GATEWAY: _C.BOOKKEEPING}
_CONTENT = {Store.LOG: "segments", Store.SEED: "seed disks", Store.GATEWAY: "bookkeeping and data key"}
_BY_HAND = {
    Store.SEED: "They are the VM's replica: delete the container only if the replica is of no use to anybody.",
    Store.GATEWAY: "Delete the container together with the seed disks: they are of no use without each other.",
    Store.LOG: "Delete the container.",
}


def _container(container: SeenContainer, existing: Existing, now: datetime, grace: timedelta) -> Iterator[Finding]:
    if container.name == SITES_CONTAINER or _young(container.created_at, now, grace):
        return
    where = f"container {container.name} of the {container.store.value} account"
    known = store_of_container(container.name)
    rid = known[1] if known is not None else ""
    owner = container.owner or next((one for one in existing.recorded if one.replication_id == rid), None)
    if owner is None:
        running = any(one.replication_id == rid for one in existing.running)
        ended = any(one.replication_id == rid for one in existing.ended)
        if not (running or ended or rid in existing.unreadable):
            what = f"The {where} does not say whose it is, and no replication that is known has it."
            remedy = "Find out which installation made it; delete it if none did that is still in use."
            yield _finding(_C.UNKNOWN_CONTAINER, _V.REPORT, what, remedy, where, container.name, rid)
        return
    whose = fate(owner, existing)
    uuid = owner.instance_uuid
    if whose is Fate.GONE:
        what = f"The {where} holds {_CONTENT[container.store]} of replication {rid}, which {whose.value}."
        safe = container.store is Store.LOG and known is not None and container.created_at is not None
        verdict, remedy = (_V.REPAIR, "It is deleted.") if safe else (_V.REPORT, _BY_HAND[container.store])
        yield _finding(_OF_STORE[container.store], verdict, what, remedy, where, container.name, rid, uuid)
    elif whose in (Fate.PARKED, Fate.ADOPTABLE) and container.stray:
        what = f"The {where} holds blobs that are no seed disks: {', '.join(container.stray[:5])}."
        remedy = "Find out who made them, and delete them if nobody needs them."
        yield _finding(_C.TEMPORARY_BLOBS, _V.REPORT, what, remedy, where, container.name, rid, uuid)


_OF_KIND = {
    ResourceKind.DISK: _C.MANAGED_DISK,
    ResourceKind.DISK_SNAPSHOT: _C.DISK_SNAPSHOT,
    ResourceKind.NETWORK_INTERFACE: _C.NETWORK_INTERFACE,
}


def _resource(resource: SeenResource, existing: Existing, now: datetime, grace: timedelta) -> Iterator[Finding]:
    """Report it: what a migration made may be all that there is of a VM. The snapshots of passes are deleted: no VM is lost with them."""
    if resource.kind is ResourceKind.VIRTUAL_MACHINE:
        yield from _test_vm(resource, existing, now, grace)
        return
    whose = fate(resource.owner, existing)
    if _young(resource.created_at, now, grace) or whose in (Fate.FOREIGN, Fate.ELSEWHERE, Fate.ENDED):
        return
    rid = resource.owner.replication_id
    busy = resource.kind is ResourceKind.DISK_SNAPSHOT or _has_jobs(rid, existing.running)
    if whose in (Fate.WORKING, Fate.PARKED) and busy:
        return
    name = resource.resource_id.rpartition("/")[2]
    place = (f"{resource.kind.value} {name}", resource.resource_id, rid, "")
    if resource.open_access:
        what = f"Access to the {resource.kind.value} {name} of replication {rid} was granted and has not been revoked."
        yield _finding(
            _C.OPEN_DISK_ACCESS, _V.REPORT, what, "Revoke it (`az disk revoke-access`, `az snapshot revoke-access`).", *place
        )
    if resource.kind is ResourceKind.DISK_SNAPSHOT and whose in (Fate.GONE, Fate.UNSURE) and resource.created_at is not None:
        what = f"The disk snapshot {name} is of replication {rid} back to its site, of which there is no commit record."
        yield _finding(_C.DISK_SNAPSHOT, _V.REPAIR, what, "It is deleted; the disk that it is of stays.", *place)
    elif not resource.in_use:
        what = f"No VM has the {resource.kind.value} {name}, which replication {rid} made and no migration needs now."
        yield _finding(_OF_KIND[resource.kind], _V.REPORT, what, "Delete it in Azure if nobody needs what is on it.", *place)


def _test_vm(vm: SeenResource, existing: Existing, now: datetime, grace: timedelta) -> Iterator[Finding]:
    """Report a test's VM of a replication that is gone. Any other VM is the customer's, whatever became of its replication."""
    is_gone = fate(vm.owner, existing) in (Fate.GONE, Fate.UNSURE)
    if not vm.job.startswith(TEST_JOB_PREFIX) or not is_gone or _young(vm.created_at, now, grace):
        return
    name, rid = vm.resource_id.rpartition("/")[2], vm.owner.replication_id
    what = f"The VM {name} is a test of replication {rid}, of which there is no commit record; it costs money."
    remedy = "Delete it in Azure with its disks and its network interface, if nobody uses it."
    yield _finding(_C.TEST_VM, _V.REPORT, what, remedy, f"{vm.kind.value} {name}", vm.resource_id, rid)


def _has_jobs(rid: str, running: Iterable[RunningReplication]) -> bool:
    return next((one.has_jobs for one in running if one.replication_id == rid), True)


def _young(created_at: datetime | None, now: datetime, grace: timedelta) -> bool:
    """Return whether something is within the grace time. What does not tell its age is not, and is never repaired."""
    return created_at is not None and now - created_at < grace


def _adopt(existing: Existing, vm_name: str) -> str:
    only = f" --vm {vm_name}" if vm_name else ""
    return f"Run `deltaferry adopt --site {existing.site}{only}`"


def _finding(
    code: FindingCode, verdict: Verdict, what: str, remedy: str, where: str, key: str, rid: str = "", vm: str = ""
) -> Finding:
    return Finding(code, verdict, what, where, remedy, key, rid, vm)
