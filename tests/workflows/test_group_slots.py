"""The arbiter's bookkeeping of a group's slots: one request, a lease for each member, and who may give back what."""

import dataclasses
from collections import Counter
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from deltaferry.model.replication import CycleKind
from tests.workflows.world import new_profile
from workflows.messages.site import Placement
from workflows.messages.slot import SlotsAnnounced, SlotsPart, SlotsReleased, SlotsState, SlotsWanted
from workflows.slots.book import SlotBook

_NOW = datetime(2026, 3, 2, 8, tzinfo=UTC)
_GROUP = "group/lon1/shop"


def _book(*, disks_per_appliance: int = 52) -> SlotBook:
    profile = dataclasses.replace(new_profile("lon1", disks_per_appliance=disks_per_appliance), appliance="a1")
    return SlotBook(SlotsState(profile, learned=True))


def _vm(name: str) -> str:
    return f"vm/lon1/{name}"


def _together(*vms: str, request: str = "r1", disks: int = 2) -> SlotsWanted:
    parts = tuple(
        SlotsPart(f"{request}/{number}", _vm(vm), disks, Placement("esx1", (("ds1", disks),))) for number, vm in enumerate(vms)
    )
    placement = Placement("", (("ds1", disks * len(vms)),))
    return SlotsWanted(_GROUP, request, CycleKind.DELTA, "a1", disks * len(vms), placement, group=_GROUP, parts=parts)


def _mine(vm: str, number: int, request: str = "r1") -> SlotsWanted:
    """Return what a member takes over."""
    placement = Placement("esx1", (("ds1", 2),))
    part = f"{request}/{number}"
    return SlotsWanted(_vm(vm), part, CycleKind.DELTA, "a1", 2, placement, replication=_vm(vm), turn=1, group=_GROUP)


def _granted(book: SlotBook) -> list[tuple[str, str]]:
    book.assign_waiting()
    return [(wanted.holder, grant.request_id) for wanted, grant in book.grant(_NOW, "0123456789")]


def _holders(book: SlotBook) -> list[str]:
    return [held.wanted.holder for held in book.state.leases]


def test_a_group_is_told_once_and_has_a_lease_for_each_member() -> None:
    book = _book()
    assert book.want(_together("web", "db"), _NOW)
    assert not book.want(_together("web", "db"), _NOW)
    assert _granted(book) == [(_GROUP, "r1")]
    assert [(held.wanted.replication, held.wanted.request_id) for held in book.state.leases] == [
        (_vm("web"), "r1/0"),
        (_vm("db"), "r1/1"),
    ]
    assert {grant.request_id for _, grant in book.grants_again()} == {"r1"}
    assert book.want(_together("web", "db"), _NOW), "a request that comes again has lost its grant"
    assert _granted(book) == [(_GROUP, "r1")]
    assert len(book.state.leases) == 2


def test_a_member_takes_its_part_over_and_is_told() -> None:
    book = _book()
    book.want(_together("web", "db"), _NOW)
    _granted(book)
    book.want(_mine("web", 0), _NOW)
    assert _granted(book) == [(_vm("web"), "r1/0")]
    assert _holders(book) == [_vm("web"), _GROUP]
    book.release(SlotsReleased(_GROUP, "r1"))
    assert _holders(book) == [_vm("web")], "a group gives back what it still holds, not what its members hold"
    book.release(SlotsReleased(_GROUP, "r1/0"))
    assert _holders(book) == [_vm("web")]
    book.release(SlotsReleased(_vm("web"), "r1/0"))
    assert book.state.leases == ()


def test_a_member_that_had_to_wait_for_its_turn_is_told_when_there_are_slots() -> None:
    book = _book(disks_per_appliance=2)
    book.want(_together("web", "db"), _NOW)
    assert _granted(book) == [(_GROUP, "r1")]
    assert [held.gave_way for held in book.state.leases] == [False, True]
    book.want(_mine("db", 1), _NOW)
    assert _granted(book) == []
    book.want(_mine("web", 0), _NOW)
    assert _granted(book) == [(_vm("web"), "r1/0")]
    book.release(SlotsReleased(_vm("web"), "r1/0"))
    assert _granted(book) == [(_vm("db"), "r1/1")]
    assert [(held.wanted.disks, held.gave_way) for held in book.state.leases] == [(2, False)]


def test_a_dead_groups_transfer_slots_are_free_and_its_snapshots_count_until_they_are_gone() -> None:
    book = _book()
    book.want(_together("web", "db"), _NOW)
    _granted(book)
    book.want(_mine("web", 0), _NOW)
    book.holder_gone(_GROUP)
    assert [(held.wanted.holder, held.holder_gone) for held in book.state.leases] == [(_vm("web"), False), (_GROUP, True)]
    (left,) = book.left_behind()
    assert left.wanted.replication == _vm("db")
    alone = SlotsWanted(_vm("db"), "x", CycleKind.DELTA, "a1", 2, Placement("esx1", (("ds1", 2),)), replication=_vm("db"))
    book.want(alone, _NOW)
    assert book.left_behind() == (), "its own next cycle removes the snapshot, and has its slots"


def test_a_replication_that_ends_takes_its_own_part_from_the_group_alone() -> None:
    book = _book()
    book.want(_together("web", "db"), _NOW)
    _granted(book)
    book.leave(_vm("web"))
    assert [held.wanted.replication for held in book.state.leases] == [_vm("db")]


def test_a_group_that_asks_anew_leaves_what_it_had_to_be_looked_after() -> None:
    book = _book()
    book.want(_together("web", "db"), _NOW)
    _granted(book)
    book.want(_together("web", "db", request="r2"), _NOW)
    assert [held.holder_gone for held in book.state.leases] == [True, True]
    assert _granted(book) == [(_GROUP, "r2")]


def test_a_fresh_arbiter_counts_each_part_once_whoever_announces_first() -> None:
    for group_first in (True, False):
        book = _book()
        says = [
            SlotsAnnounced(_GROUP, "", "a1", _together("web", "db"), "kept"),
            SlotsAnnounced(_vm("web"), _vm("web"), "a1", _mine("web", 0), "kept-web"),
        ]
        for announced in says if group_first else says[::-1]:
            book.announce(announced, _NOW)
        assert sorted(_holders(book)) == [_GROUP, _vm("web")]
        assert "" not in book.state.assigned


def test_a_lost_handover_is_an_ordinary_request() -> None:
    book = _book()
    book.want(_mine("web", 0), _NOW)
    assert _granted(book) == [(_vm("web"), "r1/0")]


@given(st.lists(st.tuples(st.sampled_from(["group", "take", "end", "alone", "gone"]), st.integers(0, 2)), max_size=40))
def test_no_order_of_messages_exceeds_a_limit(steps: list[tuple[str, int]]) -> None:
    book, vms, round_number = _book(disks_per_appliance=3), ("web", "db", "mq"), 0
    for step, number in steps:
        vm = vms[number]
        if step == "group":
            round_number += 1
            book.want(_together(*vms, request=f"r{round_number}"), _NOW)
        elif step == "take":
            book.want(_mine(vm, number, f"r{round_number}"), _NOW)
        elif step == "end":
            book.release(SlotsReleased(_vm(vm), f"r{round_number}/{number}"))
        elif step == "alone":
            placement = Placement("esx1", (("ds1", 2),))
            book.want(SlotsWanted(_vm(vm), f"a{number}", CycleKind.DELTA, "a1", 2, placement, replication=_vm(vm)), _NOW)
        else:
            book.holder_gone(_GROUP)
        _granted(book)
        in_transfer = Counter[str]()
        snapshots = Counter[str]()
        for held in book.state.leases:
            in_transfer[held.wanted.appliance] += 0 if held.gave_way else held.wanted.disks
            snapshots.update(dict(held.wanted.placement.datastores))
        assert in_transfer["a1"] <= 3
        assert snapshots["ds1"] <= 15
