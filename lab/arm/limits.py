"""The limits of incremental snapshots and of page lists, which a test may make smaller, or shorter in time.

Sources: learn.microsoft.com, "Create an incremental snapshot for managed disks", restrictions (five signatures, seven
snapshots in five minutes, 500 snapshots); "Get Page Ranges" (10,000 items a page).
"""

from collections import deque
from dataclasses import dataclass, fields, replace


@dataclass(frozen=True, slots=True)
class Limits:
    """Azure's limits, unless changed."""

    signatures_per_family: int = 5
    """Incremental snapshots of one disk that have a signature at the same time."""
    snapshots_per_window: int = 7
    """Incremental snapshots of one disk created within `window_s`, deleted ones too."""
    window_s: float = 300.0
    snapshots_per_disk: int = 500
    """Incremental snapshots of one disk that exist."""
    ranges_per_page: int = 10_000
    """Ranges on a page of Get Page Ranges, of those clients that know pages (service version 2020-10-02)."""

    def changed(self, values: dict[str, float | None]) -> "Limits":
        """Return these limits with those replaced that are given. Raises ValueError for a name that there is not."""
        known = {item.name: item.type for item in fields(self)}
        given = {name: value for name, value in values.items() if value is not None}
        if unknown := given.keys() - known.keys():
            raise ValueError(f"there is no limit called {min(unknown)}")
        return replace(self, **{name: value if name == "window_s" else int(value) for name, value in given.items()})  # type: ignore[arg-type]


class SnapshotTimes:
    """When incremental snapshots were made, by their disk's unique id."""

    def __init__(self) -> None:
        self._times: dict[str, deque[float]] = {}

    def recent(self, disk: str, now: float, window_s: float) -> int:
        """Return how many were made of a disk in the last `window_s`, and forget the others."""
        times = self._times.get(disk, deque())
        while times and times[0] <= now - window_s:
            times.popleft()
        return len(times)

    def note(self, disk: str, now: float) -> None:
        """Note that one is made."""
        self._times.setdefault(disk, deque()).append(now)
