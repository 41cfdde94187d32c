"""A small site, simulated: the limits hold, and where a decision is broken on purpose, that is noticed."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from functools import cache
from typing import Any

import pytest

from deltaferry.planning import slots
from deltaferry.planning.simulation import simulate
from deltaferry.planning.simulation_arbiter import ArbiterHistory, Decisions
from deltaferry.planning.simulation_report import SimulationReport, percentile
from deltaferry.planning.simulation_site import (
    GIB,
    Made,
    SimulatedAppliance,
    SimulatedDisk,
    SimulatedSite,
    SimulatedVm,
    default_site,
    make_vms,
)
from deltaferry.planning.simulation_watch import Rule
from deltaferry.planning.slots import Priority, SlotLimits, SlotRequest
from deltaferry.planning.throttle import parse_throttle
from deltaferry.planning.windows import parse_windows
from workflows import site_slots

LIMITS = SlotLimits(disks_per_appliance=5, disks_per_host=4, snapshots_per_datastore=6)
SMALL = Made(
    vms=16, disks=40, hosts=3, datastores=3, used_gib_per_disk=20, waves=2, wave_every=timedelta(hours=5), largest_vm_disks=7
)
SITE = SimulatedSite(
    vms=make_vms(SMALL, 3),
    appliances=(SimulatedAppliance("a1", 200_000_000), SimulatedAppliance("a2", 200_000_000)),
    limits=LIMITS,
    migrations_per_day=8,
    resyncs_per_day=2,
    blackout=parse_windows("Monday;12:00;1h"),
)


@cache
def sound() -> SimulationReport:
    return simulate(SITE, 1.0, 5)


def broken(**functions: Any) -> SimulationReport:
    return simulate(SITE, 1.0, 5, replace(Decisions(), **functions))


def rules(report: SimulationReport) -> set[Rule]:
    assert report.limit_violations >= len(report.violations) > 0
    return {violation.rule for violation in report.violations}


def test_no_limit_is_violated_and_it_was_looked_at() -> None:
    report = sound()
    assert (report.limit_violations, report.violations) == (0, ())
    assert report.checks > 500


def test_all_vms_are_copied_kept_up_to_date_and_migrated_when_asked() -> None:
    report = sound()
    assert report.uncopied == 0
    assert report.copied_after_s is not None
    assert report.copied_after_s > timedelta(hours=5).total_seconds()
    assert report.by_class[Priority.INITIAL] == 16
    assert report.by_class[Priority.DELTA] > 100
    assert report.migrations >= 6
    assert report.by_class[Priority.PRE_FAILOVER] >= 2 * report.migrations


def test_a_pre_failover_cycle_waits_at_most_one_chunk() -> None:
    assert sound().waits[Priority.PRE_FAILOVER].longest_s <= timedelta(minutes=15).total_seconds()


def test_without_giving_way_a_pre_failover_cycle_waits_for_a_whole_initial_replication() -> None:
    copied = SimulatedVm("copied", "esxi-1", (SimulatedDisk("ds-1", GIB),))
    wide = tuple(SimulatedDisk("ds-2", 100 * GIB) for _ in range(4))
    site = replace(
        SITE,
        vms=(copied, SimulatedVm("wide", "esxi-1", wide, enabled_after=timedelta(hours=2))),
        appliances=(SimulatedAppliance("a1", 100_000_000),),
        migrations_per_day=1,
        resyncs_per_day=0,
    )
    chunk_s = timedelta(minutes=15).total_seconds()
    never = simulate(site, 1.0, 3, Decisions(to_yield=lambda *_, **__: ()))
    assert never.waits[Priority.PRE_FAILOVER].longest_s > 3 * chunk_s
    giving_way = simulate(site, 1.0, 3)  # asked for at 2:38
    assert 0 < giving_way.waits[Priority.PRE_FAILOVER].longest_s <= chunk_s
    assert (never.arbiter.yields, giving_way.arbiter.yields) == (0, 2)  # for the on-demand delta, and for the final one


def test_the_same_site_and_seed_give_the_same_course() -> None:
    assert simulate(SITE, 1.0, 5) == sound()
    assert simulate(SITE, 1.0, 6) != sound()


def test_deltas_keep_the_formulas_interval_where_nothing_makes_them_wait() -> None:
    """A cycle of about a minute, an hour, a cycle: the time from a snapshot to the next commit is little more than an hour."""
    vms = tuple(SimulatedVm(f"vm-{n}", f"esxi-{n}", (SimulatedDisk(f"ds-{n}", GIB),)) for n in range(3))
    report = simulate(SimulatedSite(vms, migrations_per_day=0, resyncs_per_day=0), 1.0, 1)
    assert report.waits[Priority.DELTA].longest_s == 0
    assert timedelta(hours=1).total_seconds() < report.rpo.p99_s < timedelta(hours=1, minutes=3).total_seconds()
    assert report.by_class[Priority.DELTA] == pytest.approx(3 * 23, abs=4)


def test_cycles_start_again_when_a_window_ends_and_the_wait_for_it_does_not_count() -> None:
    vms = (SimulatedVm("vm-1", "esxi-1", (SimulatedDisk("ds-1", GIB),)),)
    site = SimulatedSite(vms, migrations_per_day=0, resyncs_per_day=0, blackout=parse_windows("Monday;6:00;6h"))
    report = simulate(site, 1.0, 1)
    assert report.waits[Priority.DELTA].longest_s == 0
    assert report.rpo.longest_s > timedelta(hours=6).total_seconds()


def test_a_throttle_makes_initial_replications_slower() -> None:
    site = replace(SITE, throttle=parse_throttle("20 Mbit/s"), migrations_per_day=0)
    assert simulate(site, 1.0, 5).uncopied > sound().uncopied


def test_who_is_over_the_replications_of_the_site_waits_until_one_has_migrated() -> None:
    site = replace(SITE, limits=replace(LIMITS, replications_per_site=14))
    report = simulate(site, 1.0, 5)
    assert report.limit_violations == 0
    assert report.by_class[Priority.INITIAL] == min(16, 14 + report.migrations)


def grant_everything(waiting: Iterable[SlotRequest], *_: object, **__: object) -> tuple[SlotRequest, ...]:
    return tuple(waiting)


def test_a_grant_that_ignores_the_limits_is_noticed() -> None:
    assert rules(broken(grant=grant_everything)) >= {Rule.HOST, Rule.DATASTORE, Rule.BULK}


def test_a_grant_that_ignores_the_windows_is_noticed() -> None:
    def whatever_window(*given: Any, **named: Any) -> tuple[SlotRequest, ...]:
        return slots.grant(*given, **{**named, "closed_appliances": frozenset()})

    assert rules(broken(grant=whatever_window)) == {Rule.BLACKOUT}


@pytest.mark.parametrize("factor", [{"disks_per_host": 5}, {"disks_per_appliance": 6}, {"snapshots_per_datastore": 7}])
def test_a_grant_that_is_one_slot_too_generous_is_noticed(factor: dict[str, int]) -> None:
    def generous(waiting: Any, leases: Any, limits: SlotLimits, *rest: Any, **named: Any) -> tuple[SlotRequest, ...]:
        return slots.grant(waiting, leases, replace(limits, **factor), *rest, **named)  # type: ignore[arg-type]

    rules(broken(grant=generous))


def test_a_grant_that_lets_somebody_wait_for_nothing_is_noticed() -> None:
    def only_others(*given: Any, **named: Any) -> tuple[SlotRequest, ...]:
        return tuple(request for request in slots.grant(*given, **named) if request.holder != "vm/vm-007")

    assert rules(broken(grant=only_others)) == {Rule.NEEDLESS_WAIT}


def test_an_assignment_over_the_limit_is_noticed() -> None:
    site = replace(SITE, limits=replace(LIMITS, replications_per_appliance=8))
    report = simulate(site, 0.5, 5, Decisions(assign=lambda *_: "a1"))
    assert rules(report) == {Rule.REPLICATIONS}


def test_the_arbiters_runs_stay_below_what_the_server_suggests() -> None:
    assert 0 < sound().arbiter.max_events <= 4096
    history = ArbiterHistory()
    for _ in range(200):
        history.decided(received=500, sent=110, timed=True)  # a window ends for 500 replications: the largest there is
    assert history.most <= 4096
    assert history.runs > 20
    assert history.roll_over_at == site_slots._LONGEST_HISTORY


def test_a_made_up_site_has_exactly_what_was_asked_for() -> None:
    site = default_site()
    assert len(site.vms) == 500
    assert sum(len(vm.disks) for vm in site.vms) == 1200
    assert len({vm.host for vm in site.vms}) == 20
    assert len({disk.datastore for vm in site.vms for disk in vm.disks}) == 12
    assert len(site.appliances) == 2
    assert len({vm.enabled_after for vm in site.vms}) == 5
    assert sum(vm.used_bytes for vm in site.vms) == pytest.approx(1200 * 60 * GIB, rel=1e-6)
    assert make_vms(Made(), 1) == site.vms
    assert make_vms(Made(), 2) != site.vms


def test_counts_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="write from 10 to 120 disks"):
        make_vms(Made(vms=10, disks=121), 1)
    assert {len(vm.disks) for vm in make_vms(Made(vms=10, disks=120), 1)} == {12}


def test_a_percentile_is_the_value_that_so_many_are_not_above() -> None:
    assert [percentile(list(range(1, 101)), share) for share in (0.5, 0.99, 1.0)] == [50, 99, 100]
    assert percentile([], 0.5) == 0


@pytest.mark.chaos
@pytest.mark.parametrize("seed", [1, 2])
def test_a_week_of_500_vms_keeps_every_limit_and_lets_no_migration_wait_longer_than_a_chunk(seed: int) -> None:
    report = simulate(default_site(seed), 7.0, seed)
    assert report.limit_violations == 0
    assert report.checks > 100_000
    assert report.uncopied == 0
    assert report.waits[Priority.PRE_FAILOVER].longest_s <= timedelta(minutes=15).total_seconds()
    assert report.arbiter.max_events <= 4096
    assert report.rpo.p50_s < timedelta(hours=1, minutes=3).total_seconds()  # the formula's interval, and a cycle
