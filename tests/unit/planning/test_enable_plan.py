"""What enabling many VMs will mean: findings, bytes, time, and the limits that bind."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltaferry.model.inventory import DiscoveredVm
from deltaferry.model.units import MIB
from deltaferry.model.vm import Claim, DatastoreSpace
from deltaferry.planning.enable_plan import SiteFacts, Verdict, Wanted, plan
from deltaferry.planning.findings import FindingCode
from deltaferry.planning.measured_rate import ASSUMED_BYTES_PER_S, Rate, Sample, rate_of
from deltaferry.planning.slots import SlotLimits

from .discovered import GIB, discovered, disk, snapshot

SITE = SiteFacts("lab", {"appliance-1": 0}, SlotLimits(), {"ds1": DatastoreSpace("ds1", 1000 * GIB, 900 * GIB)})
FAST = Rate(GIB, True, "")


def wanted(*vms: DiscoveredVm) -> list[Wanted]:
    return [Wanted(vm, vm.vm.name) for vm in vms]


def many(count: int, *, hosts: int = 100, disks: int = 1, gib: int = 10) -> list[Wanted]:
    made = tuple(disk(number, gib * GIB // disks) for number in range(disks))
    return wanted(*(discovered(f"vm-{n:03d}", host=f"esxi-{n % hosts}", disks=made) for n in range(count)))


def limits(site: SiteFacts, vms: list[Wanted]) -> dict[tuple[str, str], tuple[int, int]]:
    return {(limit.limit, limit.where): (limit.wanted, limit.allowed) for limit in plan(vms, site, FAST).limits}


def with_limits(**values: int) -> SiteFacts:
    """Return a site whose limits are so high that only those given can bind."""
    loose = SlotLimits(disks_per_appliance=10**6, disks_per_host=10**6, snapshots_per_datastore=10**6)
    return replace(SITE, limits=replace(loose, **values))  # type: ignore[arg-type]


# --- rates ---


def test_without_a_measurement_the_rate_is_said_to_be_assumed() -> None:
    rate = rate_of([])
    assert (rate.bytes_per_s, rate.measured) == (ASSUMED_BYTES_PER_S, False)
    assert "30 MiB/s for each VM is assumed" in rate.sentence


def test_first_copies_count_before_other_cycles_by_bytes_over_time() -> None:
    samples = [
        Sample(True, 100 * MIB, timedelta(seconds=1)),
        Sample(True, 300 * MIB, timedelta(seconds=3)),
        Sample(False, 500 * MIB, timedelta(seconds=1)),
    ]
    rate = rate_of(samples)
    assert rate.bytes_per_s == 100 * MIB
    assert rate.sentence == "100 MiB/s for each VM, as 2 initial replications of this site measured."
    assert rate_of(samples[2:]).sentence == "500 MiB/s for each VM, as 1 cycle of this site measured."


def test_cycles_that_read_next_to_nothing_do_not_count() -> None:
    assert not rate_of([Sample(False, 4096, timedelta(seconds=5)), Sample(True, 10 * MIB, timedelta(0))]).measured


# --- findings ---


def test_the_checks_that_the_inventory_allows_are_made_for_every_vm() -> None:
    sound, snapshotted = discovered("sound"), discovered("snapped", snapshots=(snapshot("old"),))
    result = plan(wanted(sound, snapshotted), SITE, FAST)
    first, second = result.vms
    assert (first.verdict, second.verdict) == (Verdict.ENABLED, Verdict.REFUSED)
    assert FindingCode.SNAPSHOTS_PRESENT in [finding.code for finding in second.findings]
    assert (result.disks, result.read_bytes) == (1, 40 * GIB), "what is refused is not copied"


def test_a_vm_that_is_replicated_already_is_no_finding_and_is_not_copied() -> None:
    vm = discovered("web-01", claim=Claim("lab", "0" * 16))
    result = plan([Wanted(vm, "web-01", replicated_by="replication 0000000000000000")], SITE, FAST)
    assert result.vms[0].verdict is Verdict.ALREADY
    assert FindingCode.ALREADY_PROTECTED not in [finding.code for finding in result.vms[0].findings]
    assert result.read_bytes == 0


def test_two_vms_that_get_one_name_in_azure_are_told() -> None:
    vms = [
        Wanted(discovered("twin", folder="/a"), "Shop"),
        Wanted(discovered("twin", folder="/b"), "shop"),
        Wanted(discovered("x"), "x"),
    ]
    taken = [FindingCode.TARGET_NAME_TAKEN in [f.code for f in vm.findings] for vm in plan(vms, SITE, FAST).vms]
    assert taken == [True, True, False]


def test_a_datastore_that_is_short_of_space_refuses_its_vms_and_binds() -> None:
    full = replace(SITE, datastores={"ds1": DatastoreSpace("ds1", 1000 * GIB, 5 * GIB)})
    result = plan(wanted(discovered("web-01")), full, FAST)
    assert [finding.code for finding in result.vms[0].findings if finding.severity.value == "error"] == [
        FindingCode.DATASTORE_FULL
    ]


# --- bytes and time ---


def test_the_bytes_to_read_are_those_that_are_committed_where_that_is_known() -> None:
    thin, unknown = discovered("thin", committed=4 * GIB), discovered("unknown")
    result = plan(wanted(thin, unknown), SITE, FAST)
    assert [vm.read_bytes for vm in result.vms] == [4 * GIB, 40 * GIB]
    assert (result.capacity_bytes, result.read_bytes, result.in_turn_s) == (80 * GIB, 44 * GIB, 44.0)


@pytest.mark.parametrize(
    ("site", "vms", "expected_s"),
    [
        pytest.param(with_limits(), many(10), 10.0, id="all at once"),
        pytest.param(with_limits(disks_per_appliance=2), many(10), 50.0, id="two at once on the appliance"),
        pytest.param(with_limits(disks_per_host=1), many(10, hosts=2), 50.0, id="one at once on each of two hosts"),
        pytest.param(with_limits(snapshots_per_datastore=6), many(10), 30.0, id="two thirds of a datastore's snapshots"),
        pytest.param(with_limits(disks_per_host=2), many(2, hosts=1, disks=4), 20.0, id="more disks than a host's limit: alone"),
        pytest.param(with_limits(snapshots_per_datastore=3), many(2, disks=4), 20.0, id="more disks than a datastore's: alone"),
    ],
)
def test_the_time_follows_the_rule_by_which_slots_are_granted(site: SiteFacts, vms: list[Wanted], expected_s: float) -> None:
    assert plan(vms, site, FAST).side_by_side_s == pytest.approx(expected_s)


def test_where_a_limit_is_zero_nothing_ends() -> None:
    assert plan(many(2), with_limits(disks_per_appliance=0), FAST).side_by_side_s is None


@given(st.lists(st.integers(1, 50), min_size=1, max_size=12), st.integers(1, 8), st.integers(2, 12))
def test_side_by_side_lies_between_the_longest_and_all_in_turn(sizes: list[int], disks_per_host: int, snapshots: int) -> None:
    vms = wanted(*(discovered(f"vm-{n}", host=f"esxi-{n % 2}", disks=(disk(0, size * GIB),)) for n, size in enumerate(sizes)))
    result = plan(vms, with_limits(disks_per_host=disks_per_host, snapshots_per_datastore=snapshots), FAST)
    assert result.side_by_side_s is not None
    assert max(sizes) <= result.side_by_side_s + 1e-6
    assert result.side_by_side_s <= result.in_turn_s + 1e-6


# --- limits ---


def test_few_vms_bind_no_limit() -> None:
    assert limits(SITE, many(5)) == {}


def test_every_limit_that_binds_is_told_with_its_numbers() -> None:
    site = replace(SITE, appliances={"appliance-1": 480})
    assert limits(site, many(60, hosts=2)) == {
        ("replications_per_site", ""): (540, 500),
        ("replications_per_appliance", ""): (540, 300),
        ("disks_per_appliance", "appliance-1"): (60, 52),
        ("disks_per_host", "esxi-0"): (30, 8),
        ("disks_per_host", "esxi-1"): (30, 8),
        ("snapshots_per_datastore", "ds1"): (60, 10),
    }


def test_the_sentences_say_what_is_counted() -> None:
    sentences = " ".join(limit.sentence for limit in plan(many(60, hosts=2), SITE, FAST).limits)
    assert "transfers 52 disks at once; these are 60." in sentences
    assert "hold 10 disk snapshots at once on the datastore ds1, two thirds of 15; these need 60." in sentences


def test_scale_out_appliances_share_the_vms_and_their_limits_add_up() -> None:
    alone, shared = with_limits(disks_per_appliance=2), replace(with_limits(disks_per_appliance=2), appliances={"a": 0, "b": 0})
    assert plan(many(12), alone, FAST).side_by_side_s == pytest.approx(60.0)
    assert plan(many(12), shared, FAST).side_by_side_s == pytest.approx(30.0)
    assert limits(shared, many(12)) == {("disks_per_appliance", "a"): (6, 2), ("disks_per_appliance", "b"): (6, 2)}
    full = replace(SITE, appliances={"a": 300, "b": 100}, limits=replace(SITE.limits, replications_per_site=1000))
    assert ("replications_per_appliance", "") not in limits(full, many(200))
    assert limits(full, many(201))["replications_per_appliance", ""] == (601, 600)


def test_the_throttle_of_now_binds_where_it_is_slower_than_the_slots() -> None:
    site = replace(with_limits(), throttle_bytes_per_s=1.0 * GIB)
    (limit,) = plan(many(10), site, FAST).limits
    assert (limit.limit, limit.wanted, limit.allowed) == ("throttle", 10 * GIB, GIB)
    assert "without compression these would take 1 min 40 s" in limit.sentence
    assert plan(many(1), site, FAST).limits == ()


def test_five_hundred_vms_are_planned() -> None:
    result = plan(many(500, hosts=20, disks=2), SITE, FAST)
    assert result.disks == 1000
    assert result.side_by_side_s == pytest.approx(1000.0), "ten disk snapshots at once: five VMs of ten seconds"
