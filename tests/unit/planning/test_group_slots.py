"""A replication group asks for the slots of all its members at once: whole or not at all, and never beyond a limit."""

from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltaferry.planning.slot_vectors import Transfer, clamped
from deltaferry.planning.slots import Lease, SlotLimits, SlotRequest, grant, yielding
from tests.unit.planning.slot_asks import LIMITS, NOW, REQUESTS, SMALL, ask, hold, names


def group(name: str, *transfers: tuple[str, str, int], waited: timedelta = timedelta(0), ticket: int = 0) -> SlotRequest:
    """Return the request of a group whose members have all their disks on one datastore."""
    (appliance, host, disks), *further = transfers
    stores = (("ds1", sum(transfer[2] for transfer in transfers)),)
    first = ask(name, disks, host=host, appliance=appliance, datastores=stores, waited=waited, ticket=ticket)
    return replace(first, further=tuple(Transfer(*transfer) for transfer in further))


def held(request: SlotRequest) -> list[Lease]:
    """Return the leases of a granted group, as the arbiter makes them: the datastores' counts belong to the first here."""
    first = hold(replace(request, further=()))
    return [first] + [
        replace(first, lease_id=f"{first.lease_id}/{n}", appliance=t.appliance, host=t.host, disks=t.disks, datastores=())
        for n, t in enumerate(request.further)
    ]


GROUPS = st.builds(
    lambda name, transfers: group(name, *transfers),
    st.uuids().map(lambda one: f"group-{one}"),
    st.lists(
        st.tuples(st.sampled_from(["a1", "a2"]), st.sampled_from(["esxi-1", "esxi-2", "esxi-3"]), st.integers(1, 4)),
        min_size=2,
        max_size=4,
    ),
)


def test_a_group_is_granted_whole_or_not_at_all() -> None:
    taken = hold(ask("web", 6, host="esxi-2", datastores=()))
    wanted = group("shop", ("a1", "esxi-1", 3), ("a1", "esxi-2", 3))
    assert grant([wanted], [taken], LIMITS, NOW) == ()
    assert grant([wanted], [], LIMITS, NOW) == (wanted,)


def test_what_does_not_fit_on_a_host_beside_the_other_members_waits_for_its_turn() -> None:
    wanted = group("shop", ("a1", "esxi-1", 6), ("a1", "esxi-1", 6), ("a1", "esxi-2", 2))
    fitting = clamped(wanted, LIMITS)
    assert [transfer.disks for transfer in fitting.transfers] == [6, 2, 2]
    assert grant([wanted], [], LIMITS, NOW) == (fitting,)
    assert [transfer.disks for transfer in clamped(wanted, SlotLimits(disks_per_appliance=7)).transfers] == [6, 1, 0]


def test_the_snapshots_of_all_members_count_together() -> None:
    wanted = group("shop", ("a1", "esxi-1", 8), ("a1", "esxi-2", 7))
    assert grant([wanted], [hold(ask("web", 1))], LIMITS, NOW) == ()
    assert grant([wanted], [], LIMITS, NOW) == (wanted,)


def test_nobody_is_asked_to_give_way_to_a_group_but_room_is_kept_for_one_that_waited_long() -> None:
    running = [hold(ask("web", 8, datastores=()))]
    wanted = group("shop", ("a1", "esxi-1", 1), ("a1", "esxi-2", 8), waited=timedelta(hours=3))
    assert yielding([wanted], running, LIMITS, NOW) == ()
    other = ask("db", 1, host="esxi-2", datastores=(), ticket=9)
    assert names(grant([wanted, other], running, LIMITS, NOW)) == []
    young = replace(wanted, requested_at=NOW)
    assert names(grant([young, other], running, LIMITS, NOW)) == ["db"]


@pytest.mark.parametrize("closed", ["a1", "a2"])
def test_a_blackout_window_of_one_members_appliance_keeps_the_group_from_starting(closed: str) -> None:
    wanted = group("shop", ("a1", "esxi-1", 1), ("a2", "esxi-2", 1))
    assert grant([wanted], [], LIMITS, NOW, closed_appliances=frozenset({closed})) == ()


@given(REQUESTS, st.lists(GROUPS, max_size=3))
def test_groups_exceed_no_limit(requests: list[SlotRequest], groups: list[SlotRequest]) -> None:
    small = [replace(one, datastores=()) for one in requests]
    appliances, hosts = Counter[str](), Counter[str]()
    for granted in grant([*small, *groups], [], SMALL, NOW):
        for appliance, host, disks in granted.transfers:
            appliances[appliance] += disks
            hosts[host] += disks
    assert all(count <= SMALL.disks_per_appliance for count in appliances.values())
    assert all(count <= SMALL.disks_per_host for count in hosts.values())


@given(REQUESTS, st.lists(GROUPS, max_size=3))
def test_a_group_is_granted_in_the_end_and_starves_nobody(requests: list[SlotRequest], groups: list[SlotRequest]) -> None:
    waiting, leases, now = [*requests, *groups], list[Lease](), NOW
    for _ in range(4 * len(waiting) + 1):
        granted = grant(waiting, leases, SMALL, now)
        taken = {request.holder for request in granted}
        waiting = [request for request in waiting if request.holder not in taken]
        leases = [*leases, *(lease for request in granted for lease in held(request))][1:]
        now += timedelta(hours=1)
    assert waiting == []
