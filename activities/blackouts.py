"""When a site's blackout windows occur: time-zone arithmetic, which runs outside the workflow so that its answer is recorded."""

from datetime import UTC, timedelta

from temporalio import activity

from activities.failures import translated
from activities.off_hours import time_zone, weekly_windows
from deltaferry.planning.closures import occurrences
from workflows.messages.site import BlackoutsAnswer, BlackoutsInput, ClosedWindow

_HORIZON = timedelta(days=15)
"""How far ahead occurrences are listed: the arbiter asks again every day, so that two weeks without a control worker pass."""


class Blackouts:
    """Knows time zones."""

    @activity.defn
    @translated
    def list_blackouts(self, request: BlackoutsInput) -> BlackoutsAnswer:
        """Return the occurrences of the site's windows and of its appliances' own.

        Raises BAD_CONFIGURATION for windows or a time zone that this worker cannot read.
        """
        profile, now = request.profile, request.now.astimezone(UTC)
        zone, until = time_zone(profile), now + _HORIZON
        texts = [("", profile.blackout), *((appliance.name, appliance.blackout) for appliance in profile.appliances)]
        closed = [
            ClosedWindow(closure.start, closure.end, appliance)
            for appliance, text in texts
            for closure in occurrences(weekly_windows(profile, "blackout", text), zone, now, until)
        ]
        return BlackoutsAnswer(tuple(sorted(closed, key=lambda window: (window.start, window.appliance))), until)
