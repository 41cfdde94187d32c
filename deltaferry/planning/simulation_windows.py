"""The weekly windows and the throttle of a simulated site, as times since its begin."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from deltaferry.planning.closures import occurrences
from deltaferry.planning.simulation_site import SimulatedAppliance, SimulatedSite
from deltaferry.planning.throttle import BITS_PER_BYTE, next_change, rate_at
from deltaferry.planning.windows import Windows, inside, next_start


class SiteTimes:
    """When appliances are closed, when off-hours begin, and what a line takes when."""

    def __init__(self, site: SimulatedSite, ends_s: float) -> None:
        self._site = site
        self._ends_s = ends_s
        self._closed = {appliance.name: self._closures(appliance) for appliance in site.appliances}

    def instant(self, at_s: float) -> datetime:
        """Return the instant at so many seconds since the begin."""
        return self._site.begins + timedelta(seconds=at_s)

    def changes(self) -> list[float]:
        """Return when an appliance closes or opens, in order."""
        return sorted(
            {at_s for closures in self._closed.values() for closure in closures for at_s in closure if at_s <= self._ends_s}
        )

    def closed_at(self, at_s: float) -> frozenset[str]:
        """Return the appliances that are in a blackout window."""
        return frozenset(name for name, closures in self._closed.items() if any(start <= at_s < end for start, end in closures))

    def opens_at(self, appliance: str, at_s: float) -> float:
        """Return when a migration on an appliance is accepted: at once, or at the end of the window it is in."""
        return next((end for start, end in self._closed[appliance] if start <= at_s < end), at_s)

    def open_s(self, appliance: str, from_s: float, to_s: float) -> float:
        """Return how much of a time an appliance was open for."""
        closed = (max(min(end, to_s) - max(start, from_s), 0.0) for start, end in self._closed[appliance])
        return to_s - from_s - sum(closed)

    def off_hours_at(self, at_s: float) -> float | None:
        """Return when a resync may start that is due at a time; None if there are no off-hours."""
        now = self.instant(at_s)
        if inside(self._site.off_hours, self._site.zone, now) is not None:
            return at_s
        start = next_start(self._site.off_hours, self._site.zone, now)
        return (start - self._site.begins).total_seconds() if start is not None else None

    def rates(self, appliance: SimulatedAppliance) -> Iterator[tuple[float, float]]:
        """Yield (since when, bytes a second that disks may send over an appliance's line), in order."""
        at: datetime | None = self._site.begins
        while at is not None and (at_s := (at - self._site.begins).total_seconds()) <= self._ends_s:
            throttled = rate_at(self._site.throttle, self._site.zone, at)
            bits_per_s = min(appliance.bits_per_s, throttled.bits_per_s) if throttled is not None else appliance.bits_per_s
            yield at_s, bits_per_s / BITS_PER_BYTE * self._site.costs.compression
            at = next_change(self._site.throttle, self._site.zone, at)

    def _closures(self, appliance: SimulatedAppliance) -> list[tuple[float, float]]:
        site = self._site
        windows = Windows((*site.blackout.entries, *appliance.blackout.entries))
        found = occurrences(windows, site.zone, site.begins, self.instant(self._ends_s))
        return [
            (
                (closure.start - site.begins).total_seconds(),
                (closure.end - site.begins).total_seconds() if closure.end is not None else float("inf"),
            )
            for closure in found
        ]
