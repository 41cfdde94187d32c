"""When a cycle has the guest quiesced, and what its point is worth (spec §8)."""

from datetime import UTC, datetime, timedelta

import pytest

from deltaferry.model.naming import (
    cycle_of_snapshot,
    is_of_installation,
    owner_of_snapshot,
    quiesced_snapshot_name,
    snapshot_name,
    snapshot_prefix,
)
from deltaferry.model.quiescing import QuiesceAnswer
from deltaferry.model.recovery_points import PointKind
from deltaferry.model.replication import CycleKind, ReplicationRef
from deltaferry.planning.quiescing import (
    TRIES,
    QuiesceWatch,
    answered,
    asked,
    committed,
    is_due,
    not_obtained,
    obtained,
    order_for,
)

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
H, M = timedelta(hours=1), timedelta(minutes=1)
NEVER_ASKED = QuiesceWatch()
CRASH, FILES, APP = PointKind.CRASH_CONSISTENT, PointKind.FILE_SYSTEM_CONSISTENT, PointKind.APP_CONSISTENT


def obtained_before(age: timedelta) -> QuiesceWatch:
    return QuiesceWatch(NOW - age, NOW - age)


def in_vain(times: int, age: timedelta, obtained_at: datetime | None = None) -> QuiesceWatch:
    return QuiesceWatch(obtained_at, NOW - age, times)


@pytest.mark.parametrize(
    ("kind", "every", "watch", "due"),
    [
        (CycleKind.DELTA, None, NEVER_ASKED, False),
        (CycleKind.DELTA, 4 * H, NEVER_ASKED, True),
        *((kind, 4 * H, NEVER_ASKED, False) for kind in CycleKind if kind is not CycleKind.DELTA),
        (CycleKind.DELTA, 4 * H, obtained_before(4 * H - M), False),
        (CycleKind.DELTA, 4 * H, obtained_before(4 * H), True),
        (CycleKind.DELTA, 1 * H, obtained_before(4 * H - M), True),
        (CycleKind.DELTA, 4 * H, in_vain(1, H - M), False),
        (CycleKind.DELTA, 4 * H, in_vain(1, H), True),
        (CycleKind.DELTA, 4 * H, in_vain(TRIES - 1, H), True),
        (CycleKind.DELTA, 4 * H, in_vain(TRIES, H), False),
        (CycleKind.DELTA, 4 * H, in_vain(TRIES, 4 * H - M), False),
        (CycleKind.DELTA, 4 * H, in_vain(TRIES, 4 * H), True),
        (CycleKind.DELTA, 4 * H, in_vain(TRIES + 7, 4 * H), True),
        (CycleKind.DELTA, 4 * H, in_vain(1, H, NOW - 3 * H), False),
        (CycleKind.DELTA, 4 * H, in_vain(1, H, NOW - 5 * H), True),
        (CycleKind.DELTA, 4 * H, obtained_before(-H), False),
    ],
    ids=str,
)
def test_the_first_delta_due_after_the_frequency_asks(
    kind: CycleKind, every: timedelta | None, watch: QuiesceWatch, due: bool
) -> None:
    assert is_due(kind, every, watch, NOW) is due


def test_a_point_that_was_committed_starts_the_frequency_anew_and_forgets_what_was_in_vain() -> None:
    watch = asked(in_vain(2, H), NOW)
    assert watch == QuiesceWatch(None, NOW, 3)
    assert committed(watch, APP) == QuiesceWatch(NOW, NOW, 0)
    assert committed(watch, CRASH) == watch


def test_a_guest_that_was_left_alone_is_asked_by_the_next_cycle() -> None:
    before = obtained_before(5 * H)
    watch = answered(before, asked(before, NOW), not_obtained(QuiesceAnswer.NOT_ASKED, "VMware Tools do not run."))
    assert watch == before
    assert is_due(CycleKind.DELTA, 4 * H, watch, NOW + M)


def test_a_guest_that_failed_is_asked_again_after_an_hour() -> None:
    watch = answered(NEVER_ASKED, asked(NEVER_ASKED, NOW), not_obtained(QuiesceAnswer.FAILED, "A VSS writer failed."))
    assert not is_due(CycleKind.DELTA, 4 * H, watch, NOW + H - M)
    assert is_due(CycleKind.DELTA, 4 * H, watch, NOW + H)


def test_a_guest_that_freezes_its_file_systems_alone_is_asked_by_the_frequency() -> None:
    outcome = obtained(windows=False, quiesced=True, script_ran=False)
    watch = committed(answered(NEVER_ASKED, asked(NEVER_ASKED, NOW), outcome), outcome.kind)
    assert not is_due(CycleKind.DELTA, 4 * H, watch, NOW + 4 * H - M)
    assert is_due(CycleKind.DELTA, 4 * H, watch, NOW + 4 * H)


@pytest.mark.parametrize(
    ("windows", "quiesced", "script_ran", "kind"),
    [
        (True, True, False, APP),
        (True, True, True, APP),
        (False, True, True, APP),
        (False, True, False, FILES),
        (True, False, True, CRASH),
        (False, False, True, CRASH),
    ],
)
def test_nothing_is_claimed_that_was_not_obtained(windows: bool, quiesced: bool, script_ran: bool, kind: PointKind) -> None:
    outcome = obtained(windows=windows, quiesced=quiesced, script_ran=script_ran)
    assert outcome.kind is kind
    assert outcome.sentence.endswith(".")
    assert (outcome.note == "") is (kind is APP)


def test_windows_is_asked_by_vss_and_waited_for_a_little_longer_than_vsphere_may_take() -> None:
    assert order_for("Windows").windows and not order_for("Linux").windows
    assert order_for("Linux").patience > order_for("Linux").limit >= 5 * M


def test_the_name_of_a_quiesced_snapshot_is_ours_of_its_cycle_and_short_enough_for_vsphere() -> None:
    ref = ReplicationRef("installation", "london", "lab", "5021", "0123456789abcdef")
    cycle_key = "12345678-00000000-0000-4000-8000-000000000001"
    name = quiesced_snapshot_name(ref, cycle_key)
    assert name != snapshot_name(ref, cycle_key)
    assert name.startswith(snapshot_prefix(ref)) and len(name) <= 80
    assert is_of_installation(name, "installation")
    assert cycle_of_snapshot(name) == cycle_key
    owner = owner_of_snapshot(name)
    assert owner is not None and owner.replication_id == ref.replication_id
