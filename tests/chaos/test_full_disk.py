"""A worker's own disk is full: it can write no file and no line of its log, and replicates all the same.

No file may grow any more (RLIMIT_FSIZE), which is what a full disk is to a process, without a mount that tests may not make.
"""

import os
import resource
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from temporalio.client import Client

from lab.processes import ManagedProcess
from tests.e2e.accidents import assert_in_order, committed_beyond, data_processes, known_cycles, overwrite, quiet
from tests.e2e.conftest import Lab
from tests.e2e.interventions import reached, resumed
from tests.e2e.replicated import Replicated

pytestmark = pytest.mark.chaos

_WRITTEN = 4 << 20


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


async def test_cycles_commit_while_no_worker_can_write_to_its_disk(lab: Lab, vm: Replicated) -> None:
    """Neither is a line lost silently once there is room again: the log goes on."""
    await vm.enable_and_sync()
    known = await quiet(vm)
    with full_disk(lab.workers):
        sizes = {worker.spec.name: worker.log_file.stat().st_size for worker in lab.workers}
        overwrite(vm, 0, 0, _WRITTEN)
        await resumed(vm)
        record = await committed_beyond(vm, known)
        assert record.changed_bytes >= _WRITTEN
        assert {worker.spec.name: worker.log_file.stat().st_size for worker in lab.workers} == sizes
        await assert_in_order(vm)
    known = await known_cycles(vm)
    overwrite(vm, 0, 0, _WRITTEN)
    await resumed(vm)
    await committed_beyond(vm, known)
    await reached(lambda: any(worker.log_file.stat().st_size > sizes[worker.spec.name] for worker in lab.workers), "a line")
    await assert_in_order(vm)
