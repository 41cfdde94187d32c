"""What of a replication lies in Azure and is none of what it names itself: by table, and by properties."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltaferry.model.audit import (
    AUDIT_VERSION,
    Existing,
    FindingCode,
    KnownInAzure,
    KnownVm,
    ResourceKind,
    RunningReplication,
    SeenContainer,
    SeenCopies,
    SeenResource,
    SeenSource,
    SeenTarget,
    Verdict,
)
from deltaferry.model.naming import Owner, copy_name, disk_snapshot_prefix, job_of_copy
from deltaferry.model.replication import Store
from deltaferry.planning.audit import Seen, judge, to_ask

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
GRACE = timedelta(hours=1)
OLD, YOUNG = NOW - timedelta(hours=3), NOW - timedelta(minutes=59)
UUID, RID = "vm-1", "1" * 16
OURS = Owner("lab", RID, "london", UUID, "web-01")
GROUP = "/subscriptions/s/resourceGroups/rg/providers/Microsoft.Compute"
VM_ID = f"{GROUP}/virtualMachines/web-01"
NOTHING = KnownInAzure(())
SNAPSHOT = f"{disk_snapshot_prefix(RID)}2000-3-uuid"

DISK, NIC, VM, TAKEN = (
    ResourceKind.DISK,
    ResourceKind.NETWORK_INTERFACE,
    ResourceKind.VIRTUAL_MACHINE,
    ResourceKind.DISK_SNAPSHOT,
)
REPAIR, REPORT = Verdict.REPAIR, Verdict.REPORT


def running(known: KnownInAzure | None, *, has_jobs: bool = False, parked: bool = False) -> Existing:
    one = RunningReplication(UUID, RID, parked, has_jobs, known)
    return Existing("lab", "london", (OURS,), frozenset(), (), (one,), frozenset())


def resource(kind: ResourceKind, job: str = "", *, in_use: bool = False, name: str = "web-01-os") -> SeenResource:
    created_at = None if kind is NIC else OLD
    return SeenResource(kind, f"{GROUP}/{kind.value}/{name}", Owner("lab", RID), created_at, in_use, job=job)


def seen(*resources: SeenResource, copies: tuple[SeenCopies, ...] = (), stray: tuple[str, ...] = ()) -> Seen:
    container = SeenContainer(Store.SEED, f"df-seed-{RID}", OLD, OURS, stray, copies)
    target = SeenTarget(AUDIT_VERSION, (OURS,), (), (container,), resources, ("rg",), NOW)
    return Seen(SeenSource(AUDIT_VERSION, NOW, ()), target, ())


def verdicts(things: Seen, existing: Existing, grace: timedelta = GRACE) -> dict[FindingCode, Verdict]:
    return {finding.code: finding.verdict for finding in judge(things, existing, NOW, grace)}


@pytest.mark.parametrize("parked", [True, False])
@pytest.mark.parametrize("has_jobs", [True, False])
@pytest.mark.parametrize(
    ("one", "code", "verdict"),
    [
        (resource(VM, "test-3", in_use=True), FindingCode.TEST_VM, REPORT),
        (resource(VM, "failover-3", in_use=True), FindingCode.VIRTUAL_MACHINE, REPORT),
        (resource(VM, "migrate-3", in_use=True), FindingCode.VIRTUAL_MACHINE, REPORT),
        (resource(DISK, "test-3"), FindingCode.MANAGED_DISK, REPAIR),
        (resource(DISK, "point-3"), FindingCode.MANAGED_DISK, REPORT),
        (resource(DISK, "failover-3"), FindingCode.MANAGED_DISK, REPORT),
        (resource(DISK, "migrate-3"), FindingCode.MANAGED_DISK, REPORT),
        (resource(NIC, "test-3"), FindingCode.NETWORK_INTERFACE, REPORT),
        (resource(TAKEN, name=SNAPSHOT), FindingCode.DISK_SNAPSHOT, REPAIR),
        (resource(TAKEN, name="taken-by-hand"), FindingCode.DISK_SNAPSHOT, REPORT),
    ],
)
def test_what_a_replication_knows_nothing_of_is_found_and_only_copies_are_deleted(
    one: SeenResource, code: FindingCode, verdict: Verdict, has_jobs: bool, parked: bool
) -> None:
    assert verdicts(seen(one), running(NOTHING, has_jobs=has_jobs, parked=parked)) == {code: verdict}
    if one.created_at is not None:
        assert verdicts(seen(replace(one, created_at=YOUNG)), running(NOTHING)) == {}


@pytest.mark.parametrize("kind", [VM, DISK, NIC])
@pytest.mark.parametrize("job", ["test-3", "point-3", "failover-3", "migrate-3"])
def test_what_a_replication_names_is_left_alone_whether_a_vm_has_it_or_not(kind: ResourceKind, job: str) -> None:
    for in_use in (True, False):
        assert verdicts(seen(resource(kind, job, in_use=in_use)), running(KnownInAzure((job,)))) == {}


@pytest.mark.parametrize(
    "known", [KnownInAzure((), disk_snapshots=(SNAPSHOT,)), KnownInAzure((), takes_disk_snapshots=True), None]
)
def test_a_disk_snapshot_that_the_way_back_needs_or_may_need_is_left_alone(known: KnownInAzure | None) -> None:
    assert verdicts(seen(resource(TAKEN, name=SNAPSHOT)), running(known)) == {}


def test_a_disk_that_a_vm_has_and_a_vm_of_before_jobs_were_named_are_left_alone() -> None:
    assert verdicts(seen(resource(DISK, "test-3", in_use=True), resource(VM, in_use=True)), running(NOTHING)) == {}


def test_access_that_was_granted_is_reported_once_nothing_runs_that_may_use_it() -> None:
    one = replace(resource(DISK, "failover-3", in_use=True), open_access=True)
    assert verdicts(seen(one), running(KnownInAzure(("failover-3",)))) == {FindingCode.OPEN_DISK_ACCESS: REPORT}
    assert verdicts(seen(one), running(KnownInAzure(("failover-3",)), has_jobs=True)) == {}


def test_a_replication_that_does_not_say_what_it_has_is_left_what_it_may_have() -> None:
    things = seen(resource(VM, "test-3", in_use=True), resource(DISK, "test-3"), resource(TAKEN, name=SNAPSHOT))
    assert verdicts(things, running(None, has_jobs=True)) == {}


@pytest.mark.parametrize(
    ("since", "groups", "found"),
    [(OLD, ("RG",), True), (YOUNG, ("rg",), False), (OLD, ("another",), False)],
    ids=["missing", "younger than the grace time", "not looked for"],
)
def test_a_vm_that_a_replication_has_and_that_is_gone_is_reported(since: datetime, groups: tuple[str, ...], found: bool) -> None:
    existing = running(KnownInAzure(("test-3",), (KnownVm(VM_ID, since),)))
    things = seen()
    things = replace(things, target=replace(things.target, groups=groups))
    assert verdicts(things, existing) == ({FindingCode.VM_MISSING: REPORT} if found else {})
    there = replace(things.target, resources=(replace(resource(VM, "test-3"), resource_id=VM_ID.upper()),))
    assert verdicts(replace(things, target=there), existing) == {}


def test_copies_of_a_recovery_point_are_deleted_once_their_job_is_forgotten() -> None:
    name = copy_name("test-3", "1-uuid", 2000)
    left = SeenCopies("test-3", OLD)
    things = seen(copies=(left,), stray=(name,))
    (finding,) = judge(things, running(NOTHING, parked=True), NOW, GRACE)
    assert (finding.code, finding.verdict) == (FindingCode.POINT_COPIES, REPAIR)
    assert (finding.key, finding.instance_uuid) == (f"df-seed-{RID}/copies/test-3/", UUID)
    assert job_of_copy(f"{finding.key.partition('/')[2]}any") == "test-3"
    assert verdicts(things, running(KnownInAzure(("test-3",)), parked=True)) == {}
    assert verdicts(seen(copies=(replace(left, modified_at=YOUNG),), stray=(name,)), running(NOTHING)) == {}
    assert verdicts(seen(stray=(name, "a-copy.vhd")), running(NOTHING, parked=True)) == {FindingCode.TEMPORARY_BLOBS: REPORT}


def test_replications_with_something_in_azure_are_asked_for_it() -> None:
    assert to_ask(seen(resource(VM, "test-3", in_use=True))) == {UUID}
    assert to_ask(seen(resource(VM, in_use=True))) == frozenset()
    assert to_ask(seen(stray=(copy_name("test-3", "1-uuid", 2000),))) == {UUID}


_JOBS = st.sampled_from(["test-1", "test-2", "point-1", "failover-2", "migrate-3"])
_NAMES = st.sampled_from([SNAPSHOT, f"{SNAPSHOT}2", "web-01", "by-hand"])
_RESOURCES = st.builds(
    lambda kind, name, owner, at, in_use, job, access: SeenResource(
        kind, f"{GROUP}/{kind.value}/{name}", owner, at, in_use, access, job
    ),
    st.sampled_from(ResourceKind),
    _NAMES,
    st.sampled_from([Owner("lab", RID), Owner("lab", "2" * 16), Owner("other", RID)]),
    st.sampled_from([OLD, YOUNG]),
    st.booleans(),
    _JOBS | st.just(""),
    st.booleans(),
)
_KNOWN = st.builds(
    lambda jobs, names, takes: KnownInAzure(tuple(jobs), (), tuple(names), takes),
    st.sets(_JOBS),
    st.sets(_NAMES),
    st.booleans(),
)


@settings(deadline=None)
@given(st.lists(_RESOURCES, max_size=6, unique_by=lambda one: one.resource_id), _KNOWN, st.booleans(), st.booleans())
def test_of_a_replication_that_runs_nothing_it_names_nothing_a_vm_has_and_no_vm_is_ever_deleted(
    resources: list[SeenResource], known: KnownInAzure, has_jobs: bool, parked: bool
) -> None:
    existing = running(known, has_jobs=has_jobs, parked=parked)
    of = {one.resource_id: one for one in resources}
    for finding in judge(seen(*resources), existing, NOW, GRACE):
        assert finding.what.endswith(".") and finding.remedy.endswith((".", ")")) and finding.where
        if finding.key not in of:
            continue
        one = of[finding.key]
        assert one.owner.installation == "lab" and one.created_at == OLD
        if finding.verdict is REPAIR and finding.replication_id == RID:
            assert one.kind in (DISK, TAKEN) and not (one.kind is DISK and (one.in_use or not one.job.startswith("test-")))
            assert one.kind is TAKEN or one.job not in known.jobs
            name = one.resource_id.rpartition("/")[2]
            assert one.kind is DISK or not (known.takes_disk_snapshots or name in known.disk_snapshots)
        elif finding.replication_id == RID and finding.code is not FindingCode.OPEN_DISK_ACCESS:
            assert not one.job or one.kind is TAKEN or one.job not in known.jobs
