"""The reliability tests that a replication product should have, by number, and where this suite has them.

| # | what is tested | where |
|---|---|---|
| 1 | model-based state machine against disks in memory | `test_model`; short: `tests/e2e/test_random_histories`; operations in random order: `tests/workflows/test_random_operations` |
| 2 | kill -9 and SIGSTOP at every numbered point | `test_kill_points`, `test_stop_points`; one of each kill in `tests/e2e/test_killed_processes` |
| 3 | Temporal server restarted, cut off, its database lost | `test_crashes`, `test_faults_between`, `tests/e2e/test_killed_processes`, `tests/e2e/test_lost_server_state` |
| 4 | zombie worker that wakes after its successor | `test_stop_points`, `tests/e2e/test_killed_processes` |
| 5 | late and doubled requests, released after newer cycles | `test_faults_between` |
| 6 | reply lost after the effect | `test_faults_between` |
| 7 | lines cut for a second, half a minute, flapping: source, stores, vCenter, Temporal, all | `test_faults_between` |
| 8 | throttling and time-outs at 5, 30, 80 % | `test_faults_between` |
| 9 | flipped bits: every byte of a small segment, random ones in large, on the way | `tests/unit/blocks/test_fuzz_decoders`, `test_faults_between`, `tests/e2e/test_damaged_segments` |
| 10 | truncated, missing, exchanged, replayed segments | `tests/e2e/test_damaged_segments`, `tests/unit/blocks/test_data_plane`, `test_faults_between` |
| 11 | wrong key; expired signature | `tests/e2e/test_damaged_segments`, `tests/unit/blocks/test_blob_http`; a wrapping key that is gone or another: `test_wrapping_key`; one that is rotated in Key Vault: `tests/unit/azure/test_keys` |
| 12 | unreadable source, full stores | `tests/unit/blocks/test_data_plane`, `tests/unit/blocks/test_blob_http`; a worker's own disk: `test_full_disk` |
| 13 | clock jumps | the time-skipping month in `tests/workflows/test_schedule`; a jump of one worker's clock needs libfaketime, which is not a package of ours |
| 14 | change tracking that lies | `tests/e2e/test_disks_and_tracking` (errors, resets); omissions are the sampling comparison's and the scrub's |
| 15 | sectors dropped, doubled, shifted by stage 2 | `test_both_checks` |
| 16 | one guard removed at a time | `test_mutants` |
| 17 | scrub finds and locates a byte flipped behind our back | the scrub's own tests |
| 18 | a point is one moment, also when killed in mid-apply | `test_model`'s invariant, `test_kill_points`, `test_crashes` |
| 19 | soak | `test_soak`, two minutes by default: `--soak-minutes 120` for two hours |
| 20 | lag under load | churn under faults in `test_soak`; a bar on the lag needs a machine of its own and a real network |
| 21 | versions: formats refused, histories replayed | `tests/unit/blocks/test_records`, `tests/replay`; an old worker beside a new one needs a second release |

All of it prints `--seed N`, which repeats it.
"""

import re
import shutil
from pathlib import Path

import pytest

from tests.chaos.mutants import MUTANTS, Mutant, apply

_TESTS = Path(__file__).resolve().parents[1]
_NUMBERS = 21


@pytest.fixture(autouse=True)
def whole_lab() -> None:
    """A look at files needs no lab."""


def rows() -> dict[int, str]:
    found = re.findall(r"^\| (\d+) \| (.*) \|$", __doc__ or "", flags=re.MULTILINE)
    return {int(number): rest for number, rest in found}


def test_every_number_has_its_row() -> None:
    assert sorted(rows()) == list(range(1, _NUMBERS + 1))


@pytest.mark.parametrize("number", range(1, _NUMBERS + 1))
def test_what_a_row_names_exists(number: int) -> None:
    names = [name for name in re.findall(r"`([a-z0-9_/]+)`", rows()[number])]
    for name in names:
        place = _TESTS.parent / name if name.startswith("tests/") else _TESTS / "chaos" / name
        assert place.with_suffix(".py").is_file() or place.is_dir(), name
    assert names or "scrub" in rows()[number]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutants_guard_stands_where_it_is_looked_for(mutant: Mutant, tmp_path: Path) -> None:
    """Whoever moves a guard learns it at once, and not when all mutants are run."""
    for file in {edit.file for edit in mutant.edits}:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(_TESTS.parent / file, tmp_path / file)
    apply(mutant, tmp_path)
