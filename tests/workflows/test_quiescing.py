"""Cycles that have the guest quiesced (spec §8): by the policy's frequency, with what was obtained on record, at no cycle's cost."""

import pytest

from deltaferry.model.errors import ErrorKind
from deltaferry.model.quiescing import QuiesceAnswer, QuiesceOutcome
from deltaferry.model.recovery_points import PointKind
from deltaferry.model.replication import CycleKind
from deltaferry.planning.dr_states import DrState
from tests.workflows.site_bench import QUICK, Bench, Running
from tests.workflows.test_showing import details_of
from tests.workflows.world import QUIESCED
from workflows.messages.dr import PinPointInput
from workflows.messages.step import BeginCycleInput

_POLICY = {"name": "gold", "rpo_threshold": "PT4H", "retention": "P1D", "app_consistent_every": "PT4H"}
_FAILED = QuiesceOutcome(QuiesceAnswer.FAILED, PointKind.CRASH_CONSISTENT, "A VSS writer failed.")
_NO_TOOLS = QuiesceOutcome(QuiesceAnswer.NOT_ASKED, PointKind.CRASH_CONSISTENT, "VMware Tools do not run in the guest.")


async def _under_policy(bench: Bench) -> Running:
    """Return a replication with cycles in quick succession, of which the first is the first under the policy."""
    bench.profile(min_interval=QUICK)
    running = await bench.replicated()
    await running.update("pause")
    await running.update("update_policy", _POLICY)
    bench.world.calls.clear()
    await running.update("resume")
    return running


def _asked(bench: Bench) -> list[bool]:
    """Return of each cycle whether it was to have the guest quiesced."""
    return [request.quiesce is not None for request in bench.world.inputs("begin_cycle", BeginCycleInput)]


async def test_the_first_delta_under_a_policy_is_quiesced_and_the_others_wait_for_the_frequency(bench: Bench) -> None:
    running = await _under_policy(bench)
    records = await running.until_recorded(lambda r: sum(record.committed for record in r) >= 3, "three cycles")
    assert _asked(bench)[:3] == [True, False, False]
    app, crash = PointKind.APP_CONSISTENT, PointKind.CRASH_CONSISTENT
    assert [record.consistency for record in records[:3]] == [app, crash, crash]
    assert [record.quiesced for record in records[:3]] == ["The guest was quiesced.", "", ""]
    assert [(point.kind, point.note) for point in bench.world.points[1:3]] == [(app, ""), (crash, "")]
    view = await running.status()
    assert view.points is not None and view.points.latest_app_consistent is not None
    assert view.points.latest_app_consistent.cycle_key == records[0].cycle_key


async def test_a_quiesce_that_fails_fails_no_cycle_says_why_and_is_not_repeated_at_once(bench: Bench) -> None:
    bench.world.quiesced = _FAILED
    running = await _under_policy(bench)
    records = await running.until_recorded(lambda r: len(r) >= 3, "three cycles")
    assert all(record.committed for record in records)
    assert (records[0].consistency, records[0].quiesced) == (PointKind.CRASH_CONSISTENT, "A VSS writer failed.")
    assert (bench.world.points[1].kind, bench.world.points[1].note) == (PointKind.CRASH_CONSISTENT, "A VSS writer failed.")
    assert _asked(bench)[:3] == [True, False, False]
    assert (await running.status()).health == ()


async def test_a_guest_that_could_not_be_asked_is_asked_by_every_cycle(bench: Bench) -> None:
    bench.world.quiesced = _NO_TOOLS
    running = await _under_policy(bench)
    await running.until_recorded(lambda r: len(r) >= 2, "two cycles")
    bench.world.quiesced = QUIESCED
    records = await running.until_recorded(
        lambda r: bool(r) and any(record.consistency is PointKind.APP_CONSISTENT for record in r[:-1]), "one more cycle"
    )
    asked, kinds = _asked(bench), [record.consistency for record in records]
    quiesced = kinds.index(PointKind.APP_CONSISTENT)
    assert quiesced >= 2
    assert asked[: quiesced + 2] == [True] * (quiesced + 1) + [False]


async def test_a_cycle_that_fails_when_it_has_asked_does_not_have_the_next_one_ask_again(bench: Bench) -> None:
    bench.world.fail("begin_cycle", ErrorKind.VSPHERE_UNREACHABLE)
    running = await _under_policy(bench)
    await running.until_recorded(lambda r: any(record.committed for record in r), "a committed cycle")
    assert _asked(bench)[:2] == [True, False]


async def test_the_cycles_of_a_failover_are_not_quiesced(bench: Bench) -> None:
    running = await bench.replicated()
    await running.update("update_policy", _POLICY)
    await running.update("planned_failover")
    await running.until_migration(DrState.FAILED_OVER)
    begun = bench.world.inputs("begin_cycle", BeginCycleInput)
    assert [request.kind for request in begun] == [CycleKind.ON_DEMAND, CycleKind.FINAL]
    assert _asked(bench) == [False, False]


async def test_a_run_that_continues_as_new_knows_when_the_guest_was_quiesced(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workflows.policies.CYCLES_PER_RUN", 1)
    running = await _under_policy(bench)
    await running.until_committed(4)
    assert bench.world.archived, "it was continued as new"
    assert _asked(bench)[:3] == [True, False, False]


async def test_what_the_details_show_of_a_point_that_is_less_than_was_asked_for(bench: Bench) -> None:
    bench.world.quiesced = _FAILED
    held = bench.world.hold("begin_cycle", skip=1)
    running = await _under_policy(bench)
    await held.reached()
    view = await running.status()
    assert view.points is not None
    assert (view.points.newest[0].kind, view.points.newest[0].note) == (PointKind.CRASH_CONSISTENT, "A VSS writer failed.")
    page = await details_of(running.handle)
    assert "- **Latest point:** crash-consistent: A VSS writer failed." in page
    assert "Quiescing: crash-consistent. A VSS writer failed." in page
    held.release()


async def test_a_failover_to_the_latest_app_consistent_point_goes_behind_later_ones(bench: Bench) -> None:
    running = await _under_policy(bench)
    records = await running.until_recorded(lambda r: sum(record.committed for record in r) >= 3, "three cycles")
    await running.update("failover", {"point": "latest-app-consistent", "shut_down_source": False})
    view = await running.until_migration(DrState.FAILED_OVER)
    assert view.failover is not None and view.failover.point_key == records[0].cycle_key
    assert bench.world.inputs("pin_point", PinPointInput)[-1].choice.choice.value == "latest-app-consistent"
