"""`deltaferry demo --scenario dr` as a person runs it: a process of its own with a lab of its own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.chaos

_ROOT = Path(__file__).parents[2]
_STAGES = (
    *("replicate", "test failover", "clean-up", "unplanned failover", "change recovery point", "commit", "writes in Azure"),
    *("reprotect", "failback", "replicate again", "planned failover"),
)
_WITHIN_S = 1500.0
_STOPS_WITHIN_S = 120.0


@pytest.fixture(autouse=True)
def whole_lab() -> None:
    """Start none: the demo has its own."""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "demo"
    assert _processes_of(tmp_path / "demo") == []


def _command(folder: Path) -> list[str]:
    return [sys.executable, "-m", "console.main", "demo", "--scenario", "dr", "--json", "--directory", str(folder)]


def _processes_of(folder: Path) -> list[str]:
    """Return the commands of running processes that name a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
        if str(folder).encode() in command:
            found.append(command.replace(b"\0", b" ").decode())
    return found


def test_the_whole_round_loses_what_the_journal_says_and_leaves_nothing(folder: Path) -> None:
    done = subprocess.run(_command(folder), cwd=_ROOT, capture_output=True, text=True, timeout=_WITHIN_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert set(result) == {"stages", "leftovers", "seconds"}
    assert result["leftovers"] == []
    stages = {stage["name"]: stage for stage in result["stages"]}
    assert tuple(stages) == _STAGES
    for stage in stages.values():
        assert set(stage) == {"name", "byte_identical", "lost_bytes", "expected_lost_bytes", "seconds"}
        assert stage["byte_identical"] is True, stage
        assert stage["lost_bytes"] == stage["expected_lost_bytes"], stage
    lost = {name: stage["lost_bytes"] for name, stage in stages.items()}
    assert lost["unplanned failover"] > lost["change recovery point"] == lost["commit"] > 0
    assert all(size == 0 for name, size in lost.items() if name not in ("unplanned failover", "change recovery point", "commit"))
    assert not folder.exists()


def test_ctrl_c_in_the_middle_leaves_nothing_running(folder: Path) -> None:
    with subprocess.Popen(_command(folder), cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        assert demo.stderr is not None
        for line in demo.stderr:
            if "✓ initial replication" in line:
                break
        assert len(_processes_of(folder)) > 3
        os.kill(demo.pid, signal.SIGINT)
        rest = demo.stderr.read()
        assert demo.wait(_STOPS_WITHIN_S) == 130, rest
        assert "Stopped." in rest
        assert "Traceback" not in rest
