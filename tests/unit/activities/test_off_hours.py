from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.off_hours import OffHours
from deltaferry.model.errors import ErrorKind
from deltaferry.planning.windows import DEFAULT_OFF_HOURS
from workflows.messages.site import OffHoursAnswer, OffHoursInput, SiteProfile
from workflows.plugin import DeltaferryPayloadConverter

PROFILE = SiteProfile(
    "tests", "london", "london-1", "west", timedelta(hours=1), timedelta(hours=12), 52, 8, 15, time_zone="Europe/London"
)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def ask(profile: SiteProfile, now: datetime) -> OffHoursAnswer:
    return ActivityEnvironment().run(OffHours().next_off_hours, OffHoursInput(profile, now))


@pytest.mark.parametrize(
    ("now", "start", "end", "inside"),
    [
        ("2026-01-05T21:59", "2026-01-05T22:00", "2026-01-06T06:00", False),
        ("2026-01-05T22:00", "2026-01-05T22:00", "2026-01-06T06:00", True),
        ("2026-01-06T05:59", "2026-01-06T05:59", "2026-01-06T06:00", True),
        ("2026-01-06T06:00", "2026-01-06T22:00", "2026-01-07T06:00", False),
        # summer time, and the nights in which clocks go forward and back
        ("2026-07-06T12:00", "2026-07-06T21:00", "2026-07-07T05:00", False),
        ("2026-03-28T12:00", "2026-03-28T22:00", "2026-03-29T05:00", False),
        ("2026-10-24T12:00", "2026-10-24T21:00", "2026-10-25T06:00", False),
    ],
)
def test_off_hours_are_every_night_of_the_sites_own_clock(now: str, start: str, end: str, inside: bool) -> None:
    assert ask(PROFILE, utc(now)) == OffHoursAnswer(utc(start), utc(end), inside)


def test_windows_over_the_whole_week_never_end() -> None:
    now = utc("2026-01-05T21:59")
    assert ask(replace(PROFILE, off_hours="Monday;0:00;7d"), now) == OffHoursAnswer(now, None, inside=True)


def test_without_windows_automatic_resyncs_never_start() -> None:
    assert ask(replace(PROFILE, off_hours=""), utc("2026-01-05T21:59")) == OffHoursAnswer(None, None, inside=False)


def test_the_answer_is_in_utc_whatever_the_question_is_in() -> None:
    now = datetime(2026, 1, 6, 1, 30, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    answer = ask(PROFILE, now)
    assert answer.start == utc("2026-01-05T22:00") and answer.start.tzinfo is UTC


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", "Europe", "../etc/passwd", "/etc/passwd", "a\0b", "x" * 5000])
def test_a_time_zone_that_this_worker_does_not_know_is_bad_configuration(zone: str) -> None:
    with pytest.raises(ApplicationError, match="time_zone of the site 'london' is not an IANA time zone") as caught:
        ask(replace(PROFILE, time_zone=zone), utc("2026-01-05T21:59"))
    assert caught.value.type == ErrorKind.BAD_CONFIGURATION and caught.value.non_retryable


def test_windows_that_cannot_be_read_are_bad_configuration() -> None:
    with pytest.raises(ApplicationError, match="off_hours of the site 'london' cannot be read: Window 1 has a day") as caught:
        ask(replace(PROFILE, off_hours="Moonday;0:00;7d"), utc("2026-01-05T21:59"))
    assert caught.value.type == ErrorKind.BAD_CONFIGURATION and caught.value.non_retryable


def test_an_instant_without_time_zone_is_bad_input() -> None:
    with pytest.raises(ApplicationError, match="send it in UTC") as caught:
        ask(PROFILE, datetime(2026, 1, 5))
    assert caught.value.type == ErrorKind.BAD_INPUT


@pytest.mark.parametrize("off_hours", [DEFAULT_OFF_HOURS, "Monday;0:00;7d", ""])
def test_question_and_answer_travel_through_temporal_unchanged(off_hours: str) -> None:
    converter = DeltaferryPayloadConverter()
    question = OffHoursInput(replace(PROFILE, off_hours=off_hours), utc("2026-01-05T21:59"))
    answer = ask(question.profile, question.now)
    assert converter.from_payload(converter.to_payload(question), OffHoursInput) == question
    assert converter.from_payload(converter.to_payload(answer), OffHoursAnswer) == answer


def test_a_profile_carried_from_before_windows_existed_gets_their_defaults() -> None:
    converter = DeltaferryPayloadConverter()
    known = {"time_zone", "off_hours", "sample_share"}
    old = {field.name: getattr(PROFILE, field.name) for field in fields(PROFILE) if field.name not in known}
    profile = converter.from_payload(converter.to_payload(old), SiteProfile)
    assert (profile.time_zone, profile.off_hours, profile.sample_share) == ("UTC", DEFAULT_OFF_HOURS, 0.0)
