"""Which names of time zones there are."""

import zoneinfo
from functools import lru_cache


def is_time_zone(name: str) -> bool:
    """Return whether a name is an IANA time zone that this process knows."""
    return name in _time_zones()


@lru_cache(maxsize=1)
def _time_zones() -> frozenset[str]:
    return frozenset(zoneinfo.available_timezones())
