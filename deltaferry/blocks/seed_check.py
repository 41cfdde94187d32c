"""What a check of a seed disk found in a range: which granules have pages, and which differ from the checksum map.

Written by the target side, read by the source side, which compares its snapshot with the same map: hashes travel,
never data.
"""

from dataclasses import dataclass

from deltaferry.blocks.granules import GranuleSet, put_granules, take_granules
from deltaferry.blocks.records import BodyReader, open_record, put_number, seal_record
from deltaferry.model.errors import ErrorKind
from deltaferry.model.units import GRANULE, round_up

MAGIC = b"DFCK"
VERSION = 1
_KIND, _WHAT = ErrorKind.CHECKSUM_MISMATCH, "seed check"


@dataclass(frozen=True, slots=True)
class SeedCheck:
    """A disk's seed, checked from `position_bytes` up to `end_bytes`, both whole granules or the disk's end."""

    disk_key: int
    position_bytes: int
    end_bytes: int
    present: GranuleSet
    """Granules of which the page blob holds any page; the others read as zero."""
    differing: GranuleSet
    """Granules whose content is not the map's, and those of which the map knows nothing."""


def encode_seed_check(check: SeedCheck) -> bytes:
    """Return the stored form."""
    body = (
        put_number(check.disk_key),
        put_number(check.position_bytes),
        put_number(check.end_bytes),
        put_granules(check.present),
        put_granules(check.differing),
    )
    return seal_record(MAGIC, VERSION, b"".join(body))


def decode_seed_check(data: bytes) -> SeedCheck:
    """Return a stored check. Raises CHECKSUM_MISMATCH for a damaged one: it proves nothing."""
    reader = BodyReader(open_record(MAGIC, VERSION, data, _KIND, _WHAT), _KIND, _WHAT)
    disk_key, position_bytes, end_bytes = reader.number(), reader.number(), reader.number()
    present, differing = take_granules(reader), take_granules(reader)
    reader.end()
    first, end = position_bytes // GRANULE, round_up(end_bytes, GRANULE) // GRANULE
    if position_bytes > end_bytes or (position_bytes % GRANULE and position_bytes != end_bytes):
        raise reader.damaged("it does not begin at a granule, or ends before it begins")
    if present.within(first, end) != present or differing.within(first, end) != differing:
        raise reader.damaged("a granule lies outside the range that was checked")
    return SeedCheck(disk_key, position_bytes, end_bytes, present, differing)
