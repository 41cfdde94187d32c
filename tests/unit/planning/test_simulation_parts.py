"""What a simulation is made of: the shared line, churn, and the watch over the limits with the spec's exceptions."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from deltaferry.planning.simulation_draws import Draws
from deltaferry.planning.simulation_links import Lane, Line
from deltaferry.planning.simulation_site import Churn, changed_bytes, written_bytes
from deltaferry.planning.simulation_watch import LimitWatch, Rule
from deltaferry.planning.slots import Priority, SlotLimits, without_transfer

from .slot_asks import NOW, ask, hold

MIGRATION, INITIAL = Priority.PRE_FAILOVER, Priority.INITIAL
HOUR_S = 3600.0


def test_transfers_share_a_line_by_their_disks_and_the_last_gets_all_of_it() -> None:
    line = Line(100.0, 1000.0, 10.0, 4)
    line.start(0.0, 1, Lane.ORDINARY, 3, 300.0)
    line.start(0.0, 2, Lane.ORDINARY, 1, 100.0)
    assert line.next_end() == (4.0, 2)  # 25 bytes a second for each of 4 disks
    assert line.stop(4.0, 2) == pytest.approx(0)
    assert line.next_end() == (pytest.approx(4.0 + 200 / (100 / 3)), 1)


def test_what_is_left_of_a_transfer_that_gives_way_is_kept() -> None:
    line = Line(100.0, 1000.0, 10.0, 4)
    line.start(0.0, 1, Lane.ORDINARY, 1, 300.0)
    assert line.stop(1.0, 1) == pytest.approx(200.0)
    assert line.next_end() is None


def test_no_disk_is_moved_faster_than_a_disk_can_be() -> None:
    line = Line(1000.0, 20.0, 10.0, 4)
    line.start(0.0, 1, Lane.ORDINARY, 1, 200.0)
    assert line.next_end() == (10.0, 1)


def test_a_pre_failover_cycle_gets_its_larger_share() -> None:
    line = Line(100.0, 1000.0, 10.0, 4)
    line.start(0.0, 1, Lane.ORDINARY, 1, 1000.0)
    line.start(0.0, 2, Lane.PRE_FAILOVER, 1, 80.0)
    assert line.next_end() == (1.0, 2)


def test_a_resync_reads_at_its_own_rate_and_leaves_the_line_to_others() -> None:
    line = Line(100.0, 1000.0, 10.0, 4)
    line.start(0.0, 1, Lane.ORDINARY, 1, 1000.0)
    line.start(0.0, 2, Lane.COMPARING, 1, 200.0)
    assert line.next_end() == (10.0, 1)


def test_a_throttle_holds_for_what_runs() -> None:
    line = Line(100.0, 1000.0, 10.0, 4)
    line.start(0.0, 1, Lane.ORDINARY, 1, 1000.0)
    line.limit(5.0, 10.0)
    assert line.next_end() == (55.0, 1)


def test_more_is_written_by_day_than_by_night() -> None:
    churn = Churn(100, 10, 7, 19)
    assert written_bytes(churn, 0, 24 * HOUR_S) == pytest.approx((12 * 100 + 12 * 10) * HOUR_S)
    assert written_bytes(churn, 18 * HOUR_S, 20 * HOUR_S) == pytest.approx(110 * HOUR_S)
    assert written_bytes(churn, 44 * HOUR_S, 46 * HOUR_S) == pytest.approx(20 * HOUR_S)


def test_what_is_written_again_travels_once() -> None:
    assert changed_bytes(1000, 1.0, 0.1) == pytest.approx(1.0, rel=0.01)
    assert changed_bytes(1000, 10_000.0, 0.1) == pytest.approx(100.0)
    assert changed_bytes(0, 10.0, 0.1) == 0


def test_draws_are_the_same_for_the_same_seed_and_spread_evenly() -> None:
    first, second = Draws(7), Draws(7)
    numbers = [first.uniform() for _ in range(2000)]
    assert numbers == [second.uniform() for _ in range(2000)]
    assert all(0 <= number < 1 for number in numbers)
    assert sum(numbers) / 2000 == pytest.approx(0.5, abs=0.03)
    assert set(Counter(first.below(4) for _ in range(400))) == {0, 1, 2, 3}


@pytest.fixture
def watch() -> LimitWatch:
    return LimitWatch(SlotLimits(), timedelta(minutes=15))


def seen(watch: LimitWatch) -> list[Rule]:
    return [violation.rule for violation in watch.violations]


def test_the_watch_counts_disks_on_hosts_and_on_appliances(watch: LimitWatch) -> None:
    watch.let_in(NOW, hold(ask("one", 8, datastores=())), closed=False)
    assert seen(watch) == []
    watch.let_in(NOW, hold(ask("two", 1, datastores=())), closed=False)
    assert seen(watch) == [Rule.HOST]
    for number in range(6):
        watch.let_in(NOW, hold(ask(f"far-{number}", 8, host=f"far-{number}", datastores=())), closed=False)
    assert seen(watch) == [Rule.HOST, Rule.APPLIANCE]


def test_the_watch_knows_the_specs_exceptions(watch: LimitWatch) -> None:
    watch.let_in(NOW, hold(ask("alone", 4, datastores=(("wide", 20),))), closed=False)
    watch.let_in(NOW, hold(ask("m", 2, MIGRATION, datastores=(("wide", 20),))), closed=True)
    assert seen(watch) == []
    watch.let_in(NOW, hold(ask("one-more", 1, datastores=(("wide", 1),))), closed=False)
    assert seen(watch) == [Rule.DATASTORE]


def test_the_watch_counts_two_thirds_for_bulk(watch: LimitWatch) -> None:
    watch.let_in(NOW, hold(ask("i", 4, INITIAL, datastores=(("ds", 10),))), closed=False)
    watch.let_in(NOW, hold(ask("d", 1, datastores=(("ds", 5),))), closed=False)
    assert seen(watch) == []
    watch.ended(NOW, "vm/d")
    watch.let_in(NOW, hold(ask("r", 1, Priority.RESYNC, datastores=(("ds", 1),))), closed=False)
    assert seen(watch) == [Rule.BULK]


def test_the_watch_notices_a_second_snapshot_a_closed_window_and_a_late_chunk(watch: LimitWatch) -> None:
    lease = hold(ask("one", 2))
    watch.let_in(NOW, lease, closed=True)
    watch.gave_way(NOW, "vm/one", NOW - timedelta(minutes=16))
    watch.let_in(NOW, without_transfer(lease), closed=False)
    assert seen(watch) == [Rule.BLACKOUT, Rule.CHUNK, Rule.ONE_SNAPSHOT]


def test_the_watch_tells_who_waits_for_nothing_from_who_stands_behind_another(watch: LimitWatch) -> None:
    at = datetime(2026, 3, 1, 13, tzinfo=UTC)
    watch.let_in(NOW, hold(ask("held", 6, datastores=())), closed=False)
    wide, small, far = ask("wide", 4, INITIAL), ask("small", 1), ask("far", 1, host="esxi-2", appliance="a2", datastores=())
    assert watch.waits(at, [wide, small]) == {Rule.HOST: 1}
    assert seen(watch) == []
    watch.waits(at, [wide, small, far])
    assert [(violation.rule, violation.who) for violation in watch.violations] == [(Rule.NEEDLESS_WAIT, "vm/far")]
