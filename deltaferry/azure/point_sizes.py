"""How much a recovery point costs: the bytes of pages that it holds and the point before does not.

Counted where that is cheap, from at most a few answers of Get Page Ranges; a point in more pieces has no known size, which is
honest, and better than a listing that takes minutes.
"""

from itertools import islice

from deltaferry.azure.seeds import PageBlobSeeds
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.naming import seed_name
from deltaferry.model.recovery_points import PointDisk, RecoveryPointRecord

RANGES_PER_ANSWER = 10_000
"""The most that Get Page Ranges gives at once."""

MAX_ANSWERS = 3
"""How many answers are fetched for one disk."""


def stored_bytes(
    seeds: PageBlobSeeds,
    container: str,
    point: RecoveryPointRecord,
    previous: RecoveryPointRecord | None,
    ranges_per_answer: int = RANGES_PER_ANSWER,
) -> int | None:
    """Return the bytes of a point's pages that differ from the previous point's, or of all its pages without one; None if unknown."""
    before = {disk.disk_key: disk.snapshot for disk in previous.disks} if previous is not None else {}
    total = 0
    for disk in point.disks:
        size = _disk_bytes(seeds, container, disk, before.get(disk.disk_key), ranges_per_answer)
        if size is None:
            return None
        total += size
    return total


def _disk_bytes(
    seeds: PageBlobSeeds, container: str, disk: PointDisk, previous: str | None, ranges_per_answer: int
) -> int | None:
    blob = seeds.account.client.get_blob_client(container, seed_name(disk.disk_key), disk.snapshot)
    try:
        with seeds.account.errors(f"counting the pages of {container}/{seed_name(disk.disk_key)}", ErrorKind.SEED_MISSING):
            answers = blob.list_page_ranges(previous_snapshot=previous, results_per_page=ranges_per_answer).by_page()
            size = 0
            for answer in islice(answers, MAX_ANSWERS):
                size += sum((found.end or 0) + 1 - (found.start or 0) for found in answer if not found.cleared)
            return size if next(answers, None) is None else None
    except DeltaferryError as error:
        if error.kind is not ErrorKind.STORE_UNREACHABLE:
            raise
        return None  # in so many pieces that the service gave the answer up in time
