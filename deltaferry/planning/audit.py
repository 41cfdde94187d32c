"""What of a site does not belong, and what may be done about it: the decision of `SiteAudit`. Everything here is pure.

The order of reading makes it safe: first what lies about, then who exists. Whoever makes something exists before it does,
so that a thing without an owner had none when it was seen, and can get none: a replication's id is fresh for each enabling.
What the order does not cover (an answer that came late, a clock that is off) the grace time does.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from deltaferry.model.audit import (
    Existing,
    Finding,
    FindingCode,
    SeenContainer,
    SeenLease,
    SeenSnapshot,
    SeenSource,
    SeenTarget,
    SeenVm,
    Verdict,
)
from deltaferry.model.naming import COPIES_PREFIX, SITES_CONTAINER, Owner, store_of_container
from deltaferry.model.replication import Store
from deltaferry.planning.audit_azure import in_azure, left_copies
from deltaferry.planning.fates import Fate, fate, new_finding, young

DEFAULT_GRACE = timedelta(hours=1)
"""Nothing younger is touched or reported."""

_C, _V = FindingCode, Verdict


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything that was seen of a site."""

    source: SeenSource
    target: SeenTarget
    leases: tuple[SeenLease, ...]


def to_ask(seen: Seen) -> frozenset[str]:
    """Return the instance UUIDs of the VMs whose replications have to say which one they are, and what they do."""
    recorded = {owner.replication_id: owner for owner in seen.target.recorded}
    asked = {vm.instance_uuid for vm in seen.source.vms if any(snapshot.owner for snapshot in vm.snapshots)}
    asked |= {vm.instance_uuid for vm in seen.source.vms if vm.claim and vm.claim.replication_id not in recorded}
    owners = (container.owner for container in seen.target.containers)
    asked |= {owner.instance_uuid for owner in owners if owner and owner.replication_id not in recorded}
    asked |= {container.owner.instance_uuid for container in seen.target.containers if container.owner and container.stray}
    doubtful = (r for r in seen.target.resources if r.job or r.open_access or not r.in_use)
    asked |= {recorded[r.owner.replication_id].instance_uuid for r in doubtful if r.owner.replication_id in recorded}
    return frozenset(asked - {""})


def judge(seen: Seen, existing: Existing, now: datetime, grace: timedelta) -> tuple[Finding, ...]:
    """Return everything that does not belong, what is repaired first; nothing that is to be left alone is listed."""
    found = [
        *_on_vms(seen, existing, grace),
        *_records(seen.target, existing),
        *(finding for one in seen.target.containers for finding in _container(one, existing, now, grace)),
        *in_azure(seen.target, existing, now, grace),
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
    if snapshot.owner is None or young(snapshot.created_at, now, grace):
        return
    whose = fate(snapshot.owner, existing)
    rid = snapshot.owner.replication_id
    what = f"The snapshot {snapshot.name} of replication {rid}, which {whose.value}, is on the VM {vm.name}."
    place = (f"VM {vm.name}", snapshot.moref, rid, vm.instance_uuid)
    if whose is Fate.GONE or (whose is Fate.PARKED and vm.instance_uuid not in held):
        if snapshot.created_at is None:
            yield new_finding(_C.SNAPSHOT, _V.REPORT, what, "Remove it in vCenter, without its children.", *place)
        else:
            yield new_finding(
                _C.SNAPSHOT, _V.REPAIR, what, "It is removed without its children; the disks are consolidated.", *place
            )
    elif whose is Fate.ADOPTABLE:
        yield new_finding(
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
        yield new_finding(_C.CONSOLIDATION_PENDING, _V.REPAIR, what, "The disks are consolidated.", *place)
    else:
        yield new_finding(_C.CONSOLIDATION_PENDING, _V.REPORT, what, "Consolidate the VM's disks in vCenter.", *place)


def _claim(vm: SeenVm, existing: Existing) -> Iterator[Finding]:
    """Report a claim without an owner. It comes after the commit record: without one its replication cannot come back."""
    if vm.claim is None or fate(vm.claim, existing) is not Fate.GONE:
        return
    rid = vm.claim.replication_id
    what = f"The VM {vm.name} carries the claim of replication {rid}, which {Fate.GONE.value}: it cannot be enabled."
    remedy = "Remove the VM's advanced setting deltaferry.claim in vCenter; then it can be enabled again."
    yield new_finding(_C.CLAIM, _V.REPORT, what, remedy, f"VM {vm.name}", vm.instance_uuid, rid, vm.instance_uuid)


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
    yield new_finding(_C.MADE_VM, _V.REPORT, what, remedy, f"VM {vm.name}", vm.instance_uuid, rid, vm.instance_uuid)


def _lease(
    lease: SeenLease, source: SeenSource, found: Iterable[Finding], existing: Existing, now: datetime, grace: timedelta
) -> Iterator[Finding]:
    uuid = lease.instance_uuid
    runs = lease.holder in existing.holders or any(one.instance_uuid == uuid for one in existing.running)
    ended = any(one.instance_uuid == uuid for one in existing.ended)
    if runs or ended or young(lease.granted_at, now, grace):
        return
    what = f"{lease.holder} holds slots of the site, and does not run."
    place = (lease.holder, lease.request_id, "", uuid)
    recorded = next((one for one in existing.recorded if one.instance_uuid == uuid), None)
    if recorded is not None or existing.unreadable or not uuid:
        yield new_finding(_C.LEASE, _V.REPORT, what, f"{_adopt(existing, recorded.vm_name if recorded else '')}.", *place)
        return
    removed = {finding.key for finding in found if finding.code is _C.SNAPSHOT and finding.verdict is _V.REPAIR}
    ours = (s for vm in source.vms if vm.instance_uuid == uuid for s in vm.snapshots if s.owner)
    if any(snapshot.moref not in removed for snapshot in ours):
        yield new_finding(
            _C.LEASE, _V.REPORT, what, "Remove the replication's snapshot from the VM first, then audit again.", *place
        )
    else:
        yield new_finding(_C.LEASE, _V.REPAIR, what, "The slots are released.", *place)


# --- the target side -------------------------------------------------------------------------------------------------


def _records(target: SeenTarget, existing: Existing) -> Iterator[Finding]:
    for owner in existing.recorded:
        if fate(owner, existing) is Fate.ADOPTABLE:
            rid = owner.replication_id
            what = f"The replication {rid} of {owner.vm_name} does not run. Its seed disks, log and claim stay, and cost money."
            remedy = f"{_adopt(existing, owner.vm_name)}; then `deltaferry stop` if it is not wanted any more."
            yield new_finding(_C.NOT_RUNNING, _V.REPORT, what, remedy, f"VM {owner.vm_name}", rid, rid, owner.instance_uuid)
    owners = {c.owner.replication_id: c.owner for c in target.containers if c.owner is not None}
    for rid in sorted(existing.unreadable):
        known = owners.get(rid)
        if known is None or fate(known, existing) is Fate.ADOPTABLE:
            what = f"The commit record of replication {rid} cannot be read by this version: nothing of it is touched."
            remedy = "Run `deltaferry adopt` with the version that wrote it, or look at the object by hand."
            yield new_finding(_C.RECORD_UNREADABLE, _V.REPORT, what, remedy, f"container df-gw-{rid}", rid, rid)


_OF_STORE = {Store.LOG: _C.LOG_CONTAINER, Store.SEED: _C.SEED_DISKS, Store.GATEWAY: _C.BOOKKEEPING}
_CONTENT = {Store.LOG: "segments", Store.SEED: "seed disks", Store.GATEWAY: "bookkeeping and data key"}
_BY_HAND = {
    Store.SEED: "They are the VM's replica: delete the container only if the replica is of no use to anybody.",
    Store.GATEWAY: "Delete the container together with the seed disks: they are of no use without each other.",
    Store.LOG: "Delete the container.",
}


def _container(container: SeenContainer, existing: Existing, now: datetime, grace: timedelta) -> Iterator[Finding]:
    if container.name == SITES_CONTAINER or young(container.created_at, now, grace):
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
            yield new_finding(_C.UNKNOWN_CONTAINER, _V.REPORT, what, remedy, where, container.name, rid)
        return
    whose = fate(owner, existing)
    uuid = owner.instance_uuid
    if whose is Fate.GONE:
        what = f"The {where} holds {_CONTENT[container.store]} of replication {rid}, which {whose.value}."
        safe = container.store is Store.LOG and known is not None and container.created_at is not None
        verdict, remedy = (_V.REPAIR, "It is deleted.") if safe else (_V.REPORT, _BY_HAND[container.store])
        yield new_finding(_OF_STORE[container.store], verdict, what, remedy, where, container.name, rid, uuid)
        return
    knows = next((one.known for one in existing.running if one.replication_id == owner.replication_id), None)
    stray = container.stray
    if knows is not None and whose in (Fate.WORKING, Fate.PARKED):
        stray = tuple(name for name in stray if not name.startswith(COPIES_PREFIX))
        yield from left_copies(container, owner, knows, now, grace)
    if whose in (Fate.PARKED, Fate.ADOPTABLE) and stray:
        what = f"The {where} holds blobs that are no seed disks: {', '.join(stray[:5])}."
        remedy = "Find out who made them, and delete them if nobody needs them."
        yield new_finding(_C.TEMPORARY_BLOBS, _V.REPORT, what, remedy, where, container.name, rid, uuid)


def _adopt(existing: Existing, vm_name: str) -> str:
    only = f" --vm {vm_name}" if vm_name else ""
    return f"Run `deltaferry adopt --site {existing.site}{only}`"
