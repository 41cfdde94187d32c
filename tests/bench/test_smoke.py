"""Every measure of `make bench` can be made; how fast it is here is not looked at."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.__main__ import GROUPS

ROOT = Path(__file__).parents[2]
EXPECTED = {
    "stages": {"stage1_ratio", "stage1_rate", "stage2_ratio", "stage2_rate", "bytes_sent_ratio", "memory_one_disk"},
    "nbdcopy": {"nbdcopy_ratio"},
    "deltas": {"delta_64k_requests", "delta_64k_ratio", "delta_4k_requests", "delta_4k_ratio"},
    "growth": {"growth_disks", "memory_eight_disks", "growth_size", "growth_memory"},
    "scrub": {"scrub_seed_per_core", "scrub_source_per_core"},
    "lab": {"initial_ratio", "empty_cycle_seconds", "empty_cycle_events"},
    "throttle": {"throttle_10_mbit", "throttle_100_mbit", "throttle_change", "throttle_effect", "throttle_pre_failover_share"},
    "arbiter": {
        *("site_leases", "site_workflow_tasks", "site_cpu_per_lease", "site_arbiter_delay", "site_cycle_events"),
        *("site_arbiter_events", "site_memory", "site_growth_time", "site_growth_memory"),
    },
    "failover": {"failover_own", "failover_growth"},
    "reprotect": {"reprotect_unchanged", "reprotect_1_percent", "reprotect_10_percent"},
}


_QUICK = ("stages", "nbdcopy")
"""What the test run tries; the others take longer, and share their parts with these."""


@pytest.mark.parametrize(
    "group", [group if group in _QUICK else pytest.param(group, marks=pytest.mark.chaos) for group in GROUPS]
)
def test_every_measure_yields_a_finite_number(group: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", group, "--quick", "--directory", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if f"{group}: not measured: apt install" in done.stdout:
        pytest.skip("nbdkit or nbdcopy is not installed")
    results = json.loads((tmp_path / "quick.json").read_text())
    assert set(results) == EXPECTED[group]
    for result in results.values():
        assert set(result) == {"value", "unit", "bar", "ok", "baseline"}
        assert math.isfinite(result["value"]) and math.isfinite(result["baseline"])
