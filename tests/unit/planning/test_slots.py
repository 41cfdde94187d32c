from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from deltaferry.planning.slots import (
    Lease,
    Priority,
    SlotLimits,
    SlotRequest,
    effective_priority,
    grant,
    in_order,
    refusal_of_replication,
)

from .slot_asks import LIMITS, NOW, REQUESTS, SMALL, ask, hold, names


def test_a_vector_is_granted_whole_or_not_at_all() -> None:
    held = hold(ask("held", 7))
    assert grant([ask("two", 2)], [held], LIMITS, NOW) == ()
    assert names(grant([ask("one", 1)], [held], LIMITS, NOW)) == ["one"]


@pytest.mark.parametrize("place", [{"host": "esxi-2"}, {"host": "esxi-2", "appliance": "a2"}])
def test_other_hosts_have_slots_of_their_own(place: dict[str, str]) -> None:
    request = replace(ask("far", 8, datastores=(("ds2", 8),)), **place)
    assert names(grant([request], [hold(ask("held", 8))], LIMITS, NOW)) == ["far"]


def test_the_appliances_slots_are_shared_by_all_its_hosts() -> None:
    held = [hold(ask(f"h{number}", 8, host=f"esxi-{number}", datastores=())) for number in range(6)]  # 48 of 52
    assert grant([ask("five", 5, host="esxi-9", datastores=())], held, LIMITS, NOW) == ()
    assert names(grant([ask("four", 4, host="esxi-9", datastores=())], held, LIMITS, NOW)) == ["four"]


def test_a_vm_with_more_disks_than_a_transfer_limit_asks_for_the_limit() -> None:
    (granted,) = grant([ask("big", 60, datastores=(("ds1", 12),))], [], LIMITS, NOW)
    assert granted.disks == 8
    (lowered,) = grant([ask("big", 60, datastores=())], [], replace(LIMITS, disks_per_appliance=3), NOW)
    assert lowered.disks == 3


def test_a_vm_with_more_disks_than_the_snapshot_limit_runs_alone() -> None:
    big = ask("big", 20)
    assert names(grant([big], [], LIMITS, NOW)) == ["big"]
    assert grant([big], [hold(ask("held", 1, host="esxi-2"))], LIMITS, NOW) == ()
    assert grant([ask("small", 1, host="esxi-2")], [hold(replace(big, disks=8))], LIMITS, NOW) == ()


def test_initial_replications_and_resyncs_hold_at_most_two_thirds_of_a_datastore() -> None:
    bulk = [hold(ask("i", 6, Priority.INITIAL, host="esxi-1")), hold(ask("r", 3, Priority.RESYNC, host="esxi-2"))]  # 9 of 10
    assert grant([ask("two", 2, Priority.INITIAL, host="esxi-3")], bulk, LIMITS, NOW) == ()
    assert names(grant([ask("one", 1, Priority.RESYNC, host="esxi-3")], bulk, LIMITS, NOW)) == ["one"]
    assert names(grant([ask("delta", 6, host="esxi-3")], bulk, LIMITS, NOW)) == ["delta"]


def test_an_initial_replication_of_more_than_two_thirds_runs_without_others_of_its_kind() -> None:
    wide = ask("wide", 12, Priority.INITIAL)
    delta = hold(ask("delta", 2, host="esxi-2"))
    assert names(grant([wide], [delta], LIMITS, NOW)) == ["wide"]
    assert grant([wide], [hold(ask("other", 1, Priority.INITIAL, host="esxi-2"))], LIMITS, NOW) == ()


def test_a_migration_never_waits_for_a_snapshot_slot_unless_the_datastore_is_short_of_space() -> None:
    full = [hold(ask("held", 15, host="esxi-2", datastores=(("ds1", 15),)))]
    migration = ask("migration", 2, Priority.PRE_FAILOVER)
    assert names(grant([migration], full, LIMITS, NOW)) == ["migration"]
    assert grant([migration], full, LIMITS, NOW, short_of_space=frozenset({"ds1"})) == ()


def test_order_is_by_class_then_running_then_ticket() -> None:
    waiting = [
        ask("delta", ticket=1), ask("initial-new", priority=Priority.INITIAL, ticket=2), ask("resync", priority=Priority.RESYNC, ticket=3),
        ask("initial-chunk", priority=Priority.INITIAL, ticket=4, in_progress=True), ask("migration", priority=Priority.PRE_FAILOVER, ticket=5),
        ask("delta-later", ticket=6),
    ]  # fmt: skip
    assert names(in_order(waiting, LIMITS, NOW)) == [
        "migration",
        "initial-chunk",
        "initial-new",
        "resync",
        "delta",
        "delta-later",
    ]


@pytest.mark.parametrize(("hours", "priority"), [(0, 4), (0.99, 4), (1, 3), (2, 2), (50, 2)])
def test_waiting_raises_a_delta_by_one_class_an_hour_but_never_to_a_migrations(hours: float, priority: int) -> None:
    assert effective_priority(ask("delta", waited=timedelta(hours=hours)), LIMITS, NOW) == priority


def test_what_gave_way_goes_on_before_what_age_has_raised_to_its_class() -> None:
    """It holds snapshots meanwhile, and it comes to an end."""
    waiting = [
        ask("gave-way", priority=Priority.INITIAL, ticket=9, in_progress=True),
        ask("risen", ticket=1, waited=timedelta(hours=3)),
        ask("new", priority=Priority.INITIAL, ticket=0),
    ]
    assert names(in_order(waiting, LIMITS, NOW)) == ["gave-way", "risen", "new"]


def test_deltas_that_have_risen_do_not_starve_an_initial_replication_that_waited_as_long() -> None:
    waiting = [
        ask("initial", priority=Priority.INITIAL, ticket=1, waited=timedelta(hours=4)),
        ask("risen", ticket=2, waited=timedelta(hours=3)),
        ask("young", priority=Priority.INITIAL, ticket=3, waited=timedelta(minutes=59)),
    ]
    assert names(in_order(waiting, LIMITS, NOW)) == ["initial", "risen", "young"]


def test_a_request_from_the_future_has_not_waited() -> None:
    assert effective_priority(ask("delta", waited=timedelta(hours=-5)), LIMITS, NOW) == Priority.DELTA


def test_smaller_requests_pass_a_young_one_that_does_not_fit_but_not_an_old_one() -> None:
    held = [hold(ask("held", 4))]
    small = ask("small", 1, ticket=2)
    young, old = ask("wide", 6, ticket=1, waited=timedelta(minutes=9)), ask("wide", 6, ticket=1, waited=timedelta(minutes=11))
    assert names(grant([young, small], held, LIMITS, NOW)) == ["small"]
    assert names(grant([old, small], held, LIMITS, NOW)) == []
    beside = ask("beside", 2, ticket=3, host="esxi-2")
    assert names(grant([old, small, beside], held, LIMITS, NOW)) == ["beside"]


def test_a_migration_passes_a_reservation() -> None:
    old = ask("wide", 6, ticket=1, waited=timedelta(hours=9))
    assert names(grant([old, ask("migration", 1, Priority.PRE_FAILOVER, ticket=2)], [hold(ask("held", 4))], LIMITS, NOW)) == [
        "migration"
    ]


def test_room_is_kept_for_a_migration_at_once() -> None:
    migration = ask("migration", 6, Priority.PRE_FAILOVER)
    assert grant([migration, ask("small", ticket=1)], [hold(ask("held", 4))], LIMITS, NOW) == ()


def test_who_lacks_snapshot_slots_leaves_transfer_slots_to_others() -> None:
    """Else those who hold the snapshots could not come to their end, when they have given way and ask to go on."""
    full = [replace(hold(ask("gave-way", 15)), disks=0), hold(ask("busy", 4, datastores=()))]
    waiting = [
        ask("old", 4, ticket=1, waited=timedelta(hours=3)),
        ask("gave-way", 4, ticket=2, datastores=(), in_progress=True),
    ]
    assert names(grant([waiting[0], replace(waiting[1], request_id="2")], full, LIMITS, NOW)) == ["gave-way"]


def test_a_migration_that_lacks_snapshot_slots_leaves_transfer_slots_to_those_who_hold_them() -> None:
    full = [replace(hold(ask("gave-way", 15)), disks=0), hold(ask("busy", 4, datastores=()))]
    waiting = [
        ask("migration", 4, Priority.PRE_FAILOVER),
        replace(ask("gave-way", 4, datastores=(), in_progress=True), request_id="2"),
    ]
    assert names(grant(waiting, full, LIMITS, NOW, short_of_space=frozenset({"ds1"}))) == ["gave-way"]


def test_only_the_first_that_waits_for_a_host_keeps_room_elsewhere() -> None:
    held = [hold(ask("held", 8, datastores=()))]
    hour = timedelta(hours=3)
    waiting = [
        ask("first", 2, ticket=1, waited=hour, datastores=(("ds1", 7),)),
        ask("second", 2, ticket=2, waited=hour, datastores=(("ds2", 15),)),
        ask("elsewhere", 2, ticket=3, host="esxi-2", datastores=(("ds2", 2),)),
    ]
    assert names(grant(waiting, held, LIMITS, NOW)) == ["elsewhere"]


@pytest.mark.parametrize("kept", [{"priority": Priority.PRE_FAILOVER}, {"in_progress": True}])
def test_in_a_blackout_window_only_migrations_and_what_is_in_progress_are_granted(kept: dict[str, object]) -> None:
    closed = frozenset({"a1"})
    going = replace(ask("going", 2), **kept)  # type: ignore[arg-type]
    waiting = [ask("new", 2), going, ask("elsewhere", 2, host="esxi-2", appliance="a2")]
    assert sorted(names(grant(waiting, [], LIMITS, NOW, closed_appliances=closed))) == ["elsewhere", "going"]


def test_nothing_is_kept_free_for_what_a_blackout_window_keeps_from_starting() -> None:
    waiting = [
        ask("wide", 8, ticket=1, waited=timedelta(hours=5)),
        ask("other", 2, ticket=2, appliance="a2"),
    ]
    held = [hold(ask("held", 2, datastores=()))]
    assert grant(waiting, held, LIMITS, NOW) == ()
    assert names(grant(waiting, held, LIMITS, NOW, closed_appliances=frozenset({"a1"}))) == ["other"]


def test_a_request_sent_twice_or_leased_already_is_granted_once() -> None:
    request = ask("one")
    assert names(grant([request, replace(request, ticket=5)], [], LIMITS, NOW)) == ["one"]
    assert grant([request], [hold(request)], LIMITS, NOW) == ()


def test_a_limit_of_zero_lets_no_transfer_start_and_reserves_nothing() -> None:
    waiting = [ask("stuck", 2, waited=timedelta(hours=1)), ask("snapshots-only", 0, ticket=1, datastores=(("ds1", 15),))]
    assert names(grant(waiting, [], replace(LIMITS, disks_per_host=0), NOW)) == ["snapshots-only"]


@pytest.mark.parametrize(
    ("appliance", "site", "part"),
    [(299, 499, None), (300, 400, "scale-out appliance is needed"), (10, 500, "The site already has 500 replications")],
)
def test_one_replication_too_many_is_told_what_is_needed(appliance: int, site: int, part: str | None) -> None:
    sentence = refusal_of_replication(appliance, site, LIMITS)
    assert sentence is None if part is None else sentence is not None and part in sentence


def history(requests: list[SlotRequest], limits: SlotLimits) -> list[Lease]:
    """Grant a first part of the requests, so that leases are ones that could have come about."""
    return [hold(request) for request in grant(requests[: len(requests) // 2], [], limits, NOW)]


@given(REQUESTS)
def test_no_limit_is_exceeded_but_by_the_specs_exceptions(requests: list[SlotRequest]) -> None:
    leases = history(requests, SMALL)
    held = [*leases, *map(hold, grant(requests[len(requests) // 2 :], leases, SMALL, NOW))]
    appliances, hosts, snapshots, holders = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    for lease in held:
        appliances[lease.appliance] += lease.disks
        hosts[lease.host] += lease.disks
        if lease.priority is not Priority.PRE_FAILOVER:
            for datastore in {name for name, count in lease.datastores if count}:
                snapshots[datastore] += sum(count for name, count in lease.datastores if name == datastore)
                holders[datastore] += 1
    assert all(count <= SMALL.disks_per_appliance for count in appliances.values())
    assert all(count <= SMALL.disks_per_host for count in hosts.values())
    assert all(count <= SMALL.snapshots_per_datastore or holders[name] == 1 for name, count in snapshots.items())


def kept_room_for(other: SlotRequest, request: SlotRequest, limits: SlotLimits) -> bool:
    """Return whether room may be kept for one that waits, at the expense of another behind it."""
    ours, theirs = effective_priority(request, limits, NOW), effective_priority(other, limits, NOW)
    long = other.priority is Priority.PRE_FAILOVER or NOW - other.requested_at > limits.reserve_after
    return other != request and theirs <= ours and (long or (request.in_progress and theirs < ours))


@given(REQUESTS, st.sampled_from([SMALL.reserve_after, timedelta.max]))
def test_whatever_waits_does_not_fit_beside_what_was_granted_and_what_is_kept_free(
    requests: list[SlotRequest], reserve_after: timedelta
) -> None:
    limits = replace(SMALL, reserve_after=reserve_after)
    leases = history(requests, limits)
    waiting = requests[len(requests) // 2 :]
    granted = grant(waiting, leases, limits, NOW)
    taken = {request.holder for request in granted}
    left = [request for request in waiting if request.holder not in taken]
    for request in left:
        fits = grant([request], [*leases, *map(hold, granted)], limits, NOW) != ()
        assert not fits or any(kept_room_for(other, request, limits) for other in left)


@given(REQUESTS)
def test_nothing_of_lower_priority_is_granted_while_a_higher_one_that_fits_waits(requests: list[SlotRequest]) -> None:
    granted = grant(requests, [], SMALL, NOW)
    taken = {request.holder for request in granted}
    left = [request for request in requests if request.holder not in taken]
    for request in left:
        rank = effective_priority(request, SMALL, NOW)
        before = [other for other in granted if effective_priority(other, SMALL, NOW) <= rank]
        fits = grant([request], list(map(hold, before)), SMALL, NOW) != ()
        assert not fits or any(kept_room_for(other, request, SMALL) for other in left)


@hypothesis_settings(max_examples=60)
@given(REQUESTS, st.randoms(use_true_random=False))
def test_the_order_of_arrival_in_memory_does_not_matter(requests: list[SlotRequest], random: object) -> None:
    shuffled = list(requests)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    leases = history(requests, SMALL)
    assert grant(shuffled, leases[::-1], SMALL, NOW) == grant(requests, leases, SMALL, NOW)


@given(REQUESTS)
def test_everything_is_granted_in_the_end(requests: list[SlotRequest]) -> None:
    waiting, leases, now = list(requests), list[Lease](), NOW
    for _ in range(2 * len(requests) + 1):
        granted = grant(waiting, leases, SMALL, now)
        taken = {request.holder for request in granted}
        waiting = [request for request in waiting if request.holder not in taken]
        leases = [*leases, *map(hold, granted)][1:]
        now += timedelta(hours=1)
    assert waiting == []
