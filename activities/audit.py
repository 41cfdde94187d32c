"""An audit's eyes: what lies about on either side, who there is that it may belong to, and what follows from both.

What is seen passes from step to step through the gateway store, since it may be long. The commit records are read before
anything else, and once more at the end: what ends while the audit runs leaves nothing behind that it would complain about.
"""

import dataclasses
import hashlib
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError
from temporalio import activity

from activities.adapters import Site, Stores, Target
from activities.commit_records import StoredRecord, read_records
from activities.failures import translated
from activities.holders import Holders
from activities.progress import Heartbeats
from deltaferry.model.audit import (
    AUDIT_VERSION,
    AuditReport,
    Existing,
    Finding,
    Outcome,
    RunningReplication,
    SeenContainer,
    SeenCopies,
    SeenResource,
    SeenSnapshot,
    SeenSource,
    SeenTarget,
    SeenVm,
    Verdict,
)
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.naming import (
    CONTAINER_PREFIX,
    SITES_CONTAINER,
    Owner,
    audit_name,
    audits_prefix,
    disk_of_seed,
    job_of_copy,
    owner_in_metadata,
    owner_of_snapshot,
    store_of_container,
)
from deltaferry.model.replication import ObjectRef, Store
from deltaferry.model.vm import Snapshot, SourceVm
from deltaferry.planning.audit import DEFAULT_GRACE, Seen, judge, to_ask
from deltaferry.planning.audit_azure import OF_RESOURCES, group_of
from deltaferry.ports.access import Beat
from deltaferry.ports.stores import ObjectStore, StoredContainer
from workflows.messages.audit import SHOWN_FINDINGS, AuditResult, AuditStep, Looked
from workflows.messages.in_azure import known_in_azure

T = TypeVar("T", SeenSource, SeenTarget, AuditReport)

SOURCE: TypeAdapter[SeenSource] = TypeAdapter(SeenSource)
TARGET: TypeAdapter[SeenTarget] = TypeAdapter(SeenTarget)
REPORT: TypeAdapter[AuditReport] = TypeAdapter(AuditReport)
SOURCE_PART, TARGET_PART, REPORT_PART = "source", "target", "report"

_KEPT_AUDITS = 14

_ASKS_FOR = timedelta(minutes=5)
"""How long replications are asked, one after the other; in another order each time, so that the next audits ask the others."""


class AuditSource:
    """Looks at a site's VMs."""

    def __init__(self, sites: Mapping[str, Site]) -> None:
        self._sites = sites

    @activity.defn
    @translated
    def survey_source(self, request: AuditStep) -> Looked:
        """Store what VMs have of Deltaferry's, whoever's: snapshots, claims; and which need consolidation."""
        beats = Heartbeats("looking for what Deltaferry left on the site's VMs")
        site = self._sites[request.profile.site]
        read_at = site.hypervisor.clock()
        found = (seen_vm(one.vm, request.profile.site) for one in site.hypervisor.read_inventory(beats.beat).vms)
        vms = tuple(vm for vm in found if vm.claim or vm.consolidation_needed or vm.made or any(s.owner for s in vm.snapshots))
        store(site.stores.gateway, request, SOURCE_PART, SOURCE, SeenSource(AUDIT_VERSION, read_at, vms))
        return Looked(len(vms))


class AuditTarget:
    """Looks at a target's stores and resource groups, and judges."""

    def __init__(self, targets: Mapping[str, Target], holders: Holders, grace: Mapping[str, timedelta]) -> None:
        self._targets = targets
        self._holders = holders
        self._grace = grace

    @activity.defn
    @translated
    def survey_target(self, request: AuditStep) -> Looked:
        """Store the commit records' owners, then what the stores and the resource groups have of Deltaferry's."""
        beats = Heartbeats("looking for what Deltaferry left in the stores and in Azure")
        target = self._targets[request.profile.target]
        gateway = target.stores.gateway
        records = list(read_records(gateway, beats.beat))
        read_at = datetime.now(UTC)
        containers = tuple(_containers(target.stores, beats.beat))
        groups = resource_groups(target, records)
        resources = tuple(_resources(target, request.profile.installation, groups, beats.beat))
        seen = SeenTarget(AUDIT_VERSION, owners(records), unreadable(records), containers, resources, groups, read_at)
        store(gateway, request, TARGET_PART, TARGET, seen)
        return Looked(len(containers) + len(resources))

    @activity.defn
    @translated
    def judge_site(self, request: AuditStep) -> AuditResult:
        """Find out who runs and who could be adopted, judge what was seen by that, and store the report."""
        beats = Heartbeats("finding out to whom things belong")
        gateway = self._targets[request.profile.target].stores.gateway
        source = load(gateway, request, SOURCE_PART, SOURCE)
        target = load(gateway, request, TARGET_PART, TARGET)
        leases = self._holders.leases(request.profile.site)
        seen = Seen(source, target, leases)
        existing = self._existing(request, seen, list(read_records(gateway, beats.beat)), beats.beat)
        now = datetime.now(UTC)
        grace = self._grace.get(request.profile.site, DEFAULT_GRACE) if request.grace is None else request.grace
        profile = request.profile
        found = self._still_there(request, judge(seen, existing, now, grace), beats.beat)
        report = AuditReport(AUDIT_VERSION, profile.installation, profile.site, request.dry_run, now, found)
        _forget_old_audits(gateway, request)
        return result(store(gateway, request, REPORT_PART, REPORT, report), report)

    def _still_there(self, request: AuditStep, found: tuple[Finding, ...], beat: Beat) -> tuple[Finding, ...]:
        """Return findings without what was about to be deleted when it was seen: whoever forgets something has deleted it before."""
        suspects = {one.key for one in found if one.code in OF_RESOURCES}
        if not suspects:
            return found
        target = self._targets[request.profile.target]
        groups = {group_of(key).lower(): group_of(key) for key in sorted(suspects)}
        listed = _resources(target, request.profile.installation, tuple(groups.values()), beat)
        there = {resource.resource_id.lower() for resource in listed}
        return tuple(one for one in found if one.code not in OF_RESOURCES or one.key.lower() in there)

    def _existing(self, request: AuditStep, seen: Seen, records: list[StoredRecord], beat: Beat) -> Existing:
        """Return who there is. Who is not asked in time counts as somebody of whom nothing is known, whose things are left alone."""
        profile = request.profile
        recorded = owners(records)
        visible = self._holders.running(profile.site)
        here = {owner.instance_uuid for owner in recorded if owner.site == profile.site}
        asked = to_ask(seen) | {uuid for uuid in here if uuid not in visible} | _with_vms(records, profile.site)
        running: dict[str, RunningReplication] = {
            uuid: RunningReplication(uuid, None, has_jobs=has_jobs) for uuid, has_jobs in visible.items()
        }
        until_s = time.monotonic() + _ASKS_FOR.total_seconds()
        for uuid in sorted(asked, key=lambda uuid: hashlib.sha256(f"{request.audit_key}/{uuid}".encode()).digest()):
            beat()
            if time.monotonic() >= until_s:
                running.setdefault(uuid, RunningReplication(uuid, None))
                continue
            answer = self._holders.ask(profile.site, uuid)
            if answer is not None:
                running[uuid] = answer
        now_recorded = {owner.replication_id for owner in recorded} | set(unreadable(records))
        return Existing(
            installation=profile.installation,
            site=profile.site,
            recorded=recorded,
            unreadable=frozenset(unreadable(records)),
            ended=tuple(owner for owner in seen.target.recorded if owner.replication_id not in now_recorded),
            running=tuple(running.values()),
            holders=frozenset(lease.holder for lease in seen.leases if self._holders.runs(lease.holder)),
        )


def seen_vm(vm: SourceVm, site: str) -> SeenVm:
    """Return what of Deltaferry's a VM has."""
    claim = Owner(vm.claim.installation, vm.claim.replication_id, site, vm.instance_uuid) if vm.claim else None
    snapshots = tuple(_seen_snapshot(snapshot, vm, site) for snapshot in vm.snapshots)
    made = Owner(vm.made_for.installation, vm.made_for.replication_id, site, vm.instance_uuid) if vm.made_for else None
    return SeenVm(vm.instance_uuid, vm.name, claim, vm.consolidation_needed, snapshots, made)


def _seen_snapshot(snapshot: Snapshot, vm: SourceVm, site: str) -> SeenSnapshot:
    owner = owner_of_snapshot(snapshot.name)
    if owner is not None:
        owner = Owner(owner.installation, owner.replication_id, site, vm.instance_uuid)
    created_at = datetime.fromisoformat(snapshot.created_at) if snapshot.created_at else None
    return SeenSnapshot(snapshot.moref, snapshot.name, created_at, owner)


def owners(records: Iterable[StoredRecord]) -> tuple[Owner, ...]:
    """Return whose the commit records are that can be read."""
    found = []
    for stored in records:
        if stored.record is not None:
            replication, failover = stored.record.replication, stored.record.state.failover
            ref = replication.ref
            made = failover.reverse.vms_to_delete if failover is not None and failover.reverse is not None else ()
            owner = Owner(ref.installation, ref.replication_id, ref.site, ref.instance_uuid, replication.vm_name, made)
            found.append(owner)
    return tuple(found)


def unreadable(records: Iterable[StoredRecord]) -> tuple[str, ...]:
    """Return the ids of the replications whose commit record cannot be read."""
    kinds = (store_of_container(stored.container) for stored in records if stored.problem)
    return tuple(kind[1] for kind in kinds if kind is not None)


def seen_seeds(stores: Stores, container: StoredContainer) -> SeenContainer:
    """Return a container of seeds as an audit sees it: with what is in it besides them."""
    others = [blob for blob in stores.seeds.describe_blobs(container.name) if disk_of_seed(blob.name) is None]
    latest: dict[str, datetime] = {}
    for blob in others:
        job = job_of_copy(blob.name)
        if job is not None:
            latest[job] = max(latest.get(job, blob.modified_at), blob.modified_at)
    copies = tuple(SeenCopies(job, modified_at) for job, modified_at in sorted(latest.items()))
    seen = seen_container(Store.SEED, container)
    return dataclasses.replace(seen, stray=tuple(blob.name for blob in others), copies=copies)


def seen_container(kind: Store, container: StoredContainer) -> SeenContainer:
    """Return a container as an audit sees it."""
    known = store_of_container(container.name)
    owner = owner_in_metadata(container.metadata, known[1]) if known is not None else None
    return SeenContainer(kind, container.name, container.modified_at, owner)


def _containers(stores: Stores, beat: Beat) -> Iterable[SeenContainer]:
    """Yield the containers of the three accounts; where they are one and the same, each container once."""
    found: set[str] = set()
    for kind, listed in (
        (Store.LOG, stores.log.describe_containers(CONTAINER_PREFIX)),
        (Store.SEED, stores.seeds.describe_containers(CONTAINER_PREFIX)),
        (Store.GATEWAY, stores.gateway.describe_containers(CONTAINER_PREFIX)),
    ):
        beat()
        for container in listed:
            if container.name in found:
                continue
            found.add(container.name)
            known = store_of_container(container.name)
            purpose = known[0] if known is not None else kind
            if purpose is Store.SEED:  # whichever account was listed: two of them may be one and the same
                beat()
                yield seen_seeds(stores, container)
            else:
                yield seen_container(purpose, container)


def resource_groups(target: Target, records: Iterable[StoredRecord]) -> tuple[str, ...]:
    """Return the resource groups in which a target's replications may have something, by their commit records."""
    groups = {target.defaults.resource_group.lower(): target.defaults.resource_group}
    for stored in records:
        if stored.record is None or stored.record.replication.ref.target != target.name:
            continue
        state = stored.record.state
        made = [*state.left_by_migrations, *(state.failover.made if state.failover is not None else ())]
        places = [state.target, *(test.target for test in state.tests), *(one.target for one in made)]
        places += [state.failover.target] if state.failover is not None else []
        for place in places:
            if place.resource_group:
                groups.setdefault(place.resource_group.lower(), place.resource_group)
    return tuple(groups.values())


def _with_vms(records: Iterable[StoredRecord], site: str) -> set[str]:
    """Return the instance UUIDs of the replications of a site that had a VM in Azure when they wrote their commit record."""
    here = (stored.record for stored in records if stored.record is not None and stored.record.replication.ref.site == site)
    return {record.replication.ref.instance_uuid for record in here if known_in_azure(record.state).vms}


def _resources(target: Target, installation: str, groups: Iterable[str], beat: Beat) -> Iterable[SeenResource]:
    for group in groups:
        beat()
        yield from target.cloud.list_owned(group, installation, beat)


def store(gateway: ObjectStore, request: AuditStep, part: str, adapter: "TypeAdapter[T]", value: T) -> ObjectRef:
    """Store what a step of the audit hands on, in place of what an earlier attempt stored."""
    gateway.create_container(SITES_CONTAINER)
    return gateway.put(_key(request, part), adapter.dump_json(value))


def load(gateway: ObjectStore, request: AuditStep, part: str, adapter: "TypeAdapter[T]") -> T:
    """Return what an earlier step stored. Raises STORE_OBJECT_MISSING, also for what another release wrote differently."""
    key = _key(request, part)
    try:
        value = adapter.validate_json(gateway.get(key))
    except ValidationError as error:
        raise DeltaferryError(ErrorKind.STORE_OBJECT_MISSING, f"{key} has {error.error_count()} errors.") from None
    if value.version != AUDIT_VERSION:
        raise DeltaferryError(ErrorKind.STORE_OBJECT_MISSING, f"{key} is of version {value.version}, not {AUDIT_VERSION}.")
    return value


def _key(request: AuditStep, part: str) -> str:
    profile = request.profile
    return f"{SITES_CONTAINER}/{audit_name(profile.installation, profile.site, request.audit_key, part)}"


def _forget_old_audits(gateway: ObjectStore, request: AuditStep) -> None:
    prefix = audits_prefix(request.profile.installation, request.profile.site)
    names = [stored.name for stored in gateway.list(SITES_CONTAINER, prefix)]
    kept = set(sorted({name.removeprefix(prefix).partition("/")[0] for name in names})[-_KEPT_AUDITS:])
    gateway.delete_objects(SITES_CONTAINER, [n for n in names if n.removeprefix(prefix).partition("/")[0] not in kept])


def result(ref: ObjectRef, report: AuditReport) -> AuditResult:
    """Return a report in numbers, with as many findings as pass through a workflow: what is left comes first."""
    findings = sorted(report.findings, key=lambda finding: not finding.left)
    repairable = [finding for finding in findings if finding.verdict is Verdict.REPAIR]
    return AuditResult(
        site=report.site,
        dry_run=report.dry_run,
        read_at=report.read_at,
        found=len(findings),
        repaired=_count(findings, Outcome.REPAIRED),
        to_repair=_count(repairable, Outcome.FOUND),
        failed=_count(findings, Outcome.FAILED),
        left=sum(finding.left for finding in findings),
        findings=tuple(findings[:SHOWN_FINDINGS]),
        report=ref,
    )


def _count(findings: Iterable[Finding], outcome: Outcome) -> int:
    return sum(finding.outcome is outcome for finding in findings)
