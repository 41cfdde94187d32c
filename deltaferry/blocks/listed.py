"""Fetching what a manifest lists: from the log store, or out of the manifest itself."""

from blake3 import blake3

from deltaferry.blocks.blob_http import BlobClient
from deltaferry.blocks.segment import SegmentIdentity
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.replication import StoredSegment


def fetch_listed(log: BlobClient, identity: SegmentIdentity, listed: StoredSegment, buffer: memoryview) -> memoryview:
    """Return an object's bytes, in `buffer` unless the manifest carries them.

    Raises MANIFEST_MISMATCH unless they are the ones that the manifest lists, and STORE_OBJECT_MISSING.
    """
    mismatch = DeltaferryError(
        ErrorKind.MANIFEST_MISMATCH, f"the stored object {identity.name} is not the one that the manifest lists"
    )
    if listed.inline:
        stored = memoryview(listed.inline)
    else:
        try:
            stored = buffer[: log.get_into(identity.name, buffer[: listed.size_bytes])]
        except DeltaferryError as error:
            if error.kind is ErrorKind.SEGMENT_DAMAGED:  # larger than it is listed
                raise mismatch from None
            raise
    if StoredSegment(listed.number, blake3(stored).digest(), len(stored)) != listed:
        raise mismatch
    return stored
