"""A worker's own disk is full: it can write no file and no line of its log, and replicates all the same.

No file may grow any more (RLIMIT_FSIZE), which is what a full disk is to a process, without a mount that tests may not make.
"""

import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from deltaferry.model.units import MIB
from lab.processes import ManagedProcess
from tests.e2e.accidents import assert_in_order, committed_beyond, known_cycles, overwrite, quiet
from tests.e2e.conftest import Lab
from tests.e2e.interventions import reached, resumed
from tests.e2e.replicated import Replicated

pytestmark = pytest.mark.chaos


@contextmanager
def full_disk(workers: Sequence[ManagedProcess]) -> Iterator[None]:
    """Let no file of the workers' grow, nor one of what they start from now on."""
    before = {worker.pid: resource.prlimit(worker.pid, resource.RLIMIT_FSIZE) for worker in workers}
    for pid, (_, hard) in before.items():
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        for pid, limits in before.items():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)


async def cycle_behind_a_new_log_in(lab: Lab, vm: Replicated) -> None:
    """Let a paused replication commit a cycle, for which the source worker logs in to vCenter, of which it writes a line."""
    known = await known_cycles(vm)
    overwrite(vm, 0, 0, 4 * MIB)
    assert lab.world.vcenter_control.expire_sessions() >= 1
    await resumed(vm)
    assert (await committed_beyond(vm, known)).changed_bytes >= 4 * MIB
    await assert_in_order(vm)


async def test_cycles_commit_while_no_worker_can_write_to_its_disk(lab: Lab, vm: Replicated) -> None:
    """Once there is room again, the log goes on too."""
    await vm.enable_and_sync()
    await quiet(vm)
    log = lab.source.log_file
    with full_disk(lab.workers):
        before = log.stat().st_size
        await cycle_behind_a_new_log_in(lab, vm)
        assert log.stat().st_size == before
    await cycle_behind_a_new_log_in(lab, vm)
    await reached(lambda: b"logged in to" in log.read_bytes()[before:], "a line of the second log-in")
