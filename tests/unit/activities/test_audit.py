"""An audit's steps on a real vCenter process and a real Azurite; who runs is what each test says."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast
from uuid import uuid4

import pytest
from temporalio.testing import ActivityEnvironment

from activities.adapters import Site, Stores, Target, TargetDefaults
from activities.audit import AuditSource, AuditTarget
from activities.audit_repairs import AuditSourceRepairs, AuditTargetRepairs
from activities.settling import COMMIT_RECORD_ADAPTER
from deltaferry.azure.accounts import StorageAccount
from deltaferry.azure.keys import LocalKeyFile
from deltaferry.azure.object_store import BlobObjectStore
from deltaferry.azure.recovery_points import BlobRecoveryPoints
from deltaferry.azure.seeds import PageBlobSeeds
from deltaferry.model.audit import (
    Finding,
    FindingCode,
    KnownInAzure,
    KnownVm,
    Outcome,
    ResourceKind,
    RunningReplication,
    SeenLease,
    SeenResource,
    Verdict,
)
from deltaferry.model.naming import (
    COMMIT_RECORD,
    JOB_TAG,
    SITES_CONTAINER,
    Owner,
    audits_prefix,
    container_metadata,
    copy_name,
    disk_snapshot_name,
    gateway_container,
    log_container,
    seed_container,
    snapshot_name,
)
from deltaferry.model.replication import ReplicationRef, Store
from deltaferry.model.vm import Claim
from deltaferry.ports.access import Beat
from deltaferry.ports.data_plane import DataPlane
from deltaferry.ports.failback import TwoWayCloud
from deltaferry.ports.hypervisor import DiskExports
from deltaferry.vsphere.client import VSphere
from lab.certificates import make_certificates
from tests.unit.azure.conftest import start_azurite
from tests.unit.vsphere.lab_vcenter import PASSWORD, LabVcenter
from workflows.messages.audit import AuditResult, AuditStep
from workflows.messages.replication_state import EntityState, ReplicateVmInput, Replication
from workflows.messages.site import SiteProfile

SITE, TARGET = "london", "west"
_HOUR = timedelta(hours=1)


@dataclass
class SaidHolders:
    """`Holders` that says what a test has it say."""

    answers: dict[str, RunningReplication] = field(default_factory=dict)
    held: list[SeenLease] = field(default_factory=list)
    released: list[str] = field(default_factory=list)
    when_asked: Callable[[], None] = lambda: None

    def running(self, site: str) -> dict[str, bool]:
        return {uuid: answer.has_jobs for uuid, answer in self.answers.items()}

    def ask(self, site: str, instance_uuid: str) -> RunningReplication | None:
        self.when_asked()
        return self.answers.get(instance_uuid)

    def runs(self, workflow_id: str) -> bool:
        return any(workflow_id.endswith(uuid) for uuid in self.answers)

    def leases(self, site: str) -> tuple[SeenLease, ...]:
        return tuple(self.held)

    def release(self, site: str, lease: SeenLease) -> None:
        self.held.remove(lease)
        self.released.append(lease.request_id)


class SaidAzure:
    """A resource group in which is what a test says."""

    def __init__(self) -> None:
        self.resources: list[SeenResource] = []
        self.when_listed: Callable[[], None] = lambda: None

    def list_owned(self, resource_group: str, installation: str, beat: Beat) -> tuple[SeenResource, ...]:
        listed = tuple(resource for resource in self.resources if resource.owner.installation == installation)
        self.when_listed()
        return listed

    def delete_disk(self, resource_group: str, name: str, tags: Mapping[str, str], beat: Beat) -> None:
        ends = f"/resourceGroups/{resource_group}/providers/Microsoft.Compute/disks/{name}"
        mine = [one for one in self.resources if one.resource_id.endswith(ends) and one.job == tags[JOB_TAG]]
        self.resources = [resource for resource in self.resources if resource not in mine]

    def delete_disk_snapshot(self, resource_group: str, name: str, tags: Mapping[str, str], beat: Beat) -> None:
        ends = f"/resourceGroups/{resource_group}/providers/Microsoft.Compute/snapshots/{name}"
        self.resources = [resource for resource in self.resources if not resource.resource_id.endswith(ends)]


class Audited:
    """A site whose audit's steps run one by one, for an installation of this test's own."""

    def __init__(self, vsphere: VSphere, account: StorageAccount, directory: Path, vcenter: LabVcenter) -> None:
        self.vcenter, self.vsphere = vcenter, vsphere
        self.installation = uuid4().hex[:12]
        self.stores = Stores(
            BlobObjectStore(account, Store.LOG),
            BlobObjectStore(account, Store.GATEWAY),
            PageBlobSeeds(account),
            LocalKeyFile.generate(directory / "key"),
        )
        self.profile = SiteProfile(self.installation, SITE, "appliance", TARGET, _HOUR, _HOUR, 52, 8, 15)
        plane = cast("DataPlane", None)
        self.azure = SaidAzure()
        site = Site(self.profile, vsphere, cast("DiskExports", None), self.stores, plane, _HOUR, 1)
        target = Target(
            TARGET,
            self.stores,
            cast("TwoWayCloud", self.azure),
            plane,
            BlobRecoveryPoints(PageBlobSeeds(account), self.stores.gateway),
            TargetDefaults("rg", "net", "sub", "size", "sku"),
        )
        self.holders = SaidHolders()
        self.looks = AuditSource({SITE: site}), AuditTarget({TARGET: target}, self.holders, {})
        self.hands = AuditSourceRepairs({SITE: site}, self.holders), AuditTargetRepairs({TARGET: target}, self.holders)
        self.vm = vcenter.unused_vm()
        self.ref = self.new_ref()

    def new_ref(self, installation: str = "") -> ReplicationRef:
        return ReplicationRef(installation or self.installation, SITE, TARGET, self.vm, uuid4().hex[:16])

    # --- what lies about ---

    def snapshot(self, ref: ReplicationRef) -> str:
        name = snapshot_name(ref, f"1-{uuid4()}")
        self.vcenter.wait(self.vcenter.start_snapshot(self.vm, name))
        return name

    def containers(self, ref: ReplicationRef) -> None:
        owner = container_metadata(ref)
        self.stores.gateway.create_container(gateway_container(ref), owner)
        self.stores.log.create_container(log_container(ref), owner)
        self.stores.seeds.create_container(seed_container(ref), owner)

    def record(self, ref: ReplicationRef) -> None:
        self.stores.gateway.create_container(gateway_container(ref), container_metadata(ref))
        record = ReplicateVmInput(Replication(ref, "web", self.profile, (), 2, "Linux"), EntityState())
        self.stores.gateway.put(f"{gateway_container(ref)}/{COMMIT_RECORD}", COMMIT_RECORD_ADAPTER.dump_json(record))

    def lease(self) -> SeenLease:
        lease = SeenLease(f"vm/{SITE}/{self.vm}", self.vm, uuid4().hex, datetime.now(UTC) - _HOUR)
        self.holders.held.append(lease)
        return lease

    def snapshots(self) -> set[str]:
        return {snapshot.name for snapshot in self.vsphere.read_vm(self.vm).snapshots}

    def log_exists(self, ref: ReplicationRef) -> bool:
        return bool(self.stores.log.list_containers(log_container(ref)))

    # --- the audit ---

    def look(self, grace: timedelta = timedelta(0)) -> tuple[AuditStep, AuditResult]:
        step = AuditStep(self.profile, f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}", grace=grace)
        run = ActivityEnvironment().run
        run(self.looks[1].survey_target, step)
        run(self.looks[0].survey_source, step)
        return step, run(self.looks[1].judge_site, step)

    def repair(self, step: AuditStep) -> AuditResult:
        ActivityEnvironment().run(self.hands[0].repair_source, step)
        return ActivityEnvironment().run(self.hands[1].repair_target, step)

    def ours(self, result: AuditResult) -> dict[FindingCode, Finding]:
        """Return what was found of this test's VM, by code; other tests' installations have left things, too."""
        assert not [f for f in result.findings if f.verdict is Verdict.REPAIR and f.instance_uuid != self.vm]
        return {finding.code: finding for finding in result.findings if finding.instance_uuid == self.vm}


@pytest.fixture(scope="module")
def vcenter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabVcenter]:
    folder = tmp_path_factory.mktemp("vcenter")
    running = LabVcenter(folder / "lab", make_certificates(folder / "certificates"), fillers=24)
    yield running
    running.close()


@pytest.fixture(scope="module")
def vsphere(vcenter: LabVcenter) -> Iterator[VSphere]:
    with VSphere(vcenter.endpoint(), lambda: PASSWORD) as client:
        yield client


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StorageAccount]:
    running = start_azurite(tmp_path_factory.mktemp("azurite"))
    account = running.account()
    yield account
    account.close()
    running.process.stop()


@pytest.fixture
def site(vsphere: VSphere, account: StorageAccount, tmp_path: Path, vcenter: LabVcenter) -> Audited:
    return Audited(vsphere, account, tmp_path, vcenter)


def test_what_a_replication_left_that_is_gone_is_found_and_what_is_safe_is_repaired(site: Audited) -> None:
    site.snapshot(site.ref)
    site.containers(site.ref)
    site.vsphere.write_claim(site.vm, Claim(site.installation, site.ref.replication_id), expected=None)
    lease = site.lease()
    step, found = site.look()
    repaired_codes = {FindingCode.SNAPSHOT, FindingCode.LEASE, FindingCode.LOG_CONTAINER}
    reported_codes = {FindingCode.CLAIM, FindingCode.SEED_DISKS, FindingCode.BOOKKEEPING}
    by_code = site.ours(found)
    assert {code for code, f in by_code.items() if f.verdict is Verdict.REPAIR} == repaired_codes
    assert {code for code, f in by_code.items() if f.verdict is Verdict.REPORT} == reported_codes
    assert site.snapshots() and site.log_exists(site.ref) and site.holders.held, "looking changes nothing"

    result = site.repair(step)
    assert {code for code, f in site.ours(result).items() if f.outcome is Outcome.REPAIRED} == repaired_codes
    assert (site.snapshots(), site.holders.released, site.log_exists(site.ref)) == (set(), [lease.request_id], False)
    assert site.stores.seeds.list_containers(seed_container(site.ref)), "a replica is never deleted"
    assert set(site.ours(site.look()[1])) == reported_codes


def test_disk_snapshots_of_the_way_back_are_deleted_and_a_tests_vm_is_only_reported(site: Audited) -> None:
    owner = Owner(site.installation, site.ref.replication_id)
    group = "/subscriptions/s/resourceGroups/rg/providers/Microsoft.Compute"
    vm = SeenResource(ResourceKind.VIRTUAL_MACHINE, f"{group}/virtualMachines/t", owner, None, True, job="test-3")
    snapshot = SeenResource(ResourceKind.DISK_SNAPSHOT, f"{group}/snapshots/p", owner, datetime.now(UTC) - _HOUR, False)
    site.azure.resources = [vm, snapshot]
    step, found = site.look()
    verdicts = {finding.code: finding.verdict for finding in found.findings if finding.replication_id == owner.replication_id}
    assert verdicts == {FindingCode.DISK_SNAPSHOT: Verdict.REPAIR, FindingCode.TEST_VM: Verdict.REPORT}
    site.record(site.ref)  # it is enabled again meanwhile, so that somebody may need it
    site.repair(step)
    assert site.azure.resources == [vm, snapshot]
    site.stores.gateway.delete_container(gateway_container(site.ref))
    step, _ = site.look()
    site.repair(step)
    assert site.azure.resources == [vm]


def _left_in_azure(site: Audited) -> dict[str, SeenResource]:
    """Put what a forgotten test and a forgotten pass left beside what a failover has, and return it by name."""
    owner = Owner(site.installation, site.ref.replication_id)
    group = "/subscriptions/s/resourceGroups/rg/providers/Microsoft.Compute"
    old = datetime.now(UTC) - _HOUR

    def one(kind: ResourceKind, path: str, job: str, *, in_use: bool = False) -> SeenResource:
        return SeenResource(kind, f"{group}/{path}", owner, old, in_use, job=job)

    name = disk_snapshot_name(site.ref, 2000, "reverse-3-uuid")
    found = {
        "vm": one(ResourceKind.VIRTUAL_MACHINE, "virtualMachines/web-test-3", "test-3", in_use=True),
        "its disk": one(ResourceKind.DISK, "disks/web-test-3-os", "test-3", in_use=True),
        "idle disk": one(ResourceKind.DISK, "disks/web-test-3-data-2001", "test-3"),
        "snapshot": one(ResourceKind.DISK_SNAPSHOT, f"snapshots/{name}", ""),
        "failed over": one(ResourceKind.VIRTUAL_MACHINE, "virtualMachines/web", "point-4", in_use=True),
        "its own disk": one(ResourceKind.DISK, "disks/web-os", "point-4"),
    }
    site.azure.resources = list(found.values())
    container = seed_container(site.ref)
    site.containers(site.ref)
    for job in ("test-3", "point-4"):
        site.stores.seeds.create_seed(container, copy_name(job, "1-uuid", 2000), 1 << 20)
    site.record(site.ref)
    return found


def test_what_a_running_replication_has_left_in_azure_is_deleted_where_it_is_a_copy_and_reported_where_it_is_a_vm(
    site: Audited,
) -> None:
    left = _left_in_azure(site)
    known = KnownInAzure(("point-4",))
    site.holders.answers[site.vm] = RunningReplication(site.vm, site.ref.replication_id, has_jobs=False, known=known)
    step, found = site.look()
    assert {code: f.verdict for code, f in site.ours(found).items()} == {
        FindingCode.TEST_VM: Verdict.REPORT,
        FindingCode.MANAGED_DISK: Verdict.REPAIR,
        FindingCode.DISK_SNAPSHOT: Verdict.REPAIR,
        FindingCode.POINT_COPIES: Verdict.REPAIR,
    }
    site.repair(step)
    assert site.azure.resources == [left["vm"], left["its disk"], left["failed over"], left["its own disk"]]
    assert site.stores.seeds.list_seeds(seed_container(site.ref)) == (copy_name("point-4", "1-uuid", 2000),)
    assert set(site.ours(site.look()[1])) == {FindingCode.TEST_VM}


def test_what_a_replication_has_come_to_know_between_judgement_and_repair_stays(site: Audited) -> None:
    left = _left_in_azure(site)
    rid = site.ref.replication_id
    site.holders.answers[site.vm] = RunningReplication(site.vm, rid, has_jobs=False, known=KnownInAzure(("point-4",)))
    step, _ = site.look()
    knows = KnownInAzure(("point-4", "test-3"), takes_disk_snapshots=True)
    site.holders.answers[site.vm] = RunningReplication(site.vm, rid, known=knows)
    result = site.repair(step)
    assert {f.outcome for f in site.ours(result).values() if f.verdict is Verdict.REPAIR} == {Outcome.PASSED_OVER}
    assert site.azure.resources == list(left.values())
    assert len(site.stores.seeds.list_seeds(seed_container(site.ref))) == 2


def test_what_was_being_deleted_when_it_was_seen_is_not_reported(site: Audited) -> None:
    left = _left_in_azure(site)
    site.stores.seeds.delete_container(seed_container(site.ref))
    known = KnownInAzure(("point-4",))
    site.holders.answers[site.vm] = RunningReplication(site.vm, site.ref.replication_id, has_jobs=False, known=known)

    def cleaned_up() -> None:
        site.azure.resources = [left["failed over"], left["its own disk"]]

    site.azure.when_listed = cleaned_up
    assert site.ours(site.look()[1]) == {}


def test_a_failed_over_vm_that_is_gone_is_reported(site: Audited) -> None:
    site.containers(site.ref)
    site.record(site.ref)
    vm = KnownVm("/subscriptions/s/resourceGroups/rg/providers/Microsoft.Compute/virtualMachines/web", datetime.now(UTC) - _HOUR)
    known = KnownInAzure(("point-4",), (vm,))
    site.holders.answers[site.vm] = RunningReplication(site.vm, site.ref.replication_id, has_jobs=False, known=known)
    lost = SeenResource(
        ResourceKind.DISK, vm.resource_id.replace("virtualMachines/web", "disks/web-os"), Owner(site.installation, site.ref.replication_id),
        vm.since, False, job="point-4",
    )  # fmt: skip
    site.azure.resources = [lost]
    assert {code: f.key for code, f in site.ours(site.look()[1]).items()} == {FindingCode.VM_MISSING: vm.resource_id}


def test_a_repair_that_is_tried_again_finds_that_it_was_done(site: Audited) -> None:
    site.snapshot(site.ref)
    step, _ = site.look()
    first = site.repair(step)
    again = site.repair(step)
    assert (first.repaired, again.repaired, again.failed) == (1, 1, 0)


def test_foreign_snapshots_and_those_of_other_installations_stay(site: Audited) -> None:
    other = site.snapshot(site.new_ref("other"))
    site.vcenter.wait(site.vcenter.start_snapshot(site.vm, "by hand"))
    site.snapshot(site.ref)
    site.vcenter.wait(site.vcenter.start_snapshot(site.vm, "on top"))
    step, _ = site.look()
    assert site.repair(step).repaired == 1
    assert site.snapshots() == {other, "by hand", "on top"}


def test_nothing_of_a_replication_that_can_be_adopted_is_touched(site: Audited) -> None:
    held = site.snapshot(site.ref)
    site.containers(site.ref)
    site.record(site.ref)
    site.lease()
    step, found = site.look()
    by_code = site.ours(found)
    assert set(by_code) == {FindingCode.NOT_RUNNING, FindingCode.SNAPSHOT, FindingCode.LEASE}
    assert {finding.verdict for finding in by_code.values()} == {Verdict.REPORT}
    site.repair(step)
    assert (site.snapshots(), site.holders.released, site.log_exists(site.ref)) == ({held}, [], True)


def test_a_record_that_cannot_be_read_counts_as_one(site: Audited) -> None:
    held = site.snapshot(site.ref)
    site.containers(site.ref)
    site.stores.gateway.put(f"{gateway_container(site.ref)}/{COMMIT_RECORD}", b'{"from": "the future"}')
    step, found = site.look()
    assert FindingCode.RECORD_UNREADABLE in {f.code for f in found.findings if f.replication_id == site.ref.replication_id}
    site.repair(step)
    assert (site.snapshots(), site.log_exists(site.ref)) == ({held}, True)
    site.stores.gateway.delete_container(gateway_container(site.ref))


def test_a_running_replication_keeps_everything(site: Audited) -> None:
    site.snapshot(site.ref)
    site.containers(site.ref)
    site.record(site.ref)
    site.lease()
    site.holders.answers[site.vm] = RunningReplication(site.vm, site.ref.replication_id)
    assert site.ours(site.look()[1]) == {}
    site.holders.answers[site.vm] = RunningReplication(site.vm, None)
    assert site.ours(site.look()[1]) == {}


def test_a_paused_replications_leftover_snapshot_is_removed(site: Audited) -> None:
    site.snapshot(site.ref)
    site.record(site.ref)
    site.holders.answers[site.vm] = RunningReplication(site.vm, site.ref.replication_id, parked=True, has_jobs=False)
    step, found = site.look()
    assert set(site.ours(found)) == {FindingCode.SNAPSHOT}
    assert site.repair(step).repaired == 1
    assert site.snapshots() == set()


@pytest.mark.parametrize("answer", ["working", "recorded", "unanswered"])
def test_who_appears_between_judgement_and_repair_keeps_what_is_his(site: Audited, answer: str) -> None:
    held = site.snapshot(site.ref)
    site.containers(site.ref)
    site.lease()
    step, found = site.look()
    assert found.to_repair == 3
    if answer == "recorded":
        site.record(site.ref)
    else:
        rid = site.ref.replication_id if answer == "working" else None
        site.holders.answers[site.vm] = RunningReplication(site.vm, rid)
    result = site.repair(step)
    kept = {code for code, f in site.ours(result).items() if f.outcome is Outcome.PASSED_OVER}
    assert kept >= {FindingCode.SNAPSHOT, FindingCode.LOG_CONTAINER}
    assert (site.snapshots(), site.log_exists(site.ref), site.holders.released) == ({held}, True, [])


def test_a_snapshot_that_a_new_replication_takes_meanwhile_stays(site: Audited) -> None:
    site.snapshot(site.ref)
    step, _ = site.look()
    new = site.new_ref()
    taken: list[str] = []
    site.holders.answers[site.vm] = RunningReplication(site.vm, new.replication_id)
    site.holders.when_asked = lambda: taken.append(site.snapshot(new)) if not taken else None
    assert site.repair(step).repaired == 1
    assert site.snapshots() == set(taken)


def test_what_ends_while_the_audit_runs_is_not_complained_about(site: Audited) -> None:
    site.containers(site.ref)
    site.record(site.ref)
    step = AuditStep(site.profile, f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}", grace=timedelta(0))
    run = ActivityEnvironment().run
    run(site.looks[1].survey_target, step)
    run(site.looks[0].survey_source, step)
    for container in (gateway_container(site.ref), log_container(site.ref), seed_container(site.ref)):
        site.stores.gateway.delete_container(container)
    assert site.ours(run(site.looks[1].judge_site, step)) == {}


def test_nothing_younger_than_the_grace_time_is_found(site: Audited) -> None:
    site.snapshot(site.ref)
    site.containers(site.ref)
    assert site.ours(site.look(grace=timedelta(minutes=10))[1]) == {}


def test_one_repair_that_fails_is_noted_and_the_others_go_on(site: Audited) -> None:
    site.snapshot(site.ref)
    site.containers(site.ref)
    step, _ = site.look()
    site.vcenter.order("consolidation_stuck", site.vm, count=2)
    result = site.repair(step)
    by_code = site.ours(result)
    assert by_code[FindingCode.SNAPSHOT].outcome is Outcome.FAILED
    assert by_code[FindingCode.SNAPSHOT].detail.startswith("ConsolidationStuck")
    assert by_code[FindingCode.LOG_CONTAINER].outcome is Outcome.REPAIRED
    assert (result.failed, result.repaired) == (1, 1)
    assert site.vsphere.read_vm(site.vm).consolidation_needed
    assert site.repair(step).repaired == 2, "what failed is tried again, where it stopped"
    assert not site.vsphere.read_vm(site.vm).consolidation_needed


def test_disks_that_a_replication_left_unconsolidated_are_consolidated(site: Audited) -> None:
    site.snapshot(site.ref)
    site.vsphere.write_claim(site.vm, Claim(site.installation, site.ref.replication_id), expected=None)
    site.vcenter.order("consolidation_stuck", site.vm, count=1)
    (snapshot,) = site.vsphere.read_vm(site.vm).snapshots
    site.vcenter.wait(site.vcenter.start_removal(snapshot.moref))
    assert site.vsphere.read_vm(site.vm).consolidation_needed
    step, found = site.look()
    assert site.ours(found)[FindingCode.CONSOLIDATION_PENDING].verdict is Verdict.REPAIR
    assert site.repair(step).repaired == 1
    assert not site.vsphere.read_vm(site.vm).consolidation_needed


def test_a_container_made_before_containers_told_whose_they_are_is_reported_not_deleted(site: Audited) -> None:
    site.stores.log.create_container(log_container(site.ref))
    step, found = site.look()
    (finding,) = (f for f in found.findings if f.key == log_container(site.ref))
    assert (finding.code, finding.verdict) == (FindingCode.UNKNOWN_CONTAINER, Verdict.REPORT)
    site.repair(step)
    assert site.log_exists(site.ref)
    site.stores.log.delete_container(log_container(site.ref))


def test_only_the_last_audits_are_kept(site: Audited) -> None:
    prefix = audits_prefix(site.installation, SITE)
    site.stores.gateway.create_container(SITES_CONTAINER)
    for day in range(10, 30):
        site.stores.gateway.put(f"{SITES_CONTAINER}/{prefix}202601{day}T000000Z/report", b"{}")
    site.look(grace=_HOUR)
    keys = sorted({o.name.removeprefix(prefix).partition("/")[0] for o in site.stores.gateway.list(SITES_CONTAINER, prefix)})
    assert (len(keys), keys[0]) == (14, "20260117T000000Z")
