from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

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

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LIMITS = SlotLimits()
NO_RESERVATION = replace(LIMITS, reserve_after=timedelta.max)


def ask(
    name: str,
    disks: int = 1,
    priority: Priority = Priority.DELTA,
    *,
    ticket: int = 0,
    waited: timedelta = timedelta(0),
    host: str = "esxi-1",
    appliance: str = "a1",
    datastores: tuple[tuple[str, int], ...] | None = None,
    in_progress: bool = False,
) -> SlotRequest:
    stores = (("ds1", disks),) if datastores is None else datastores
    return SlotRequest(f"vm/{name}", "1", priority, appliance, host, disks, stores, ticket, NOW - waited, in_progress)


def hold(request: SlotRequest) -> Lease:
    return Lease(f"lease-{request.holder}", request.holder, request.request_id, request.priority, request.appliance, request.host,
                 request.disks, request.datastores)  # fmt: skip


def names(granted: tuple[SlotRequest, ...]) -> list[str]:
    return [request.holder.removeprefix("vm/") for request in granted]


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


def test_chunks_that_come_back_do_not_starve_what_age_has_raised() -> None:
    waiting = [
        ask("chunk", priority=Priority.INITIAL, ticket=9, in_progress=True),
        ask("old", ticket=1, waited=timedelta(hours=3)),
    ]
    assert names(in_order(waiting, LIMITS, NOW)) == ["old", "chunk"]


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


REQUESTS = st.lists(
    st.builds(
        ask,
        st.uuids().map(str),
        st.integers(0, 20),
        st.sampled_from(Priority),
        ticket=st.integers(0, 50),
        waited=st.timedeltas(timedelta(0), timedelta(hours=6)),
        host=st.sampled_from(["esxi-1", "esxi-2", "esxi-3"]),
        appliance=st.sampled_from(["a1", "a2"]),
        datastores=st.lists(st.tuples(st.sampled_from(["ds1", "ds2"]), st.integers(0, 20)), max_size=2).map(tuple),
        in_progress=st.booleans(),
    ),
    max_size=12,
)
SMALL = SlotLimits(disks_per_appliance=12, disks_per_host=8, snapshots_per_datastore=15)


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


@given(REQUESTS)
def test_whatever_waits_does_not_fit_beside_what_was_granted(requests: list[SlotRequest]) -> None:
    limits = replace(SMALL, reserve_after=timedelta.max)
    leases = history(requests, limits)
    waiting = requests[len(requests) // 2 :]
    granted = grant(waiting, leases, limits, NOW)
    taken = {request.holder for request in granted}
    for left in (request for request in waiting if request.holder not in taken):
        assert grant([left], [*leases, *map(hold, granted)], limits, NOW) == ()


@given(REQUESTS)
def test_nothing_of_lower_priority_is_granted_while_a_higher_one_that_fits_waits(requests: list[SlotRequest]) -> None:
    granted = grant(requests, [], SMALL, NOW)
    taken = {request.holder for request in granted}
    for left in (request for request in requests if request.holder not in taken):
        rank = effective_priority(left, SMALL, NOW)
        before = [request for request in granted if effective_priority(request, SMALL, NOW) <= rank]
        fits = grant([left], list(map(hold, before)), SMALL, NOW) != ()
        reserved_ahead = any(
            other.holder not in taken
            and NOW - other.requested_at > SMALL.reserve_after
            and effective_priority(other, SMALL, NOW) <= rank
            for other in requests
            if other.holder != left.holder
        )
        assert not fits or reserved_ahead


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
