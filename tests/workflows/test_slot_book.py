"""The arbiter's bookkeeping, without a server: what each message changes, in any order, repeated or late."""

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltaferry.model.replication import CycleKind
from tests.workflows.world import new_profile
from workflows.messages.site import ApplianceProfile, ClosedWindow, Placement, SiteProfile
from workflows.messages.slot import HeldLease, SlotsAnnounced, SlotsPart, SlotsReleased, SlotsState, SlotsWanted
from workflows.slots.book import SlotBook

_NOW = datetime(2026, 3, 2, 8, tzinfo=UTC)
_RUN = "0123456789abcdef"


def _profile(*, disks_per_appliance: int = 52, appliances: tuple[str, ...] = (), per_appliance: int = 300) -> SiteProfile:
    return dataclasses.replace(
        new_profile("lon1", disks_per_appliance=disks_per_appliance),
        appliance="a1",
        appliances=tuple(ApplianceProfile(name) for name in appliances),
        replications_per_appliance=per_appliance,
    )


def _book(profile: SiteProfile | None = None) -> SlotBook:
    return SlotBook(SlotsState(profile or _profile(), learned=True))


def _wanted(vm: str, *, kind: CycleKind = CycleKind.DELTA, disks: int = 2, turn: int = 0, request: str = "") -> SlotsWanted:
    holder = f"vm/lon1/{vm}"
    placement = Placement("esx1", (("ds1", disks),))
    return SlotsWanted(holder, request or f"{vm}-1", kind, "a1", disks, placement, replication=holder, turn=turn)


def _granted(book: SlotBook, now: datetime = _NOW) -> list[str]:
    book.assign_waiting()
    return [wanted.holder.rpartition("/")[2] for wanted, _ in book.grant(now, _RUN)]


def test_a_request_is_queued_once_and_granted_once() -> None:
    book = _book()
    assert book.want(_wanted("web"), _NOW)
    assert not book.want(_wanted("web"), _NOW)
    assert _granted(book) == ["web"]
    assert _granted(book) == []
    assert [message.request_id for _, message in book.grants_again()] == ["web-1"]


def test_what_asks_again_while_its_grant_is_on_its_way_keeps_its_slots_and_is_told_again() -> None:
    """Its holder may use the grant already: queued anew behind others, its slots would be granted twice."""
    book = _book(_profile(disks_per_appliance=2))
    book.want(_wanted("web"), _NOW)
    assert _granted(book) == ["web"]
    lease = book.state.leases
    book.want(_wanted("db", kind=CycleKind.ON_DEMAND), _NOW)
    assert book.want(_wanted("web"), _NOW)
    assert _granted(book) == ["web"]
    assert book.state.leases == lease
    assert _granted(book) == []


def test_a_new_request_of_a_replication_replaces_what_a_job_of_it_held() -> None:
    book = _book(_profile(disks_per_appliance=2))
    job = dataclasses.replace(_wanted("web", kind=CycleKind.INITIAL), holder="vm/lon1/web/initial/1")
    book.want(job, _NOW)
    assert book.grant(_NOW, _RUN) == []  # it has no appliance yet
    book.assign_waiting()
    assert len(book.grant(_NOW, _RUN)) == 1
    book.want(dataclasses.replace(job, holder="vm/lon1/web/initial/2", request_id="other"), _NOW)
    assert len(book.grant(_NOW, _RUN)) == 1


def test_one_that_gives_way_keeps_its_snapshots_and_goes_on_by_the_same_lease() -> None:
    book = _book(_profile(disks_per_appliance=2))
    book.want(_wanted("web"), _NOW)
    _granted(book)
    book.want(_wanted("db", kind=CycleKind.ON_DEMAND), _NOW)
    assert _granted(book) == []
    assert [wanted.holder for wanted, _ in book.ask_back(_NOW)] == ["vm/lon1/web"]
    assert book.ask_back(_NOW) == [], "each is asked once"
    assert book.want(_wanted("web", turn=1), _NOW)
    assert [(held.gave_way, held.lease_id) for held in book.state.leases] == [(True, f"{_RUN[:8]}-1")]
    assert _granted(book) == ["db"]
    book.release(SlotsReleased("vm/lon1/db", "db-1"))
    assert _granted(book) == ["web"]
    assert [(held.gave_way, held.lease_id, held.wanted.turn) for held in book.state.leases] == [(False, f"{_RUN[:8]}-1", 1)]
    assert not book.want(_wanted("web", turn=1), _NOW), "asked again for what it has: the grant is sent anew by grants_again"


def test_a_holder_that_is_gone_keeps_its_snapshot_slots_until_it_is_forgotten() -> None:
    book = _book(_profile(disks_per_appliance=2))
    book.want(_wanted("web"), _NOW)
    _granted(book)
    book.holder_gone("vm/lon1/web")
    assert book.grants_again() == []
    book.want(_wanted("db"), _NOW)
    assert _granted(book) == ["db"], "its transfer slots are free"
    assert len(book.state.leases) == 2
    book.forget("vm/lon1/web")
    assert [held.wanted.holder for held in book.state.leases] == ["vm/lon1/db"]


def _left_behind(book: SlotBook, vm: str = "web") -> str:
    """Have a VM's cycle end with its snapshot left behind; return the lease's id."""
    book.want(_wanted(vm), _NOW)
    assert _granted(book) == [vm]
    book.release(SlotsReleased(f"vm/lon1/{vm}", f"{vm}-1", snapshot_left=True))
    (left,) = book.left_behind()
    return left.lease_id


def test_a_snapshot_that_could_not_be_removed_counts_until_it_is_known_to_be_gone() -> None:
    book = _book(dataclasses.replace(_profile(disks_per_appliance=2), snapshots_per_datastore=2))
    lease = _left_behind(book)
    book.want(_wanted("db"), _NOW)
    assert _granted(book) == [], "the datastore has as many snapshots as it may"
    book.snapshot_gone(lease)
    assert _granted(book) == ["db"]


def test_what_was_left_behind_is_the_next_requests_of_the_same_replication() -> None:
    """Its cycle removes the old snapshot before it takes another: it needs no more room than it has."""
    book = _book(dataclasses.replace(_profile(), snapshots_per_datastore=2))
    lease = _left_behind(book)
    assert book.want(_wanted("web", request="web-2"), _NOW)
    assert book.left_behind() == ()
    book.snapshot_gone(lease)
    assert len(book.state.leases) == 1, "what is looked for meanwhile may be the new cycle's snapshot"
    book.want(_wanted("db"), _NOW)
    assert _granted(book) == ["web"]
    book.release(SlotsReleased("vm/lon1/web", "web-2"))
    assert _granted(book) == ["db"]


def test_what_was_left_behind_is_so_still_after_the_next_request_was_taken_back() -> None:
    book = _book(_profile(disks_per_appliance=0))
    state = book.state
    state.leases = _leases_left(state)
    book.want(_wanted("web", request="web-2"), _NOW)
    book.release(SlotsReleased("vm/lon1/web", "web-2"))
    assert [held.wanted.holder for held in book.left_behind()] == ["vm/lon1/web"]
    book.release(SlotsReleased("vm/lon1/web", "web-2"))
    assert book.state.leases == (), "an audit that has seen that it is gone frees it so"


def _leases_left(state: SlotsState) -> tuple[HeldLease, ...]:
    book = SlotBook(dataclasses.replace(state, profile=_profile()))
    _left_behind(book)
    return book.state.leases


def test_a_new_request_does_not_inherit_the_slots_of_datastores_that_the_vm_has_left() -> None:
    book = _book()
    _left_behind(book)
    moved = dataclasses.replace(_wanted("web", request="web-2"), placement=Placement("esx1", (("ds2", 2),)))
    book.want(moved, _NOW)
    assert book.state.leases == ()


def test_a_holder_without_snapshots_is_forgotten_at_once() -> None:
    book = _book()
    book.want(dataclasses.replace(_wanted("web"), placement=Placement("esx1")), _NOW)
    _granted(book)
    book.holder_gone("vm/lon1/web")
    assert book.state.leases == ()


@pytest.mark.parametrize(("waits", "lease_id", "leases", "waiting"), [(False, "l", 1, 0), (True, "", 0, 1), (True, "l", 1, 1)])
def test_what_is_announced_is_taken_over_once(waits: bool, lease_id: str, leases: int, waiting: int) -> None:
    book = _book()
    wanted = _wanted("web", turn=1 if waits and lease_id else 0)
    announced = SlotsAnnounced("vm/lon1/web", "vm/lon1/web", "a1", wanted, lease_id, waits=waits)
    for _ in range(2):
        book.announce(announced, _NOW)
    assert (len(book.state.leases), len(book.state.waiting)) == (leases, waiting)
    assert book.state.assigned == {"vm/lon1/web": "a1"}


def test_what_was_given_back_before_its_announcement_came_is_left_out_of_it() -> None:
    book, over, asked = _book(), _wanted("web"), _wanted("web", request="web-2")
    book.release(SlotsReleased(over.holder, over.request_id))
    announced = SlotsAnnounced(over.holder, over.replication, "a1", over, "lease-1")
    assert book.without_what_is_over(announced) == dataclasses.replace(announced, wanted=None)
    assert book.without_what_is_over(dataclasses.replace(announced, wanted=asked)).wanted == asked
    book.want(over, _NOW)
    assert book.without_what_is_over(announced) == announced


def test_the_parts_that_a_group_gave_back_before_its_announcement_came_are_left_out_of_it() -> None:
    book = _book()
    parts = tuple(SlotsPart(f"group-1/{vm}", f"vm/lon1/{vm}", 2, Placement("esx1", (("ds1", 2),))) for vm in ("web", "db"))
    together = dataclasses.replace(_wanted("web"), holder="group", request_id="group-1", group="group", parts=parts)
    announced = SlotsAnnounced("group", "", "a1", together, "lease-1")
    book.release(SlotsReleased("group", parts[0].request_id))
    assert book.without_what_is_over(announced).wanted == dataclasses.replace(together, parts=parts[1:])
    book.release(SlotsReleased("group", parts[1].request_id))
    assert book.without_what_is_over(announced).wanted is None


def test_one_that_holds_nothing_still_says_which_appliance_carries_it() -> None:
    book = _book()
    book.announce(SlotsAnnounced("vm/lon1/web", "vm/lon1/web", "a1"), _NOW)
    assert book.state.assigned == {"vm/lon1/web": "a1"}
    assert book.holders() == ()


def test_replications_over_the_limit_are_told_why_and_assigned_when_there_is_room() -> None:
    book = _book(_profile(per_appliance=1))
    book.want(_wanted("web"), _NOW)
    assert book.assign_waiting() == []
    book.want(_wanted("db"), _NOW)
    ((_, delayed),) = book.assign_waiting()
    assert "a scale-out appliance is needed" in delayed.sentence
    assert _granted(book) == ["web"]
    book.leave("vm/lon1/web")
    assert _granted(book) == ["db"]


def test_a_silent_appliances_replications_go_to_the_others_and_come_back_to_none() -> None:
    book = _book(_profile(appliances=("a2",)))
    for vm in ("one", "two"):
        book.want(_wanted(vm), _NOW)
    _granted(book)
    assert sorted(book.state.assigned.values()) == ["a1", "a2"]
    on_a1 = next(vm for vm, appliance in book.state.assigned.items() if appliance == "a1")
    assert book.silence("a1") == (on_a1,)
    assert set(book.state.assigned.values()) == {"a2"}
    assert [wanted.holder for wanted, _ in book.ask_back(_NOW)] == [on_a1], (
        "what it sends goes through the other from its next chunk on"
    )
    assert book.silence("a2") == (), "nothing is gained where no other answers"
    book.heard(["a1"])
    assert book.state.silent == ()


def test_an_appliance_that_is_taken_away_loses_its_replications() -> None:
    book = _book(_profile(appliances=("a2",)))
    for vm in ("one", "two"):
        book.want(_wanted(vm), _NOW)
    _granted(book)
    moved = book.change(_profile())
    assert len(moved) == 1
    assert set(book.state.assigned.values()) == {"a1"}


def test_a_closed_appliance_starts_nothing_but_what_a_migration_needs() -> None:
    closed = (ClosedWindow(_NOW - timedelta(hours=1), _NOW + timedelta(hours=1)),)
    book = _book(dataclasses.replace(_profile(), closed=closed))
    book.want(_wanted("plain"), _NOW)
    book.want(_wanted("urgent", kind=CycleKind.ON_DEMAND), _NOW)
    book.want(dataclasses.replace(_wanted("behind", kind=CycleKind.RESYNC), whatever_window=True), _NOW)
    assert sorted(_granted(book)) == ["behind", "urgent"]
    assert book.next_opening(_NOW) == _NOW + timedelta(hours=1)
    assert _granted(book, _NOW + timedelta(hours=1)) == ["plain"]


def test_datastores_found_short_of_space_are_known_until_they_are_found_otherwise() -> None:
    book = _book()
    book.want(_wanted("web"), _NOW)
    _granted(book)
    book.release(SlotsReleased("vm/lon1/web", "web-1", ("ds1",)))
    assert book.state.short_of_space == ("ds1",)
    book.want(_wanted("web", request="web-2"), _NOW)
    _granted(book)
    book.release(SlotsReleased("vm/lon1/web", "web-2"))
    assert book.state.short_of_space == ()


@given(
    st.lists(
        st.tuples(st.sampled_from(["want", "way", "release", "gone", "leave", "silence", "announce"]), st.sampled_from("abcde")),
        max_size=60,
    )
)
def test_whatever_is_said_in_whatever_order_no_limit_is_exceeded(steps: list[tuple[str, str]]) -> None:
    book = _book(_profile(disks_per_appliance=4, appliances=("a2",)))
    turns: dict[str, int] = {}
    for step, vm in steps:
        holder = f"vm/lon1/{vm}"
        match step:
            case "want":
                turns[vm] = 0
                book.want(_wanted(vm), _NOW)
            case "way":
                turns[vm] = turns.get(vm, 0) + 1
                book.want(_wanted(vm, turn=turns[vm]), _NOW)
            case "release":
                book.release(SlotsReleased(holder, f"{vm}-1"))
            case "gone":
                book.holder_gone(holder)
            case "leave":
                book.leave(holder)
            case "silence":
                book.silence("a1" if vm < "c" else "a2")
            case "announce":
                book.announce(SlotsAnnounced(holder, holder, "a1"), _NOW)
        _granted(book)
        in_transfer: dict[str, int] = {}
        for held in book.state.leases:
            if not held.gave_way:
                in_transfer[held.wanted.appliance] = in_transfer.get(held.wanted.appliance, 0) + held.wanted.disks
        assert all(count <= 4 for count in in_transfer.values())
        assert len({(held.wanted.holder, held.wanted.request_id) for held in book.state.leases}) == len(book.state.leases)
