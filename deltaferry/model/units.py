"""Sizes that the formats and services fix, in bytes."""

SECTOR = 512
"""The unit of coverage (spec §4) and of VDDK, NFC and page blobs."""

GRANULE = 64 * 1024
"""The unit of content checksums: a disk is hashed in 64 KiB granules, the last one possibly short."""

BLOCK = 4 * 1024 * 1024
"""The data plane's unit, aligned: Put Page takes at most 4 MiB of data in one request."""

MIB = 1024 * 1024

VHD_FOOTER = 512
"""A fixed VHD is raw data, padded to a whole MiB, and one footer sector."""

MAX_SEED_BYTES = 8 * 1024**4
"""The largest page blob (spec §9); a larger disk is refused by the prerequisite checks."""


def round_up(value: int, unit: int) -> int:
    """Return the smallest multiple of `unit` that is at least `value`."""
    return -(-value // unit) * unit


def seed_blob_size(capacity_bytes: int) -> int:
    """Return the size of the page blob that holds a disk: whole MiBs and the place of the VHD footer."""
    return round_up(capacity_bytes, MIB) + VHD_FOOTER
