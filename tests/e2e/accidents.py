"""What happens to processes in the middle of a step: where it was caught, who dies or sleeps, and what was sent before and after."""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from temporalio.service import RPCError

from deltaferry.blocks.killpoints import VARIABLE, KillPoint
from deltaferry.model.errors import ErrorKind
from deltaferry.model.naming import log_container, seed_container
from deltaferry.model.states import ReplicationState
from deltaferry.model.units import MIB
from lab.configuration import ACCOUNTS
from lab.control_client import BlobAction, BlobFault, BlobRequest
from lab.processes import ManagedProcess
from lab.world import World
from tests.e2e.conftest import Lab
from tests.e2e.interventions import reached, resumed
from tests.e2e.replicated import Replicated, Unreached
from workflows.messages.replication_state import CycleRecord
from workflows.messages.views import StatusView

SLOW_S = 240.0
"""A killed worker's step is tried again after its heartbeat limit of 30 s; a sleeping one's outstanding polls may swallow it twice."""
MANY = 1000
_POLL_S = 0.1

_PUT_OFF_S = 20
"""Longer than a test takes to stop a worker, shorter than a data process goes on trying (`HttpLimits.retry_for_s`)."""
_WRITE = 512 * 1024 - 4096
"""The most that the control port lets a guest write at once, rounded down to whole sectors."""
_DATA_PROCESS = b"deltaferry.blocks.process"
_BY_SIGKILL = f"signal {signal.SIGKILL}"
_PAGES = frozenset({"PutPage", "ClearPages"})


# --- catching a step in the middle ---


def hold_after(world: World, store: str, operation: str, let_through: int, *, path: str = "", count: int = MANY) -> None:
    """Let `count` requests of an operation wait, after so many that pass, until the faults are cleared."""
    fault = BlobFault(
        BlobAction.HOLD, operation=operation, account=ACCOUNTS[store], path_contains=path, skip=let_through, count=count
    )
    world.blob_control.order(fault)


async def put_off(world: World, traffic: "Traffic", let_through: int) -> None:
    """Let so many segments be stored, and tell the senders of all others to come again; return while they sleep.

    A sender that is stopped now sends, when it wakes, a segment that it has in memory: nothing of the source is needed for it.
    """
    fault = BlobFault(
        BlobAction.UNAVAILABLE,
        operation="PutBlob",
        account=ACCOUNTS["log"],
        skip=let_through,
        count=MANY,
        retry_after_s=_PUT_OFF_S,
    )
    world.blob_control.order(fault)
    await resumed(traffic.vm)
    await reached(
        lambda: len(traffic.stored()) == let_through and traffic.put_off_segments() > 0, "a segment that is put off", SLOW_S
    )


async def held(world: World, count: int = 1) -> None:
    """Wait until so many requests are being held."""
    await reached(lambda: world.blob_control.held() >= count, f"{count} held requests", SLOW_S)


def data_processes(worker: ManagedProcess) -> list[int]:
    """Return the ids of a worker's data processes."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            if _DATA_PROCESS in (entry / "cmdline").read_bytes() and os.getpgid(int(entry.name)) == worker.pid:
                found.append(int(entry.name))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
    return found


def kill_data_process(worker: ManagedProcess) -> None:
    """Send SIGKILL to the one data process that a worker runs, and to nothing else."""
    [process] = data_processes(worker)
    os.kill(process, signal.SIGKILL)


def wake_data_process(worker: ManagedProcess) -> None:
    """Let the one data process of a frozen worker go on, and not the worker: what it does then, nobody cuts short."""
    [process] = data_processes(worker)
    os.kill(process, signal.SIGCONT)


# --- the guest, and cycles of a known content ---


def overwrite(vm: Replicated, disk: int, offset: int, length: int) -> None:
    """Have the guest write random bytes, which do not compress, over a range."""
    for start in range(offset, offset + length, _WRITE):
        vm.write(disk, start, vm.random.randbytes(min(_WRITE, offset + length - start)))


def dot(vm: Replicated, disk: int, count: int) -> None:
    """Have the guest write one sector in every other 64 KiB from the disk's start: as many areas, each a Put Page of its own.

    64 of them fill a segment, which compresses to some 40 KiB.
    """
    for index in range(count):
        vm.write(disk, index * MIB // 8, vm.random.randbytes(512))


async def synchronised(vm: Replicated, limit_s: float = SLOW_S) -> StatusView:
    """Wait for the end of the initial replication."""
    return await vm.until(
        lambda status: status.replication_state == ReplicationState.DELTA_SYNC.value,
        "the end of the initial replication",
        limit_s,
    )


async def known_cycles(vm: Replicated) -> frozenset[str]:
    """Return the keys of the cycles that have ended."""
    return frozenset(record.cycle_key for record in await vm.cycles())


async def committed_beyond(vm: Replicated, known: frozenset[str], limit_s: float = SLOW_S) -> CycleRecord:
    """Wait for the end of the next cycle that commits beside the known ones, and return its record."""
    deadline = time.monotonic() + limit_s
    last: object = None
    while time.monotonic() < deadline:
        try:
            cycles: tuple[CycleRecord, ...] = await asyncio.wait_for(vm.cycles(), 10)
        except (RPCError, TimeoutError) as error:
            last = error
        else:
            new = [record for record in cycles if record.committed and record.cycle_key not in known]
            if new:
                return new[0]
            last = cycles
        await asyncio.sleep(_POLL_S)
    raise Unreached(f"no further cycle committed within {limit_s:.0f} s; last seen: {last}")


async def quiet(vm: Replicated) -> frozenset[str]:
    """Pause; return the keys of the cycles so far. What is written from now on is in one cycle as a whole."""
    await vm.handle.execute_update("pause")
    await vm.until(lambda status: status.replication_state == ReplicationState.PAUSED.value, "Paused", SLOW_S)
    return await known_cycles(vm)


async def assert_in_order(vm: Replicated) -> None:
    """Assert that nothing of a cycle stayed behind and that the seeds are the source's image; leaves replication paused."""
    await quiet(vm)
    state = vm.world.vcenter_control.vm(vm.name)
    assert state.snapshots == ()
    assert not state.consolidation_needed
    assert vm.log_objects() == []
    assert (await vm.status()).health == ()
    vm.assert_seeds_equal_source()


# --- what was sent ---


@dataclass(frozen=True, slots=True)
class Traffic:
    """The requests of one replication's stores since a moment."""

    vm: Replicated
    since: int

    @classmethod
    def from_now(cls, vm: Replicated) -> "Traffic":
        """Begin to listen."""
        requests = vm.world.blob_control.requests()
        return cls(vm, requests[-1].number if requests else 0)

    def _requests(self) -> list[BlobRequest]:
        return list(self.vm.world.blob_control.requests(self.since))

    def stored(self) -> set[str]:
        """Return the names of the segments that were stored."""
        return {request.blob for request in self._segments() if request.status == 201}

    async def first_stored(self) -> set[str]:
        """Wait until something is stored, and return the names of what is."""
        await reached(lambda: len(self.stored()) > 0, "a stored segment", SLOW_S)
        return self.stored()

    def sendings(self) -> Counter[str]:
        """Return how often each segment was sent, with whatever success."""
        return Counter(request.blob for request in self._segments())

    def refused_segments(self) -> int:
        """Return how many segments were refused since one of that name is stored."""
        return sum(request.status == 409 for request in self._segments())

    def put_off_segments(self) -> int:
        """Return how many segments were refused for the moment."""
        return sum(request.status == 503 for request in self._segments())

    def refused_pages(self) -> int:
        """Return how many writes to seed disks were refused by the number that they carry."""
        container = seed_container(self.vm.reference)
        return sum(r.operation in _PAGES and r.container == container and r.status == 412 for r in self._requests())

    def _segments(self) -> list[BlobRequest]:
        container = log_container(self.vm.reference)
        return [r for r in self._requests() if r.operation == "PutBlob" and r.container == container]


# --- who sleeps, and who takes over ---


@asynccontextmanager
async def asleep(worker: ManagedProcess, world: World, role: str) -> AsyncIterator[None]:
    """Freeze a worker with its data processes, and start a successor; inside the block the test wakes the sleeper."""
    worker.freeze()
    world.blob_control.clear_faults()
    successor: ManagedProcess | None = None
    try:
        successor = await asyncio.to_thread(world.worker, role, f"worker-{role}-successor")
        yield
    finally:
        worker.thaw()
        if successor is not None:
            await asyncio.to_thread(successor.stop)


# --- kill points ---

ROLES = {
    KillPoint.AFTER_READ: ("source",),
    KillPoint.AFTER_PUT: ("source",),
    KillPoint.MID_PUT_PAGE: ("target",),
    KillPoint.BEFORE_OUTCOME: ("source", "target"),
}
"""Whose data processes pass a point."""


async def cycle_with_kill(lab: Lab, vm: Replicated, role: str, point: KillPoint, passing: int) -> CycleRecord:
    """Run the next cycle of a paused replication with a worker whose data process dies at a point; return its record.

    As after a crash, another worker takes over, whose data processes live.
    """
    known = await known_cycles(vm)
    regular = lab.source if role == "source" else lab.target
    doomed = await asyncio.to_thread(lab.world.worker, role, f"worker-{role}-{point}-{passing}", {VARIABLE: f"{point}:{passing}"})
    try:
        await asyncio.to_thread(regular.stop)
        await resumed(vm)
        await _died(vm)
    finally:
        await asyncio.to_thread(doomed.stop)
        await asyncio.to_thread(regular.start)
    return await committed_beyond(vm, known)


async def _died(vm: Replicated) -> None:
    """Wait until a step of the replication has failed because its data process was killed."""
    deadline = time.monotonic() + SLOW_S
    while time.monotonic() < deadline:
        description = await vm.handle.describe()
        for pending in description.raw_description.pending_activities:
            failure = pending.last_failure
            if failure.application_failure_info.type == ErrorKind.INTERRUPTED.value and _BY_SIGKILL in failure.message:
                return
        await asyncio.sleep(_POLL_S)
    raise Unreached("no data process died at the kill point")
