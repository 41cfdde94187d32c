"""When automatic resyncs may start: time-zone arithmetic, which runs outside the workflow so that its answer is recorded.

A replay then sees the instant that was decided with, whatever the time-zone rules say by that time.
"""

from datetime import UTC
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from temporalio import activity

from activities.failures import translated
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.planning.windows import ENDLESS, Windows, inside, next_start, parse_windows
from workflows.messages.site import OffHoursAnswer, OffHoursInput, SiteProfile


class OffHours:
    """Knows time zones."""

    @activity.defn
    @translated
    def next_off_hours(self, request: OffHoursInput) -> OffHoursAnswer:
        """Return the site's off-hours window that covers the instant, or else the next one.

        Without windows the answer has no start: automatic resyncs wait for an operator. Raises BAD_INPUT for an
        instant without time zone, BAD_CONFIGURATION for windows or a time zone that this worker cannot read.
        """
        if request.now.utcoffset() is None:
            raise DeltaferryError(
                ErrorKind.BAD_INPUT, "The instant that off-hours are asked for has no time zone: send it in UTC."
            )
        profile, now = request.profile, request.now.astimezone(UTC)
        windows, zone = weekly_windows(profile, "off_hours", profile.off_hours), time_zone(profile)
        end = inside(windows, zone, now)
        if end is not None:
            return OffHoursAnswer(now, None if end is ENDLESS else end, inside=True)
        start = next_start(windows, zone, now)
        if start is None:
            return OffHoursAnswer(None, None, inside=False)
        end = inside(windows, zone, start)
        return OffHoursAnswer(start, None if end is ENDLESS else end, inside=False)


def weekly_windows(profile: SiteProfile, setting: str, text: str) -> Windows:
    """Return the windows that a site's setting stands for. Raises BAD_CONFIGURATION."""
    try:
        return parse_windows(text)
    except ValueError as error:
        raise DeltaferryError(
            ErrorKind.BAD_CONFIGURATION, f"{setting} of the site {profile.site!r} cannot be read: {error}"
        ) from None


def time_zone(profile: SiteProfile) -> ZoneInfo:
    """Return the site's zone. Raises BAD_CONFIGURATION.

    A name that is not a file name in the database at all raises ValueError or OSError there.
    """
    try:
        return ZoneInfo(profile.time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise DeltaferryError(
            ErrorKind.BAD_CONFIGURATION,
            f"time_zone of the site {profile.site!r} is not an IANA time zone that this worker knows: "
            'write one such as "Europe/London".',
        ) from None
