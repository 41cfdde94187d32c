"""What an audit may repair, reports, and leaves alone: by table, and by properties over whole sites of random things."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deltaferry.model.audit import (
    AUDIT_VERSION,
    Existing,
    Finding,
    FindingCode,
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
from deltaferry.model.naming import Owner, owner_of_snapshot, store_of_container
from deltaferry.model.replication import Store
from deltaferry.planning.audit import Seen, judge, to_ask
from deltaferry.planning.fates import Fate, fate

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
GRACE = timedelta(hours=1)
OLD, YOUNG = NOW - timedelta(hours=3), NOW - timedelta(minutes=59)
UUID, RID = "vm-1", "1" * 16
OURS = Owner("lab", RID, "london", UUID, "web-01")
CYCLE = "7-00000000-0000-4000-8000-000000000000"

NOBODY = Existing("lab", "london", (), frozenset(), (), (), frozenset())
WORKING = replace(NOBODY, running=(RunningReplication(UUID, RID),))
UNASKED = replace(NOBODY, running=(RunningReplication(UUID, None),))
PARKED = replace(NOBODY, running=(RunningReplication(UUID, RID, parked=True, has_jobs=False),))
ANOTHER = replace(NOBODY, running=(RunningReplication(UUID, "2" * 16),))
ADOPTABLE = replace(NOBODY, recorded=(OURS,))
UNREADABLE = replace(NOBODY, unreadable=frozenset({RID}))
ENDED = replace(NOBODY, ended=(OURS,))
ELSEWHERE = replace(NOBODY, recorded=(replace(OURS, site="paris"),))


def snapshot(owner: Owner | None = OURS, created_at: datetime | None = OLD, moref: str = "snapshot-1") -> SeenSnapshot:
    return SeenSnapshot(
        moref, f"df/{owner.installation}/{owner.replication_id}/{CYCLE}" if owner else "backup", created_at, owner
    )


def seen(
    *snapshots: SeenSnapshot,
    claim: Owner | None = None,
    consolidation: bool = False,
    containers: tuple[SeenContainer, ...] = (),
    resources: tuple[SeenResource, ...] = (),
    leases: tuple[SeenLease, ...] = (),
) -> Seen:
    vm = SeenVm(UUID, "web-01", claim, consolidation, snapshots)
    return Seen(SeenSource(AUDIT_VERSION, NOW, (vm,)), SeenTarget(AUDIT_VERSION, (), (), containers, resources), leases)


def container(kind: Store, owner: Owner | None = OURS, created_at: datetime = OLD, stray: tuple[str, ...] = ()) -> SeenContainer:
    prefix = {Store.LOG: "log", Store.SEED: "seed", Store.GATEWAY: "gw"}[kind]
    return SeenContainer(kind, f"df-{prefix}-{RID}", created_at, owner, stray)


def lease(granted_at: datetime = OLD, uuid: str = UUID) -> SeenLease:
    return SeenLease(f"vm/london/{uuid}", uuid, "request-1", granted_at)


def disk(**changes: object) -> SeenResource:
    found = SeenResource(ResourceKind.DISK, "/subscriptions/s/disks/web-01-os", Owner("lab", RID), OLD, in_use=False)
    return replace(found, **changes)  # type: ignore[arg-type]


def verdicts(things: Seen, existing: Existing) -> dict[FindingCode, Verdict]:
    return {finding.code: finding.verdict for finding in judge(things, existing, NOW, GRACE)}


SNAPSHOT, LEASE, LOG = FindingCode.SNAPSHOT, FindingCode.LEASE, FindingCode.LOG_CONTAINER
REPAIR, REPORT = Verdict.REPAIR, Verdict.REPORT


@pytest.mark.parametrize(
    ("existing", "verdict"),
    [
        (NOBODY, REPAIR),
        (ANOTHER, REPAIR),
        (PARKED, REPAIR),
        (WORKING, None),
        (UNASKED, None),
        (ENDED, None),
        (ELSEWHERE, None),
        (ADOPTABLE, REPORT),
        (UNREADABLE, REPORT),
        (replace(NOBODY, installation="other"), None),
    ],
    ids=lambda value: value.value if isinstance(value, Verdict) else None,
)
def test_a_snapshot_is_removed_only_if_its_replication_is_gone_or_waits_for_a_person(
    existing: Existing, verdict: Verdict | None
) -> None:
    assert verdicts(seen(snapshot()), existing).get(SNAPSHOT) is verdict


@pytest.mark.parametrize(("existing", "verdict"), [(NOBODY, REPAIR), (ADOPTABLE, None), (WORKING, None), (ENDED, None)])
def test_a_log_is_deleted_only_if_its_replication_is_gone(existing: Existing, verdict: Verdict | None) -> None:
    assert verdicts(seen(containers=(container(Store.LOG),)), existing).get(LOG) is verdict


@pytest.mark.parametrize(
    ("existing", "verdict"),
    [(NOBODY, REPAIR), (ADOPTABLE, REPORT), (UNREADABLE, REPORT), (WORKING, None), (UNASKED, None), (ENDED, None)],
)
def test_slots_are_released_only_if_nothing_of_the_vm_runs_or_can_be_adopted(existing: Existing, verdict: Verdict | None) -> None:
    assert verdicts(seen(leases=(lease(),)), existing).get(LEASE) is verdict


def test_a_holder_that_runs_keeps_its_slots() -> None:
    assert verdicts(seen(leases=(lease(),)), replace(NOBODY, holders=frozenset({lease().holder}))) == {}


def test_slots_stay_taken_while_a_snapshot_of_ours_stays_on_the_vm() -> None:
    things = seen(snapshot(created_at=None), leases=(lease(),))
    assert verdicts(things, NOBODY) == {SNAPSHOT: REPORT, LEASE: REPORT}
    assert verdicts(seen(snapshot(), leases=(lease(),)), NOBODY) == {SNAPSHOT: REPAIR, LEASE: REPAIR}


def test_a_waiting_replication_that_holds_slots_keeps_its_snapshot() -> None:
    held = replace(PARKED, holders=frozenset({lease().holder}))
    assert verdicts(seen(snapshot(), leases=(lease(),)), held) == {}


def test_seeds_bookkeeping_claims_and_azure_resources_are_never_repaired() -> None:
    things = seen(
        claim=OURS,
        containers=(container(Store.SEED), container(Store.GATEWAY)),
        resources=(disk(), disk(kind=ResourceKind.NETWORK_INTERFACE, created_at=None, resource_id="/x/nic")),
    )
    found = verdicts(things, NOBODY)
    assert set(found) == {
        FindingCode.CLAIM,
        FindingCode.SEED_DISKS,
        FindingCode.BOOKKEEPING,
        FindingCode.MANAGED_DISK,
        FindingCode.NETWORK_INTERFACE,
    }
    assert set(found.values()) == {REPORT}


def test_a_replication_that_does_not_run_is_reported_once_and_its_things_are_not() -> None:
    things = seen(claim=OURS, containers=tuple(container(kind) for kind in Store))
    (finding,) = judge(things, ADOPTABLE, NOW, GRACE)
    assert (finding.code, finding.verdict) == (FindingCode.NOT_RUNNING, REPORT)
    assert "deltaferry adopt --site london --vm web-01" in finding.remedy


@pytest.mark.parametrize("owner", [replace(OURS, instance_uuid=""), replace(OURS, site="")])
def test_what_does_not_tell_of_which_vm_it_is_is_not_deleted(owner: Owner) -> None:
    assert verdicts(seen(containers=(container(Store.LOG, owner),)), NOBODY) == {}


def test_what_does_not_tell_whose_it_is_is_reported_not_deleted() -> None:
    nobodys = seen(containers=(container(Store.LOG, owner=None),))
    assert verdicts(nobodys, NOBODY) == {FindingCode.UNKNOWN_CONTAINER: REPORT}
    assert verdicts(nobodys, WORKING) == {}
    assert verdicts(nobodys, ADOPTABLE) == {FindingCode.NOT_RUNNING: REPORT}


@pytest.mark.parametrize(
    ("things", "existing", "verdict"),
    [
        (seen(claim=OURS, consolidation=True), NOBODY, REPAIR),
        (seen(snapshot(None), claim=OURS, consolidation=True), NOBODY, REPORT),
        (seen(claim=OURS, consolidation=True), ADOPTABLE, REPORT),
        (seen(claim=OURS, consolidation=True), PARKED, REPORT),
        (seen(claim=OURS, consolidation=True), WORKING, None),
        (seen(claim=replace(OURS, installation="other"), consolidation=True), NOBODY, None),
        (seen(consolidation=True), NOBODY, None),
        (seen(consolidation=True, containers=(container(Store.SEED),)), NOBODY, REPAIR),
    ],
)
def test_disks_are_consolidated_only_where_a_replication_of_ours_left_them_so(
    things: Seen, existing: Existing, verdict: Verdict | None
) -> None:
    assert verdicts(things, existing).get(FindingCode.CONSOLIDATION_PENDING) is verdict


def test_removing_a_snapshot_consolidates_behind_it() -> None:
    assert verdicts(seen(snapshot(), consolidation=True), NOBODY) == {SNAPSHOT: REPAIR}


def test_a_disk_is_left_to_a_migration_that_runs_and_reported_where_none_does() -> None:
    things = seen(resources=(disk(),))
    assert verdicts(things, WORKING) == {}
    without_jobs = replace(NOBODY, running=(RunningReplication(UUID, RID, has_jobs=False),))
    assert verdicts(things, without_jobs) == {FindingCode.MANAGED_DISK: REPORT}
    assert verdicts(seen(resources=(disk(in_use=True),)), without_jobs) == {}


@pytest.mark.parametrize(
    ("existing", "verdict"),
    [
        (NOBODY, REPAIR),
        (ANOTHER, REPAIR),
        (ADOPTABLE, REPORT),
        (UNREADABLE, REPORT),
        (WORKING, None),
        (PARKED, None),
        (ENDED, None),
    ],
)
def test_a_disk_snapshot_of_the_way_back_is_deleted_only_without_a_commit_record(
    existing: Existing, verdict: Verdict | None
) -> None:
    snapshots = (disk(kind=ResourceKind.DISK_SNAPSHOT),)
    assert verdicts(seen(resources=snapshots), existing).get(FindingCode.DISK_SNAPSHOT) is verdict
    ageless = (disk(kind=ResourceKind.DISK_SNAPSHOT, created_at=None),)
    assert verdicts(seen(resources=ageless), existing).get(FindingCode.DISK_SNAPSHOT) in (None, REPORT)


@pytest.mark.parametrize(
    ("job", "existing", "found"),
    [
        ("test-3", NOBODY, True),
        ("test-3", ANOTHER, True),
        ("test-3", ADOPTABLE, False),
        ("test-3", WORKING, False),
        ("test-3", PARKED, False),
        ("test-3", ELSEWHERE, False),
        ("point-3", NOBODY, False),
        ("failover-3", NOBODY, False),
        ("", NOBODY, False),
    ],
)
def test_of_vms_in_azure_a_tests_is_reported_where_its_replication_is_gone(job: str, existing: Existing, found: bool) -> None:
    vm = disk(kind=ResourceKind.VIRTUAL_MACHINE, job=job, in_use=True)
    assert verdicts(seen(resources=(vm,)), existing).get(FindingCode.TEST_VM) is (REPORT if found else None)
    young = replace(vm, created_at=YOUNG)
    assert FindingCode.TEST_VM not in verdicts(seen(resources=(young,)), existing)


def test_access_that_was_granted_and_not_revoked_is_reported() -> None:
    found = verdicts(seen(resources=(disk(in_use=True, open_access=True),)), NOBODY)
    assert found == {FindingCode.OPEN_DISK_ACCESS: REPORT}


def test_nothing_within_the_grace_time_is_found() -> None:
    things = seen(
        snapshot(created_at=YOUNG),
        containers=tuple(container(kind, created_at=YOUNG) for kind in Store),
        resources=(disk(created_at=YOUNG),),
        leases=(lease(granted_at=YOUNG),),
    )
    assert judge(things, NOBODY, NOW, GRACE) == ()
    assert len(judge(things, NOBODY, NOW, timedelta(minutes=59))) == 6


def test_the_replications_of_vms_with_doubtful_things_are_asked() -> None:
    assert to_ask(seen(snapshot())) == {UUID}
    assert to_ask(seen(snapshot(None))) == frozenset()
    assert to_ask(seen(claim=OURS)) == {UUID}
    recorded = seen(claim=OURS, containers=(container(Store.LOG),), resources=(disk(in_use=True),))
    recorded = replace(recorded, target=replace(recorded.target, recorded=(OURS,)))
    assert to_ask(recorded) == frozenset(), "a site in order is not asked VM by VM"
    idle = replace(recorded, target=replace(recorded.target, resources=(disk(),)))
    assert to_ask(idle) == {UUID}


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        (f"df/lab/{RID}/{CYCLE}", Owner("lab", RID)),
        (f"df/lab/{RID}/0-tracking", Owner("lab", RID)),
        (f"df/Lab/{RID}/{CYCLE}", None),
        ("df/lab/12/x", None),
        ("df/by hand", None),
        ("backup", None),
    ],
)
def test_a_snapshots_name_tells_whose_it_is(name: str, owner: Owner | None) -> None:
    assert owner_of_snapshot(name) == owner


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (f"df-log-{RID}", (Store.LOG, RID)),
        (f"df-gw-{RID}", (Store.GATEWAY, RID)),
        (f"df-seed-{RID}", (Store.SEED, RID)),
        ("df-sites", None),
        (f"df-log-{RID}0", None),
    ],
)
def test_a_containers_name_tells_what_it_is_for(name: str, kind: tuple[Store, str] | None) -> None:
    assert store_of_container(name) == kind


# --- whole sites of random things ------------------------------------------------------------------------------------

_ON_A_BUSY_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

_IDS = st.sampled_from([digit * 16 for digit in "123"])
_UUIDS = st.sampled_from(["vm-1", "vm-2"])
_INSTALLATIONS = st.sampled_from(["lab", "lab", "other"])
_TIMES = st.sampled_from([OLD, YOUNG])
_OWNERS = st.builds(Owner, _INSTALLATIONS, _IDS, st.sampled_from(["london", "paris", ""]), st.sampled_from(["vm-1", "vm-2", ""]))
_RECORDED = st.builds(Owner, _INSTALLATIONS, _IDS, st.sampled_from(["london", "paris"]), _UUIDS, st.just("web"))


@st.composite
def _vms(draw: st.DrawFn, uuid: str) -> SeenVm:
    def here(owner: Owner) -> Owner:
        return replace(owner, site="london", instance_uuid=uuid)

    owners = draw(st.lists(st.none() | _OWNERS.map(here), max_size=3))
    snapshots = tuple(snapshot(o, draw(_TIMES | st.none()), f"{uuid}-{number}") for number, o in enumerate(owners))
    return SeenVm(uuid, uuid, draw(st.none() | _OWNERS.map(here)), draw(st.booleans()), snapshots)


@st.composite
def _containers(draw: st.DrawFn) -> SeenContainer:
    kind, rid = draw(st.sampled_from([(Store.LOG, "log"), (Store.SEED, "seed"), (Store.GATEWAY, "gw")])), draw(_IDS)
    owner = draw(st.none() | _OWNERS.map(lambda one: replace(one, replication_id=rid)))
    return SeenContainer(kind[0], f"df-{kind[1]}-{rid}", draw(_TIMES), owner)


_SEEN = st.builds(
    lambda one, two, containers, resources, leases: Seen(
        SeenSource(AUDIT_VERSION, NOW, (one, two)),
        SeenTarget(AUDIT_VERSION, (), (), tuple(containers), tuple(resources)),
        tuple(SeenLease(f"vm/london/{uuid}", uuid, f"request-{uuid}-{at}", at) for uuid, at in leases),
    ),
    _vms("vm-1"),
    _vms("vm-2"),
    st.lists(_containers(), max_size=4),
    st.lists(st.builds(SeenResource, st.sampled_from(ResourceKind), st.just("/x/y"), _OWNERS, _TIMES, st.booleans()), max_size=2),
    st.lists(st.tuples(_UUIDS, _TIMES), max_size=2),
)
_RUNNING = st.builds(RunningReplication, _UUIDS, st.none() | _IDS, st.booleans(), st.booleans())
_EXISTING = st.builds(
    lambda recorded, unreadable, ended, running, holders: Existing(
        "lab", "london", tuple(recorded), frozenset(unreadable), tuple(ended), tuple(running), frozenset(holders)
    ),
    st.lists(_RECORDED, max_size=2, unique_by=lambda one: one.replication_id),
    st.lists(_IDS, max_size=1),
    st.lists(_RECORDED, max_size=1),
    st.lists(_RUNNING, max_size=2, unique_by=lambda one: one.instance_uuid),
    st.lists(st.sampled_from(["vm/london/vm-1", "vm/london/vm-2"]), max_size=1),
)


def _owner(finding: Finding, things: Seen) -> tuple[Owner | None, datetime | None]:
    """Return what a finding is about says of itself: whose it is, and how old."""
    for vm in things.source.vms:
        for one in vm.snapshots:
            if one.moref == finding.key:
                return one.owner, one.created_at
    for one_container in things.target.containers:
        if one_container.name == finding.key and one_container.owner is not None:
            return one_container.owner, one_container.created_at
    return None, None


def _might_come_back(replication_id: str, uuid: str, existing: Existing) -> bool:
    return (
        any(one.replication_id == replication_id for one in (*existing.recorded, *existing.ended))
        or replication_id in existing.unreadable
        or any(
            not one.parked
            and (one.replication_id == replication_id or (one.replication_id is None and one.instance_uuid == uuid))
            for one in existing.running
        )
    )


@_ON_A_BUSY_MACHINE
@given(_SEEN, _EXISTING)
def test_nothing_of_a_replication_that_runs_or_may_be_adopted_or_of_another_installation_is_ever_repaired(
    things: Seen, existing: Existing
) -> None:
    for finding in judge(things, existing, NOW, GRACE):
        if finding.verdict is not Verdict.REPAIR:
            continue
        if finding.code in (SNAPSHOT, LOG):
            owner, created_at = _owner(finding, things)
            assert owner is not None and owner.installation == "lab"
            assert owner.site == "london" and owner.instance_uuid
            assert created_at is not None and NOW - created_at >= GRACE
            known = [one for one in existing.running if one.replication_id == owner.replication_id]
            if finding.code is SNAPSHOT and known and all(one.parked for one in known):
                continue  # it said itself that it holds no snapshot
            assert not known
            assert not _might_come_back(owner.replication_id, owner.instance_uuid, existing)
        elif finding.code is LEASE:
            uuid = finding.instance_uuid
            assert f"vm/london/{uuid}" not in existing.holders
            assert not any(one.instance_uuid == uuid for one in (*existing.running, *existing.recorded, *existing.ended))
            assert not existing.unreadable
        elif finding.code is FindingCode.DISK_SNAPSHOT:
            rid = finding.replication_id
            assert rid not in {*(one.replication_id for one in (*existing.recorded, *existing.ended)), *existing.unreadable}
            assert rid not in {one.replication_id for one in existing.running}
            of = [one for one in things.target.resources if one.owner.replication_id == rid and one.owner.installation == "lab"]
            assert any(one.created_at is not None and NOW - one.created_at >= GRACE for one in of)
        else:
            assert finding.code is FindingCode.CONSOLIDATION_PENDING
            (vm,) = (one for one in things.source.vms if one.instance_uuid == finding.instance_uuid)
            assert not vm.snapshots
            assert vm.claim is None or fate(vm.claim, existing) is Fate.GONE


@_ON_A_BUSY_MACHINE
@given(_SEEN, _EXISTING)
def test_every_finding_says_what_where_and_what_to_do(things: Seen, existing: Existing) -> None:
    for finding in judge(things, existing, NOW, GRACE):
        assert finding.what.endswith(".") and finding.remedy.endswith((".", ")")) and finding.where and finding.key


@_ON_A_BUSY_MACHINE
@given(_SEEN, _EXISTING)
def test_the_longer_the_grace_time_the_fewer_findings(things: Seen, existing: Existing) -> None:
    keys = [{(f.code, f.key) for f in judge(things, existing, NOW, grace)} for grace in (timedelta(0), timedelta(days=1))]
    assert {code for code, _ in keys[1]} & {SNAPSHOT, LOG, LEASE} <= {code for code, _ in keys[0]} & {SNAPSHOT, LOG, LEASE}


KNOWN = replace(OURS, instance_uuid="vm-0", made_vms=(UUID,))
FORGOTTEN = replace(OURS, instance_uuid="vm-0", made_vms=("vm-9",))


@pytest.mark.parametrize(
    ("existing", "told"),
    [
        (NOBODY, "which neither runs"),
        (replace(NOBODY, recorded=(KNOWN,)), ""),
        (replace(WORKING, recorded=(KNOWN,)), ""),
        (replace(WORKING, recorded=(FORGOTTEN,)), "which does not know of it"),
        (replace(PARKED, recorded=(FORGOTTEN,)), "which does not know of it"),
        (replace(NOBODY, recorded=(FORGOTTEN,)), "which does not know of it"),
        (WORKING, ""),
        (UNREADABLE, ""),
        (ENDED, ""),
    ],
)
def test_a_vm_that_was_made_and_that_nobody_knows_is_reported_and_never_deleted(existing: Existing, told: str) -> None:
    vm = SeenVm(UUID, "web-home", OURS, False, (), made=OURS)
    source = SeenSource(AUDIT_VERSION, NOW, (vm,))
    found = judge(Seen(source, SeenTarget(AUDIT_VERSION, (), (), (), ()), ()), existing, NOW, GRACE)
    of_vm = [one for one in found if one.where == "VM web-home"]
    assert [(one.code, one.verdict) for one in of_vm] == ([(FindingCode.MADE_VM, Verdict.REPORT)] if told else [])
    assert all(told in one.what for one in of_vm)
