"""The key that wraps the data keys is gone, or another one, while cycles run: they wait for it, say so, and write nothing."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from console.live_progress import read_progress
from deltaferry.model.errors import CATALOGUE, ErrorKind
from deltaferry.model.units import MIB
from lab.configuration import KEY_FILE
from tests.e2e.accidents import assert_in_order, committed_beyond, overwrite, quiet
from tests.e2e.conftest import Lab
from tests.e2e.interventions import eventually, resumed
from tests.e2e.replicated import Replicated

pytestmark = pytest.mark.chaos


@contextmanager
def wrapping_key(lab: Lab, content: bytes | None) -> Iterator[None]:
    """Put another wrapping key in place of the lab's, or none."""
    path = Path(lab.world.environment[KEY_FILE])
    kept = path.rename(path.with_suffix(".kept"))
    try:
        if content is not None:
            path.touch(mode=0o600)
            path.write_bytes(content)
        yield
    finally:
        kept.replace(path)


async def lacks_its_key(vm: Replicated) -> bool:
    """Return whether a step says that it waits for its key."""
    progress = await read_progress(vm.client, vm.handle.id, await vm.status())
    return any(CATALOGUE[ErrorKind.KEY_UNAVAILABLE].cause in step.last_failure for step in progress.steps)


@pytest.mark.parametrize("content", [None, os.urandom(32)], ids=["gone", "another"])
async def test_a_cycle_waits_for_its_key_and_goes_on_by_itself(lab: Lab, vm: Replicated, content: bytes | None) -> None:
    await vm.enable_and_sync()
    known = await quiet(vm)
    seed = vm.seed_bytes(0)
    overwrite(vm, 0, 0, 4 * MIB)
    with wrapping_key(lab, content):
        await resumed(vm)
        await eventually(lambda: lacks_its_key(vm), "a step that says that it has no key")
        assert vm.seed_bytes(0) == seed
    assert (await committed_beyond(vm, known)).changed_bytes >= 4 * MIB
    await assert_in_order(vm)
