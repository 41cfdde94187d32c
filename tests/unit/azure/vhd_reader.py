"""A parser of the fixed VHD's footer, written from the specification's table of fields and apart from the writer."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Footer:
    """The footer's fields that matter."""

    cookie: bytes
    features: int
    version: int
    data_offset: int
    timestamp: int
    original_size: int
    current_size: int
    cylinders: int
    heads: int
    sectors_per_track: int
    disk_type: int
    unique_id: bytes
    saved_state: int


def read_footer(footer: bytes) -> Footer:
    """Return the fields of a footer. Raises ValueError if its length or checksum is wrong or its reserved part is used."""
    if len(footer) != 512:
        raise ValueError("length")

    def number(offset: int, size: int) -> int:
        return int.from_bytes(footer[offset : offset + size], "big")

    expected = 0xFFFFFFFF - sum(byte for position, byte in enumerate(footer) if not 64 <= position < 68)
    if number(64, 4) != expected:
        raise ValueError("checksum")
    if any(footer[85:]):
        raise ValueError("reserved")
    return Footer(
        footer[0:8], number(8, 4), number(12, 4), number(16, 8), number(24, 4), number(40, 8), number(48, 8),
        number(56, 2), footer[58], footer[59], number(60, 4), footer[68:84], footer[84],
    )  # fmt: skip
