"""The target's own account of a chunk: which sectors it covered, which objects it applied, which checksums they carried.

Written by the target side from what it did, never from the plan, and compared with the plan and the manifest before
a commit. The record's envelope is that of every small record (`records.py`).
"""

from dataclasses import dataclass

from deltaferry.blocks.manifest import Manifest, decode_manifest, encode_manifest
from deltaferry.blocks.records import BodyReader, open_record, put_number, seal_record
from deltaferry.model.errors import ErrorKind
from deltaferry.model.replication import StoredSegment

MAGIC = b"DFAC"
VERSION = 1
_KIND, _WHAT = ErrorKind.MANIFEST_MISMATCH, "target account"


@dataclass(frozen=True, slots=True)
class TargetAccount:
    """What an apply did to one disk in one chunk."""

    cycle_key: str
    disk_key: int
    first_segment: int
    covered: bytes
    """Encoded `SectorSet`."""
    granules: bytes
    """Encoded `GranuleUpdates`."""
    applied: tuple[StoredSegment, ...]
    """Each object as it was read, in order."""


def encode_account(account: TargetAccount) -> bytes:
    """Return the stored form of an account."""
    applied = encode_manifest(Manifest(account.cycle_key, account.disk_key, account.first_segment, account.applied))
    parts = (account.covered, account.granules, applied)
    return seal_record(MAGIC, VERSION, b"".join(put_number(len(part)) + part for part in parts))


def decode_account(data: bytes) -> TargetAccount:
    """Return a stored account. Raises MANIFEST_MISMATCH for a damaged one: it proves nothing."""
    reader = BodyReader(open_record(MAGIC, VERSION, data, _KIND, _WHAT), _KIND, _WHAT)
    covered, granules, applied = (bytes(reader.take(reader.number())) for _ in range(3))
    reader.end()
    manifest = decode_manifest(applied)
    return TargetAccount(manifest.cycle_key, manifest.disk_key, manifest.first_segment, covered, granules, manifest.segments)
