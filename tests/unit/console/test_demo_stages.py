"""What a step of the disaster-recovery demo lost: counted on disks, and held against what should be on them."""

import json
import tempfile
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from console.demo_stages import Round, Stage, difference, settle
from deltaferry.model.units import BLOCK, SECTOR
from lab.oracle import differing_bytes

GOOD = Stage("failover", True, 7, 7, 1.0)


def files(folder: Path, *contents: bytes) -> tuple[Path, ...]:
    made = tuple(folder / f"disk-{number}" for number, _ in enumerate(contents))
    for path, content in zip(made, contents, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return made


@given(st.binary(min_size=SECTOR, max_size=SECTOR), st.dictionaries(st.integers(0, SECTOR - 1), st.integers(1, 255), max_size=40))
def test_every_byte_that_differs_counts_once(content: bytes, changes: dict[int, int]) -> None:
    other = bytearray(content)
    for offset, change in changes.items():
        other[offset] ^= change
    with tempfile.TemporaryDirectory() as folder:
        left, right = files(Path(folder), content, bytes(other))
        assert differing_bytes(left, right, SECTOR) == len(changes)


def test_blocks_are_counted_to_the_disks_end_and_what_is_missing_is_lost(tmp_path: Path) -> None:
    size = 2 * BLOCK + SECTOR
    ours = bytearray(b"\xaa" * size)
    theirs = bytearray(ours)
    theirs[BLOCK - 1 : BLOCK + 1] = b"\0\0"
    theirs[size - 1] = 0
    left, right, short = files(tmp_path, bytes(ours), bytes(theirs), bytes(ours[: size - 100]))
    assert differing_bytes(left, right, size) == 3
    assert differing_bytes(left, short, size) == 100
    assert difference((left, left), (right, short), (size, size)) == 103


def test_of_two_candidates_the_one_counts_that_the_disks_hold(tmp_path: Path) -> None:
    without, held, other = files(tmp_path, b"\0" * SECTOR, b"\1" * SECTOR, b"\2" * SECTOR)
    assert settle([(without,), (held,)], (held,), (SECTOR,)) == ((held,), True)
    assert settle([(without,)], (held,), (SECTOR,)) == ((without,), False)
    assert settle([(without,), (other,)], (held,), (SECTOR,))[1] is False
    assert settle([(held,)], (held, held), (SECTOR, SECTOR))[1] is False


def test_more_than_zeros_behind_a_disks_end_is_no_identity(tmp_path: Path) -> None:
    image, padded, dirty = files(tmp_path, b"\1" * SECTOR, b"\1" * SECTOR + bytes(SECTOR), b"\1" * SECTOR + b"\1" * SECTOR)
    assert settle([(image,)], (padded,), (SECTOR,))[1]
    assert not settle([(image,)], (dirty,), (SECTOR,))[1]


@pytest.mark.parametrize(
    ("stages", "leftovers", "passed"),
    [
        ((GOOD,), (), True),
        ((GOOD, Stage("failback", True, 0, 0, 1.0)), (), True),
        ((GOOD, Stage("failback", False, 0, 0, 1.0)), (), False),
        ((GOOD, Stage("failback", True, 8, 7, 1.0)), (), False),
        ((GOOD, Stage("failback", True, 6, 7, 1.0)), (), False),
        ((GOOD,), ("Azure still has a disk",), False),
    ],
)
def test_a_round_passes_if_it_lost_what_the_journal_says_and_left_nothing(
    stages: tuple[Stage, ...], leftovers: tuple[str, ...], passed: bool
) -> None:
    assert Round(stages, leftovers, 2.0).passed is passed


def test_the_result_is_one_object_and_one_table() -> None:
    result = Round((GOOD, Stage("failback", False, 1234, 0, 1.0)), (), 2.5)
    assert json.loads(json.dumps(result.document())) == {
        "stages": [
            {"name": "failover", "byte_identical": True, "lost_bytes": 7, "expected_lost_bytes": 7, "seconds": 1.0},
            {"name": "failback", "byte_identical": False, "lost_bytes": 1234, "expected_lost_bytes": 0, "seconds": 1.0},
        ],
        "leftovers": [],
        "seconds": 2.5,
    }
    out = StringIO()
    Console(file=out, width=80).print(result.table())
    shown = out.getvalue()
    for expected in ("failover", "1,234", "NO", "nothing", "left behind: nothing", "2.5 s"):
        assert expected in shown
