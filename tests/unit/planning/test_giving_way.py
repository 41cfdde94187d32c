"""Who gives transfer slots back at a chunk's end, and that nobody waits for ever while others come and go."""

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
    over_limits,
    resumed,
    to_yield,
    without_transfer,
)

from .slot_asks import LIMITS, NOW, REQUESTS, SMALL, ask, hold, names

MIGRATION = Priority.PRE_FAILOVER


def held(name: str, disks: int, priority: Priority = Priority.DELTA, *, minutes: int = 0, **place: str) -> Lease:
    request = replace(ask(name, disks, priority, datastores=(("ds1", disks),)), **place)
    return replace(hold(request), granted_at=NOW - timedelta(minutes=minutes))


def holders(leases: tuple[Lease, ...]) -> list[str]:
    return [lease.holder.removeprefix("vm/") for lease in leases]


def going_on(lease: Lease, ticket: int = 99) -> SlotRequest:
    """What a holder asks for when its transfer has given way: its disks, and no snapshots."""
    return SlotRequest(lease.holder, "to-go-on", lease.priority, lease.appliance, lease.host, lease.disks, (), ticket, NOW,
                       in_progress=True)  # fmt: skip


def yielded(leases: list[Lease], chosen: tuple[Lease, ...]) -> list[Lease]:
    ids = {lease.lease_id for lease in chosen}
    return [without_transfer(lease) if lease.lease_id in ids else lease for lease in leases]


def test_the_least_urgent_and_the_youngest_give_way() -> None:
    leases = [
        held("initial", 2, Priority.INITIAL, minutes=1),
        held("old", 2, minutes=30),
        held("young", 2, minutes=3),
        held("resync", 2, Priority.RESYNC, minutes=2),
    ]
    assert holders(to_yield([ask("m", 2, MIGRATION)], leases, LIMITS, NOW)) == ["young"]
    assert holders(to_yield([ask("m", 4, MIGRATION)], leases, LIMITS, NOW)) == ["young", "old"]
    assert holders(to_yield([ask("m", 6, MIGRATION)], leases, LIMITS, NOW)) == ["young", "old", "resync"]


def test_no_more_give_way_than_are_needed() -> None:
    leases = [held("small", 1, minutes=1), held("wide", 7, minutes=2)]
    assert holders(to_yield([ask("m", 7, MIGRATION)], leases, LIMITS, NOW)) == ["wide"]


def test_nobody_gives_way_where_that_would_not_be_enough() -> None:
    leases = [held("initial", 6, Priority.INITIAL), held("delta", 2)]
    assert to_yield([ask("i", 4, Priority.INITIAL, datastores=())], leases, LIMITS, NOW) == ()
    assert holders(to_yield([ask("i", 2, Priority.INITIAL, datastores=())], leases, LIMITS, NOW)) == ["delta"]


def test_nobody_gives_way_to_an_equal_or_to_what_fits() -> None:
    leases = [held("delta", 8)]
    assert to_yield([ask("other", 2, datastores=())], leases, LIMITS, NOW) == ()
    assert to_yield([ask("far", 2, MIGRATION, host="esxi-2")], leases, LIMITS, NOW) == ()


def test_a_delta_gives_way_to_one_that_has_waited_an_hour() -> None:
    waiting = [ask("aged", 2, waited=timedelta(hours=1), datastores=())]
    assert holders(to_yield(waiting, [held("delta", 8)], LIMITS, NOW)) == ["delta"]


def test_nobody_gives_way_to_one_that_lacks_snapshot_slots() -> None:
    """Its transfer could not begin: what was given back would lie idle."""
    leases = [held("delta", 8), held("holds-all", 1, host="esxi-2", appliance="a2")]
    leases[1] = replace(leases[1], datastores=(("ds1", 7),))
    assert to_yield([ask("i", 2, Priority.INITIAL)], leases, LIMITS, NOW) == ()


def test_who_has_given_way_has_nothing_more_to_give() -> None:
    leases = [without_transfer(held("gave", 4)), held("delta", 8)]
    assert holders(to_yield([ask("m", 2, MIGRATION)], leases, LIMITS, NOW)) == ["delta"]


def test_other_hosts_give_way_where_the_appliance_is_full() -> None:
    leases = [held(f"d{number}", 8, host=f"esxi-{number}", minutes=number) for number in range(2, 8)]  # 48 of 52
    leases.append(held("youngest", 4, host="esxi-9"))
    chosen = to_yield([ask("m", 6, MIGRATION)], leases, LIMITS, NOW)
    assert holders(chosen) == ["d2"]  # one of 8 is enough where the youngest's 4 are not


def test_who_was_asked_already_is_asked_again_before_others() -> None:
    leases = [held("young", 2, minutes=1), held("old", 2, minutes=9), held("rest", 4, Priority.INITIAL)]
    asked = frozenset({"lease-vm/old"})
    assert holders(to_yield([ask("m", 2, MIGRATION)], leases, LIMITS, NOW, asked=asked)) == ["old"]


def test_nobody_gives_way_to_what_a_blackout_window_keeps_from_starting() -> None:
    closed = frozenset({"a1"})
    waiting = [ask("i", 2, Priority.INITIAL, datastores=())]
    assert to_yield(waiting, [held("delta", 8)], LIMITS, NOW, closed_appliances=closed) == ()


def test_a_transfer_that_gave_way_does_not_take_back_what_it_gave() -> None:
    leases = [held("one", 4), held("two", 4, minutes=5)]
    urgent = ask("initial", 8, Priority.INITIAL, datastores=())
    chosen = to_yield([urgent], leases, LIMITS, NOW)
    assert sorted(holders(chosen)) == ["one", "two"]
    first = [without_transfer(leases[0]), leases[1]]  # its chunk ended sooner
    assert grant([urgent, going_on(leases[0])], first, LIMITS, NOW) == ()
    assert names(grant([urgent, going_on(leases[0]), going_on(leases[1])], yielded(leases, chosen), LIMITS, NOW)) == ["initial"]


def test_a_transfer_goes_on_under_its_own_request_and_keeps_its_snapshots() -> None:
    lease = held("delta", 4)
    (granted,) = grant([going_on(lease)], [without_transfer(lease)], LIMITS, NOW)
    moved = replace(granted, host="esxi-7")
    assert resumed(without_transfer(lease), moved, NOW) == replace(lease, host="esxi-7", granted_at=NOW)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (LIMITS, []),
        (replace(LIMITS, disks_per_host=5), ["delta"]),
        (replace(LIMITS, disks_per_appliance=6), ["delta"]),
        (replace(LIMITS, disks_per_appliance=2), ["delta", "initial"]),
    ],
)
def test_where_a_limit_was_lowered_as_few_as_needed_give_way(limits: SlotLimits, expected: list[str]) -> None:
    leases = [held("initial", 4, Priority.INITIAL), held("delta", 3, minutes=5), held("far", 2, host="esxi-2", appliance="a2")]
    assert holders(over_limits(leases, limits)) == expected


def leases_of(requests: list[SlotRequest]) -> list[Lease]:
    granted = grant(requests, [], SMALL, NOW)
    return [replace(hold(request), granted_at=NOW - timedelta(minutes=request.ticket)) for request in granted]


@hypothesis_settings(max_examples=60)
@given(REQUESTS, REQUESTS)
def test_what_gives_way_to_one_is_enough_and_not_one_too_many(before: list[SlotRequest], waiting: list[SlotRequest]) -> None:
    leases = leases_of(before)
    for request in waiting:
        chosen = to_yield([request], leases, SMALL, NOW)
        rank = effective_priority(request, SMALL, NOW)
        assert all(lease.disks > 0 and lease.priority > rank for lease in chosen)
        if chosen:
            assert grant([request], leases, SMALL, NOW) == ()
            assert len(grant([request], yielded(leases, chosen), SMALL, NOW)) == 1
            for spared in chosen:
                fewer = tuple(lease for lease in chosen if lease is not spared)
                assert grant([request], yielded(leases, fewer), SMALL, NOW) == ()
        else:
            everything = tuple(lease for lease in leases if lease.disks > 0 and lease.priority > rank)
            fits_now = grant([request], leases, SMALL, NOW) != ()
            assert fits_now or grant([request], yielded(leases, everything), SMALL, NOW) == ()


@hypothesis_settings(max_examples=60)
@given(REQUESTS, REQUESTS, st.randoms(use_true_random=False))
def test_every_lease_that_gives_way_does_so_for_one_that_starts_then(
    before: list[SlotRequest], waiting: list[SlotRequest], random: object
) -> None:
    leases = leases_of(before)
    chosen = to_yield(waiting, leases, SMALL, NOW)
    shuffled = list(waiting)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert to_yield(shuffled, leases[::-1], SMALL, NOW) == chosen
    back = [going_on(lease) for lease in chosen]
    started = grant([*waiting, *back], yielded(leases, chosen), SMALL, NOW)
    for lease in chosen:
        assert any(
            effective_priority(request, SMALL, NOW) < lease.priority
            and (request.host == lease.host or request.appliance == lease.appliance)
            for request in started
        )


STREAM = st.lists(
    st.tuples(
        st.sampled_from([Priority.INITIAL, Priority.RESYNC, Priority.DELTA]),
        st.integers(1, 8),
        st.sampled_from(["esxi-1", "esxi-2", "esxi-3"]),
    ),
    min_size=1,
    max_size=4,
)


@hypothesis_settings(max_examples=50)
@given(REQUESTS, STREAM)
def test_no_request_waits_for_ever_while_others_keep_coming_and_chunks_come_back(
    requests: list[SlotRequest], stream: list[tuple[Priority, int, str]]
) -> None:
    """A round is an hour, in which each transfer that runs does half of its work; then those that are asked to give way do."""
    waiting = [replace(request, ticket=number, requested_at=NOW, in_progress=False) for number, request in enumerate(requests)]
    leases: dict[str, Lease] = {}
    work: dict[str, int] = {}
    first = {request.holder for request in waiting}
    now, ticket = NOW, len(waiting)
    for _ in range(6 * len(requests) + 8):
        for priority, disks, host in stream:
            ticket += 1
            new = ask(f"stream-{ticket}", disks, priority, ticket=ticket, host=host)
            waiting.append(replace(new, requested_at=now))
        granted = grant(waiting, leases.values(), SMALL, now)
        started = {request.holder for request in granted}
        waiting = [request for request in waiting if request.holder not in started]
        for request in granted:
            kept = leases.get(request.holder)
            leases[request.holder] = resumed(kept, request, now) if kept else replace(hold(request), granted_at=now)
            work.setdefault(request.holder, 2)
        first -= started
        if not first:
            return
        now += timedelta(hours=1)
        for holder in leases.keys() - {request.holder for request in waiting}:
            work[holder] -= 1
            if not work[holder]:
                del leases[holder]
        for lease in to_yield(waiting, leases.values(), SMALL, now):
            ticket += 1
            leases[lease.holder] = without_transfer(lease)
            waiting.append(replace(going_on(lease, ticket), requested_at=now))
    raise AssertionError(f"{sorted(first)} still wait")
