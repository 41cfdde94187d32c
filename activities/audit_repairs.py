"""An audit's hands: what is ours, needed by nobody, and safe to take away.

Between the judgement and its execution the world goes on. So whatever is repaired is judged once more, by the same function,
from what is there at that moment: things first, then who exists. What no longer has the same verdict is passed over.
A snapshot is safe to remove once its replication was seen without need for it: one cycle key means one snapshot, ever, so
that a cycle which begins in the meantime takes another.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime, timedelta

from temporalio import activity

from activities.adapters import Site, Stores, Target
from activities.audit import (
    REPORT,
    REPORT_PART,
    TARGET,
    TARGET_PART,
    load,
    owners,
    result,
    seen_container,
    seen_seeds,
    seen_vm,
    store,
    unreadable,
)
from activities.commit_records import read_record
from activities.failures import translated
from activities.holders import Holders
from activities.progress import Heartbeats
from deltaferry.model.audit import (
    AUDIT_VERSION,
    Existing,
    Finding,
    FindingCode,
    Outcome,
    SeenContainer,
    SeenLease,
    SeenResource,
    SeenSource,
    SeenTarget,
    SeenVm,
    Verdict,
)
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.naming import GATEWAY_CONTAINER_PREFIX, INSTALLATION_TAG, JOB_TAG, REPLICATION_TAG, Owner, job_of_copy
from deltaferry.model.replication import ReplicationRef, Store
from deltaferry.model.vm import Claim
from deltaferry.planning.audit import Seen, judge
from deltaferry.planning.audit_azure import group_of
from deltaferry.planning.fates import Fate, fate
from deltaferry.ports.access import Beat
from deltaferry.ports.stores import ObjectStore
from workflows.messages.audit import AuditResult, AuditStep

_ON_SOURCE = (FindingCode.SNAPSHOT, FindingCode.CONSOLIDATION_PENDING, FindingCode.LEASE)
"""In this order: slots are free when the snapshots are gone."""
_ON_TARGET = (FindingCode.LOG_CONTAINER, FindingCode.DISK_SNAPSHOT, FindingCode.MANAGED_DISK, FindingCode.POINT_COPIES)

_AHEAD = timedelta(days=1)
"""The age was judged already, by the clock that it is of: another machine's, which may be behind, does not count again."""

_Delete = Callable[[str, str, Mapping[str, str], Beat], None]
"""Deletes a resource by resource group and name, if it carries the tags."""

Repair = Callable[[Finding, Beat], bool]
"""Repairs a finding; returns False where it has no longer the same verdict."""


class AuditSourceRepairs:
    """Removes snapshots without an owner, consolidates, and has slots released."""

    def __init__(self, sites: Mapping[str, Site], holders: Holders) -> None:
        self._sites = sites
        self._holders = holders

    @activity.defn
    @translated
    def repair_source(self, request: AuditStep) -> AuditResult:
        """Repair what the report says of the source side; what fails is noted in it, and the rest goes on."""
        beats = Heartbeats("removing what nobody needs from the site's VMs")
        site = self._sites[request.profile.site]
        look = _Look(request, site.stores.gateway, self._holders)
        repairs: Mapping[FindingCode, Repair] = {
            FindingCode.SNAPSHOT: lambda finding, beat: self._remove_snapshot(site, look, finding, beat),
            FindingCode.CONSOLIDATION_PENDING: lambda finding, beat: self._consolidate(site, look, finding, beat),
            FindingCode.LEASE: lambda finding, _: self._release(site, look, finding),
        }
        return _carry_out(site.stores.gateway, request, _ON_SOURCE, repairs, beats.beat)

    def _remove_snapshot(self, site: Site, look: "_Look", finding: Finding, beat: Beat) -> bool:
        vm = _read_vm(site, finding.instance_uuid)
        if vm is None:
            return False
        leases = self._holders.leases(look.site)
        if any(snapshot.moref == finding.key for snapshot in vm.snapshots):
            if not look.still(finding, vms=(vm,), leases=leases):
                return False
            site.hypervisor.remove_snapshot(finding.instance_uuid, finding.key, beat)
        elif not vm.consolidation_needed or not look.has_no_use(finding, vm, leases):
            return False  # else an earlier attempt has removed it, and got no further
        after = site.hypervisor.read_vm(finding.instance_uuid)
        if after.claim in (None, Claim(look.installation, finding.replication_id)):
            site.hypervisor.consolidate(finding.instance_uuid, beat)  # else whoever has claimed it since may be working on it
        return True

    def _consolidate(self, site: Site, look: "_Look", finding: Finding, beat: Beat) -> bool:
        vm = _read_vm(site, finding.instance_uuid)
        if vm is None or not look.still(finding, vms=(vm,)):
            return False
        site.hypervisor.consolidate(finding.instance_uuid, beat)
        return True

    def _release(self, site: Site, look: "_Look", finding: Finding) -> bool:
        vm = _read_vm(site, finding.instance_uuid)
        leases = tuple(lease for lease in self._holders.leases(look.site) if lease.request_id == finding.key)
        if not look.still(finding, vms=(vm,) if vm is not None else (), leases=leases):
            return False
        for lease in leases:
            self._holders.release(look.site, lease)
        return True


class AuditTargetRepairs:
    """Deletes what nobody needs: logs, snapshots of managed disks, and copies of recovery points."""

    def __init__(self, targets: Mapping[str, Target], holders: Holders) -> None:
        self._targets = targets
        self._holders = holders

    @activity.defn
    @translated
    def repair_target(self, request: AuditStep) -> AuditResult:
        """Repair what the report says of the target side; what fails is noted in it, and the rest goes on."""
        beats = Heartbeats("deleting what nobody needs from the stores")
        target = self._targets[request.profile.target]
        stores = target.stores
        look = _Look(request, stores.gateway, self._holders)
        repairs: Mapping[FindingCode, Repair] = {
            FindingCode.LOG_CONTAINER: lambda finding, _: self._delete_log(stores, look, finding),
            FindingCode.DISK_SNAPSHOT: lambda finding, beat: self._delete_resource(
                target, look, finding, target.cloud.delete_disk_snapshot, beat
            ),
            FindingCode.MANAGED_DISK: lambda finding, beat: self._delete_resource(
                target, look, finding, target.cloud.delete_disk, beat
            ),
            FindingCode.POINT_COPIES: lambda finding, beat: self._delete_copies(target, look, finding, beat),
        }
        return _carry_out(stores.gateway, request, _ON_TARGET, repairs, beats.beat)

    def _delete_log(self, stores: Stores, look: "_Look", finding: Finding) -> bool:
        listed = stores.log.describe_containers(finding.key)
        containers = tuple(seen_container(Store.LOG, one) for one in listed if one.name == finding.key)
        if not look.still(finding, containers=containers):
            return False
        stores.log.delete_container(finding.key)
        return True

    def _delete_copies(self, target: Target, look: "_Look", finding: Finding, beat: Beat) -> bool:
        container, _, prefix = finding.key.partition("/")
        listed = target.stores.seeds.describe_containers(container)
        containers = tuple(seen_seeds(target.stores, one) for one in listed if one.name == container)
        job = job_of_copy(f"{prefix}any")
        if job is None or not look.still(finding, containers=containers):
            return False
        ref = ReplicationRef(look.installation, look.site, target.name, finding.instance_uuid, finding.replication_id)
        target.points.delete_copies(ref, job, beat)
        return True

    def _delete_resource(self, target: Target, look: "_Look", finding: Finding, delete: "_Delete", beat: Beat) -> bool:
        group, name = group_of(finding.key), finding.key.rpartition("/")[2]
        listed = target.cloud.list_owned(group, look.installation, beat)
        found = tuple(resource for resource in listed if resource.resource_id == finding.key)
        if not look.still(finding, resources=found):
            return False
        tags = {INSTALLATION_TAG: look.installation, REPLICATION_TAG: finding.replication_id}
        delete(group, name, tags | ({JOB_TAG: found[0].job} if found[0].job else {}), beat)
        return True


class _Look:
    """Judges one finding again, from what is there now."""

    def __init__(self, request: AuditStep, gateway: ObjectStore, holders: Holders) -> None:
        self.installation = request.profile.installation
        self.site = request.profile.site
        self._gateway = gateway
        self._holders = holders
        self._before = load(gateway, request, TARGET_PART, TARGET)

    def still(
        self,
        finding: Finding,
        *,
        vms: tuple[SeenVm, ...] = (),
        containers: tuple[SeenContainer, ...] = (),
        leases: tuple[SeenLease, ...] = (),
        resources: tuple[SeenResource, ...] = (),
    ) -> bool:
        """Return whether a finding is one that is repaired, now that these things are there. Raises what reading raises."""
        known = containers or tuple(
            c for c in self._before.containers if c.owner and c.owner.instance_uuid == finding.instance_uuid
        )
        now = datetime.now(UTC) + _AHEAD
        target = SeenTarget(AUDIT_VERSION, self._before.recorded, (), known, resources)
        seen = Seen(SeenSource(AUDIT_VERSION, now, vms), target, leases)
        judged = judge(seen, self._existing(finding, seen), now, timedelta(0))
        wanted = (finding.code, finding.key, Verdict.REPAIR)
        return any((one.code, one.key, one.verdict) == wanted for one in judged)

    def has_no_use(self, finding: Finding, vm: SeenVm, leases: tuple[SeenLease, ...]) -> bool:
        """Return whether a finding's replication is gone, or waits for a person and holds nothing."""
        seen = Seen(SeenSource(AUDIT_VERSION, datetime.now(UTC), (vm,)), SeenTarget(AUDIT_VERSION, (), (), (), ()), leases)
        existing = self._existing(finding, seen)
        owner = Owner(self.installation, finding.replication_id, self.site, finding.instance_uuid)
        held = any(lease.instance_uuid == finding.instance_uuid and lease.holder in existing.holders for lease in leases)
        return not held and fate(owner, existing) in (Fate.GONE, Fate.PARKED)

    def _existing(self, finding: Finding, seen: Seen) -> Existing:
        """Return who exists of those that the things of one VM may belong to; the records first, then who runs."""
        whose = [vm.claim for vm in seen.source.vms if vm.claim]
        whose += [snapshot.owner for vm in seen.source.vms for snapshot in vm.snapshots if snapshot.owner]
        whose += [container.owner for container in seen.target.containers if container.owner]
        ids = {owner.replication_id for owner in whose} | ({finding.replication_id} - {""})
        ids |= {o.replication_id for o in self._before.recorded if o.instance_uuid == finding.instance_uuid}
        records = [read_record(self._gateway, f"{GATEWAY_CONTAINER_PREFIX}{replication_id}") for replication_id in sorted(ids)]
        answer = self._holders.ask(self.site, finding.instance_uuid) if finding.instance_uuid else None
        recorded = owners(records)
        return Existing(
            installation=self.installation,
            site=self.site,
            recorded=recorded,
            unreadable=frozenset(unreadable(records)),
            ended=_ended(self._before.recorded, ids, recorded),
            running=(answer,) if answer is not None else (),
            holders=frozenset(lease.holder for lease in seen.leases if self._holders.runs(lease.holder)),
        )


def _ended(before: Collection[Owner], ids: Collection[str], now: Collection[Owner]) -> tuple[Owner, ...]:
    present = {owner.replication_id for owner in now}
    return tuple(owner for owner in before if owner.replication_id in ids and owner.replication_id not in present)


def _read_vm(site: Site, instance_uuid: str) -> SeenVm | None:
    try:
        return seen_vm(site.hypervisor.read_vm(instance_uuid), site.profile.site)
    except DeltaferryError as error:
        if error.kind is ErrorKind.VM_NOT_FOUND:
            return None
        raise


def _carry_out(
    gateway: ObjectStore, request: AuditStep, codes: tuple[FindingCode, ...], repairs: Mapping[FindingCode, Repair], beat: Beat
) -> AuditResult:
    """Repair the report's findings of these codes, in the codes' order, and store what became of them."""
    report = load(gateway, request, REPORT_PART, REPORT)
    findings = list(report.findings)
    for code in codes:
        for index, finding in enumerate(findings):
            if finding.code is code and finding.verdict is Verdict.REPAIR and finding.left:
                beat()
                findings[index] = _repaired(finding, repairs[code], beat)
    report = dataclasses.replace(report, findings=tuple(findings))
    return result(store(gateway, request, REPORT_PART, REPORT, report), report)


def _repaired(finding: Finding, repair: Repair, beat: Beat) -> Finding:
    try:
        done = repair(finding, beat)
    except DeltaferryError as error:
        if error.kind is ErrorKind.INTERRUPTED:
            raise
        return dataclasses.replace(finding, outcome=Outcome.FAILED, detail=f"{error.kind.value}: {error.detail}")
    if done:
        return dataclasses.replace(finding, outcome=Outcome.REPAIRED, detail="")
    detail = "It is gone, or belongs to somebody now."
    return dataclasses.replace(finding, outcome=Outcome.PASSED_OVER, detail=detail)
