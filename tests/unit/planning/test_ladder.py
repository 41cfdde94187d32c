import pytest

from deltaferry.model.errors import CATALOGUE, ErrorKind
from deltaferry.planning.failure import CBT_CANNOT_REPAIR, INTEGRITY
from deltaferry.planning.ladder import Rung, failed_in_itself, first_step, next_step

_OUTAGES = (
    ErrorKind.VSPHERE_UNREACHABLE,
    ErrorKind.STORE_UNREACHABLE,
    ErrorKind.STORE_THROTTLED,
    ErrorKind.DATASTORE_FULL,
    ErrorKind.INTERRUPTED,
    ErrorKind.TRACKING_RESET_REFUSED,
    ErrorKind.CLAIM_LOST,
)


def test_the_first_resync_for_a_cause_is_the_most_precise_one() -> None:
    step = next_step(None, "CbtReset: the tracking UUID changed")
    assert step.rung is Rung.ALLOCATED
    assert step.reason == f"CbtReset: the tracking UUID changed: {Rung.ALLOCATED}"


@pytest.mark.parametrize(("failed", "following"), [(Rung.ALLOCATED, Rung.WHOLE), (Rung.WHOLE, Rung.FULL)])
def test_precision_is_given_up_one_rung_at_a_time_and_the_sentence_names_both(failed: Rung, following: Rung) -> None:
    step = next_step(failed, "CbtReset")
    assert step.rung is following
    assert failed.value in step.reason
    assert step.reason.endswith(following.value)


def test_below_a_full_copy_there_is_only_another() -> None:
    step = next_step(Rung.FULL, "CbtReset")
    assert step.rung is Rung.FULL
    assert step.reason == f"CbtReset: {Rung.FULL}, again"


def test_every_rung_is_reached_from_the_first() -> None:
    rungs = [next_step(None, "cause").rung]
    while rungs[-1] is not Rung.FULL:
        rungs.append(next_step(rungs[-1], "cause").rung)
    assert rungs == list(Rung)


@pytest.mark.parametrize("kind", sorted((CBT_CANNOT_REPAIR | INTEGRITY) - {ErrorKind.CLAIM_LOST}))
def test_what_says_something_of_the_replica_is_the_resyncs_own_failure(kind: ErrorKind) -> None:
    assert failed_in_itself(kind)


@pytest.mark.parametrize("kind", _OUTAGES)
def test_an_outage_or_a_refusal_is_not(kind: ErrorKind) -> None:
    assert kind in CATALOGUE
    assert not failed_in_itself(kind)


def test_where_change_tracking_missed_changes_its_word_on_what_is_allocated_is_not_taken() -> None:
    assert first_step(ErrorKind.CBT_MISSED_CHANGES, "missed").rung is Rung.WHOLE
    assert first_step(ErrorKind.CBT_RESET, "reset").rung is Rung.ALLOCATED
    assert first_step(None, "asked for").rung is Rung.ALLOCATED
