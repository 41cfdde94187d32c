"""The fixed VHD's footer: a vector made by hand, an independent parse, and the specification's geometry."""

from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltaferry.azure.vhd import chs, fixed_footer
from deltaferry.model.units import MAX_SEED_BYTES, MIB

from .vhd_reader import read_footer

ID = UUID("00112233-4455-6677-8899-aabbccddeeff")
SECOND = datetime(2000, 1, 1, 0, 0, 1, tzinfo=UTC)


def test_the_footer_equals_the_vector_made_by_hand() -> None:
    head = bytes.fromhex(
        "636f6e6563746978" "00000002" "00010000" "ffffffffffffffff" "00000001" "64667279" "00010000" "5769326b"
        "0000000000300000" "0000000000300000" "005a0411" "00000002"
    )  # fmt: skip
    # 3 MiB are 6144 sectors: 6144 // 17 = 361, 361 // 4 heads = 90 = 0x5a cylinders.
    tail = ID.bytes + bytes(428)
    checksum = (0xFFFFFFFF - sum(head) - sum(tail)).to_bytes(4, "big")
    # The bytes before and after the checksum add up to 5941 = 0x1735.
    assert checksum.hex() == "ffffe8ca"
    assert fixed_footer(3 * MIB, ID, SECOND) == head + checksum + tail


@given(st.integers(1, MAX_SEED_BYTES // MIB))
def test_an_independent_parser_reads_the_exact_size_back(mebibytes: int) -> None:
    footer = read_footer(fixed_footer(mebibytes * MIB, ID, SECOND))
    assert footer.current_size == footer.original_size == mebibytes * MIB
    assert (footer.cookie, footer.disk_type, footer.version) == (b"conectix", 2, 0x10000)
    assert (footer.features, footer.data_offset, footer.saved_state) == (2, 2**64 - 1, 0)
    assert (footer.timestamp, footer.unique_id) == (1, ID.bytes)
    assert footer.cylinders * footer.heads * footer.sectors_per_track * 512 <= mebibytes * MIB


@pytest.mark.parametrize("size", [0, -MIB, MIB + 512, 3 * MIB - 1])
def test_a_size_that_azure_refuses_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="whole number of MiB"):
        fixed_footer(size, ID, SECOND)


@pytest.mark.parametrize(
    ("size", "geometry"),
    [
        (40 * MIB, (963, 5, 17)),
        (1024 * MIB, (2080, 16, 63)),
        (504 * MIB, (1024, 16, 63)),
        (2 * 1024 * 1024 * MIB, (65535, 16, 255)),
        (127 * 1024 * MIB, (65278, 16, 255)),
    ],
)
def test_the_geometry_is_the_specifications(size: int, geometry: tuple[int, int, int]) -> None:
    # The figures for 40 MiB, 504 MiB, 1 GiB, 127 GiB and 2 TiB, worked out from the specification's pseudo code by hand.
    assert chs(size) == geometry
