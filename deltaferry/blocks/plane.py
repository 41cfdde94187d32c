"""`DataPlane`, carried out by one data process per job.

The process of Temporal's event loop must not do it: one busy Python thread beside a data thread costs 2 to 7 times
(facts 3.8), and a native crash would take the worker along.
"""

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import cast

from deltaferry.blocks.blob_http import HttpLimits
from deltaferry.blocks.checksum_map import GranuleRecorder, encode_updates
from deltaferry.blocks.checksums import Hasher
from deltaferry.blocks.jobs import Failure, FrameBuffer, Outcome, Settings, Task, encode_frame
from deltaferry.blocks.nbd import DEFAULT_TIMEOUT_S, NbdClient
from deltaferry.blocks.pacing import DEFAULT_BYTES_PER_S
from deltaferry.blocks.plan import planned_segments
from deltaferry.blocks.scrub import nothing_to_read, run_scrub
from deltaferry.blocks.sector_sets import SectorSet
from deltaferry.blocks.throttle import Budget
from deltaferry.blocks.write_back import run_write
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.units import GRANULE
from deltaferry.ports.access import NbdAddress
from deltaferry.ports.data_plane import AppliedDisk, ApplyJob, CheckJob, CompareJob, DataProgress, ScrubbedDisk, SendJob, SentDisk
from deltaferry.ports.reverse_plane import HashedDisk, HashJob, WriteJob, WrittenDisk

_POLL_S = 1.0
_SILENCE_S = 120.0
"""A data process reports every second; one that is silent for so long is stopped or stuck."""
_READ_BYTES = 1 << 20
_ARENAS = "2"
"""Of the C library's allocator, unless the operator sets MALLOC_ARENA_MAX."""


class ProcessDataPlane:
    """Runs each job in a process of its own. Safe to use from several threads; a job belongs to the thread that gives it."""

    def __init__(
        self,
        *,
        threads_per_disk: int = 8,
        threads: int = 16,
        page_blob_bytes_per_s: float = DEFAULT_BYTES_PER_S,
        nbd_timeout_s: float = DEFAULT_TIMEOUT_S,
        http: HttpLimits | None = None,
        budget: Budget | None = None,
    ) -> None:
        """Take what the data processes work by; what they send to the log store is limited by the `budget`, if there is one."""
        self._budget = budget
        self._settings = Settings(threads_per_disk, threads, page_blob_bytes_per_s, nbd_timeout_s, http or HttpLimits())

    def send(self, job: SendJob, progress: Callable[[DataProgress], None]) -> tuple[SentDisk, ...]:
        """Carry out stage 1. See `DataPlane.send`. Without any segment to look at, no process is started."""
        if all(disk.first_segment >= planned_segments(disk.plan) for disk in job.disks):
            return tuple(SentDisk(disk.disk_key, disk.first_segment, (), 0, 0, 0, 0) for disk in job.disks)
        with ExitStack() as seated:
            seat = seated.enter_context(self._budget.seat(urgent=job.urgent)) if self._budget is not None else None
            return cast("tuple[SentDisk, ...]", self._run(Task(job, self._settings, seat), progress).disks)

    def apply(self, job: ApplyJob, progress: Callable[[DataProgress], None]) -> tuple[AppliedDisk, ...]:
        """Carry out stage 2. See `DataPlane.apply`. Without any segment, no process is started."""
        if not any(disk.segments for disk in job.disks):
            nothing = encode_updates(GranuleRecorder(Hasher(job.data_key).zero_checksum(GRANULE)).build())
            return tuple(AppliedDisk(disk.disk_key, SectorSet().encode(), (), nothing, 0, 0, 0) for disk in job.disks)
        return cast("tuple[AppliedDisk, ...]", self._run(Task(job, self._settings), progress).disks)

    def compare(self, job: CompareJob, progress: Callable[[DataProgress], None]) -> tuple[ScrubbedDisk, ...]:
        """Compare snapshots with their checksum maps. See `DataPlane.compare`. Without anything to read, no process is started."""
        return self._scrub(job, progress)

    def check(self, job: CheckJob, progress: Callable[[DataProgress], None]) -> tuple[ScrubbedDisk, ...]:
        """Compare seed disks with their checksum maps. See `DataPlane.check`. Without anything to read, no process is started."""
        return self._scrub(job, progress)

    def hash_snapshots(self, job: HashJob, progress: Callable[[DataProgress], None]) -> tuple[HashedDisk, ...]:
        """Hash snapshots of managed disks. See `ReversePlane.hash_snapshots`."""
        return cast("tuple[HashedDisk, ...]", self._run(Task(job, self._settings), progress).disks)

    def write_disks(self, job: WriteJob, progress: Callable[[DataProgress], None]) -> tuple[WrittenDisk, ...]:
        """Write to disks at the site. See `ReversePlane.write_disks`. Without any segment, no process is started."""
        if not any(disk.segments for disk in job.disks):
            return run_write(job, self._settings, progress)
        return cast("tuple[WrittenDisk, ...]", self._run(Task(job, self._settings), progress).disks)

    def hold(self, source: NbdAddress) -> AbstractContextManager[object]:
        """Keep a connection open. See `DataPlane.hold`. Nothing is moved through it, so that it needs no process."""
        return NbdClient(source, timeout_s=self._settings.nbd_timeout_s)

    def _scrub(self, job: CompareJob | CheckJob, progress: Callable[[DataProgress], None]) -> tuple[ScrubbedDisk, ...]:
        if nothing_to_read(job):
            return run_scrub(job, self._settings, progress)
        return cast("tuple[ScrubbedDisk, ...]", self._run(Task(job, self._settings), progress).disks)

    def _run(self, task: Task, progress: Callable[[DataProgress], None]) -> Outcome:
        process = subprocess.Popen(
            [sys.executable, "-m", "deltaferry.blocks.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_environment(),
            pass_fds=() if task.seat is None else (task.seat.descriptor,),
        )
        try:
            return _follow(process, encode_frame(task), progress)
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(BrokenPipeError):
                        pipe.close()


def _environment() -> dict[str, str]:
    """Return our environment, with the place that this package was imported from on the module path.

    glibc gives every thread a heap of its own, up to 8 for each processor, and each of them keeps room for the largest frames that
    were compressed there: two serve as fast, and take 25 MiB less.
    """
    root = str(Path(__file__).resolve().parents[2])
    path = os.environ.get("PYTHONPATH")
    paths = f"{root}{os.pathsep}{path}" if path else root
    return {"MALLOC_ARENA_MAX": _ARENAS, **os.environ, "PYTHONPATH": paths}


def _follow(process: "subprocess.Popen[bytes]", task: bytes, progress: Callable[[DataProgress], None]) -> Outcome:
    """Hand a process its task and pass its progress on until it ends. Raises its error, or INTERRUPTED if it died."""
    if process.stdin is None or process.stdout is None:
        raise DeltaferryError(ErrorKind.INTERNAL, "the data process was started without pipes")
    with suppress(BrokenPipeError):
        process.stdin.write(task)
        process.stdin.flush()
    output = process.stdout.fileno()
    poller = select.poll()
    poller.register(output, select.POLLIN)
    frames = FrameBuffer()
    last = DataProgress(0, 0, 0, ())
    heard_s = told_s = time.monotonic()
    while True:
        ready = poller.poll(_POLL_S * 1000)
        now = time.monotonic()
        if ready:
            data = os.read(output, _READ_BYTES)
            if not data:
                raise DeltaferryError(ErrorKind.INTERRUPTED, f"the data process ended early ({_how(process)})")
            heard_s = now
            for frame in frames.feed(data):
                if isinstance(frame, Outcome):
                    progress(last)
                    return frame
                if isinstance(frame, Failure):
                    raise frame.error()
                if isinstance(frame, DataProgress):
                    last = frame
        elif now - heard_s > _SILENCE_S:
            raise DeltaferryError(ErrorKind.INTERRUPTED, f"the data process was silent for {_SILENCE_S:.0f} s")
        if now - told_s >= _POLL_S or not ready:
            told_s = now
            progress(last)


def _how(process: "subprocess.Popen[bytes]") -> str:
    code = process.wait()
    return f"signal {-code}" if code < 0 else f"exit code {code}"
