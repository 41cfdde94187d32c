"""How durations and sizes are written in the sentences that people read."""

from datetime import timedelta

_MINUTE_S = 60
_HOUR_S = 3600
_SIZES = (("TiB", 1024**4), ("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024))


def duration_text(value: timedelta) -> str:
    """Return a duration as `4 h 00 min`, `12 min 30 s` or `2.5 s`: three digits are enough to decide by."""
    seconds = value.total_seconds()
    if seconds < 0:
        return f"-{duration_text(-value)}"
    if round(seconds, 1) < _MINUTE_S:
        return f"{round(seconds, 1):g} s"
    whole = round(seconds)
    if whole < _HOUR_S:
        minutes, rest = divmod(whole, _MINUTE_S)
        return f"{minutes} min {rest:02d} s" if rest else f"{minutes} min"
    hours, minutes = divmod(round(seconds / _MINUTE_S), _MINUTE_S)
    return f"{hours} h {minutes:02d} min"


def size_text(size_bytes: int) -> str:
    """Return a size in the largest binary unit that it fills, with at most one decimal: `512 MiB`, `1.5 GiB`."""
    for unit, factor in _SIZES:
        if size_bytes >= factor:
            text = f"{size_bytes / factor:,.1f}"
            return f"{text.removesuffix('.0')} {unit}"
    return f"{size_bytes} bytes"


def count_text(count: int, noun: str) -> str:
    """Return `1 disk`, `2 disks`: a number with its regular English noun."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
