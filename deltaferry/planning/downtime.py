"""What a migration will cost in downtime, and how long a resync will take: plain arithmetic on measured rates.

The model. While a delta of length `d` runs, the guest changes `bytes_changed_per_s * d`; the next delta has to move
that, which takes `overhead + bytes_changed_per_s * d / transfer_bytes_per_s`. `overhead` is what a cycle costs
besides moving bytes: snapshot, consolidation, verification, commit. Downtime is the final delta and the import of the
seed disks, one after the other. Repeating deltas drives `d` towards the fixed point `overhead / (1 - changed/transfer)`;
where the guest changes data as fast as it can be moved there is none, and the answer is `NEVER`.
"""

from collections.abc import Sequence
from datetime import timedelta

NEVER = timedelta(days=365)
"""The answer where the rates never converge, and the cap of every prediction: longer than any `max_downtime`."""


def predict(
    bytes_changed_per_s: float,
    transfer_bytes_per_s: float,
    overhead: timedelta,
    import_duration: timedelta,
    since_snapshot: timedelta | None = None,
) -> timedelta:
    """Return the predicted downtime of a migration, at most `NEVER`.

    With `since_snapshot` (time since the last committed delta's snapshot was taken): the downtime if the source were
    shut down now. Without: what repeated on-demand deltas approach, so the best that repeating can reach.
    """
    if bytes_changed_per_s <= 0:
        return min(overhead + import_duration, NEVER)
    if transfer_bytes_per_s <= 0:
        return NEVER
    ratio = bytes_changed_per_s / transfer_bytes_per_s
    if since_snapshot is not None:
        final_delta_s = overhead.total_seconds() + ratio * max(since_snapshot.total_seconds(), 0.0)
    elif ratio < 1:
        final_delta_s = overhead.total_seconds() / (1 - ratio)
    else:
        return NEVER
    return _capped(final_delta_s + import_duration.total_seconds())


_ASSUMED_BYTES_PER_S = 200e6
"""What one ESXi host gives at least (facts 0.9): the guess where no resync was measured yet."""


def predicted_resync(capacity_bytes: int, earlier: Sequence[tuple[int, timedelta]] = ()) -> timedelta:
    """Return how long a resync takes: the disks' size at the rate of the last one, given as (bytes compared, duration)."""
    measured = [compared / duration.total_seconds() for compared, duration in earlier if compared and duration > timedelta(0)]
    return _capped(capacity_bytes / (measured[-1] if measured else _ASSUMED_BYTES_PER_S))


def _capped(seconds: float) -> timedelta:
    return timedelta(seconds=seconds) if seconds < NEVER.total_seconds() else NEVER
