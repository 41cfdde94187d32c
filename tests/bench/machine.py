"""What a run cost: wall time, CPU time of the processes that did it, and their largest resident set."""

import os
import pickle
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from tests.bench.bare_job import BareJob, BareResult

T = TypeVar("T")
_LOOK_EVERY_S = 0.05
_PROC = Path("/proc")
_UTIME, _STIME = 11, 12
"""Among the fields of `/proc/<pid>/stat` behind the command's name (proc_pid_stat(5))."""


@dataclass(frozen=True, slots=True)
class Cost(Generic[T]):
    """A measured run and what it returned."""

    result: T
    seconds: float
    cpu_s: float
    """CPU seconds of the processes that the run started and that ended with it."""
    peak_rss_bytes: int
    """The largest resident set of any of them, as the kernel counted it (VmHWM)."""


class _PeakWatch:
    """Looks at this process's new children until it is stopped."""

    def __init__(self) -> None:
        self._known = children()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.peak_bytes = 0

    def __enter__(self) -> "_PeakWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(_LOOK_EVERY_S):
            for pid in children() - self._known:
                self.peak_bytes = max(self.peak_bytes, high_water_bytes(pid))


def children() -> set[int]:
    """Return the ids of this process's children."""
    found: set[int] = set()
    for task in (_PROC / "self" / "task").iterdir():
        try:
            found.update(map(int, (task / "children").read_text().split()))
        except OSError:
            continue  # the thread has just ended
    return found


def high_water_bytes(pid: int) -> int:
    """Return a process's largest resident set so far; 0 if it is gone."""
    try:
        status = (_PROC / str(pid) / "status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")), 0)


def resident_bytes(pid: int) -> int:
    """Return a running process's resident set of now."""
    pages = int((_PROC / str(pid) / "statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def cpu_s(pid: int) -> float:
    """Return the CPU time that a running process has spent so far."""
    fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[_UTIME]) + int(fields[_STIME])) / os.sysconf("SC_CLK_TCK")


def measured(action: Callable[[], T]) -> Cost[T]:
    """Carry out an action and return what it cost."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with _PeakWatch() as watch:
        began = time.perf_counter()
        result = action()
        seconds = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(result, seconds, cpu_s, watch.peak_bytes)


async def measured_async(action: Callable[[], Awaitable[T]]) -> Cost[T]:
    """Await an action and return how long it took; what other processes spent on it is not counted."""
    began = time.perf_counter()
    result = await action()
    return Cost(result, time.perf_counter() - began, 0.0, 0)


def run_bare(job: BareJob) -> BareResult:
    """Do a bare job in a process of its own, as the product does its jobs. Raises CalledProcessError if it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.bare"], input=pickle.dumps(job), stdout=subprocess.PIPE, check=True, cwd=_root()
    )
    result = pickle.loads(done.stdout)
    assert isinstance(result, BareResult)
    return result


def _root() -> Path:
    return Path(__file__).resolve().parents[2]


def description() -> str:
    """Say in a line what machine this is."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        "unknown CPU",
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    version = ".".join(map(str, sys.version_info[:3]))
    return (
        f"{os.cpu_count()} x {model}, {memory:.0f} GiB, {os.uname().sysname} {os.uname().release.split('-')[0]}, Python {version}"
    )
