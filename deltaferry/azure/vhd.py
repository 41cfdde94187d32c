"""The fixed VHD's footer: 512 bytes after the raw data, as Azure's disk import wants them.

Source: Virtual Hard Disk Image Format Specification 1.0 (Microsoft), sections "Hard Disk Footer Format" and
"CHS Calculation". Azure sizes a disk by the footer's current size, which is exact here and a whole number of MiB;
the geometry is the specification's, which covers less than the size and is not what Azure goes by.
"""

import struct
from datetime import UTC, datetime
from uuid import UUID

from deltaferry.model.units import MIB, SECTOR, VHD_FOOTER

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_FIXED = 2
_LAYOUT = struct.Struct(">8sIIQI4sI4sQQHBBII16sB427x")
_CHECKSUM_OFFSET = 64
_MAX_CHS_SECTORS = 65535 * 16 * 255


def chs(size_bytes: int) -> tuple[int, int, int]:
    """Return (cylinders, heads, sectors per track) of a disk, by the specification's calculation."""
    sectors = min(size_bytes // SECTOR, _MAX_CHS_SECTORS)
    if sectors >= 65535 * 16 * 63:
        per_track, heads = 255, 16
        cylinders_by_heads = sectors // per_track
    else:
        per_track = 17
        cylinders_by_heads = sectors // per_track
        heads = max(4, (cylinders_by_heads + 1023) // 1024)
        if cylinders_by_heads >= heads * 1024 or heads > 16:
            per_track, heads = 31, 16
            cylinders_by_heads = sectors // per_track
        if cylinders_by_heads >= heads * 1024:
            per_track, heads = 63, 16
            cylinders_by_heads = sectors // per_track
    return cylinders_by_heads // heads, heads, per_track


def fixed_footer(size_bytes: int, unique_id: UUID, created_at: datetime) -> bytes:
    """Return the footer of a fixed VHD with `size_bytes` of data.

    Raises ValueError unless the size is a positive whole number of MiB: Azure refuses others.
    """
    if size_bytes <= 0 or size_bytes % MIB:
        raise ValueError(f"a fixed VHD for Azure has a whole number of MiB, not {size_bytes} bytes")
    cylinders, heads, per_track = chs(size_bytes)
    footer = bytearray(
        _LAYOUT.pack(
            b"conectix",
            0x00000002,  # features: the reserved bit that is always set
            0x00010000,  # file format version 1.0
            0xFFFFFFFFFFFFFFFF,  # data offset: none in a fixed disk
            max(0, int((created_at - _EPOCH).total_seconds())),
            b"dfry",
            0x00010000,  # version of the creating program
            b"Wi2k",
            size_bytes,  # original size
            size_bytes,  # current size
            cylinders,
            heads,
            per_track,
            _FIXED,
            0,
            unique_id.bytes,
            0,  # not in a saved state
        )
    )
    struct.pack_into(">I", footer, _CHECKSUM_OFFSET, ~sum(footer) & 0xFFFFFFFF)
    if len(footer) != VHD_FOOTER:
        raise AssertionError(f"the footer has {len(footer)} bytes")
    return bytes(footer)
