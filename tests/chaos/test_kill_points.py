"""A data process dies at every passing of every kill point of a cycle: the cycle commits, and sends nothing that is stored again."""

from collections.abc import AsyncIterator

import pytest
from temporalio.client import Client

from deltaferry.blocks.killpoints import KillPoint
from deltaferry.model.units import MIB, SECTOR
from tests.e2e.accidents import ROLES, Traffic, assert_in_order, cycle_with_kill, overwrite, quiet
from tests.e2e.conftest import Lab
from tests.e2e.replicated import Replicated

pytestmark = pytest.mark.chaos

_BOOT, _DATA = 0, 1
_PER_DISK = 2
_SEGMENTS = 2 * _PER_DISK
"""Of the cycle: 4 MiB each, one Put Page each, all in one chunk, so that every point but the last is passed so often."""

_CASES = [
    (role, point, passing)
    for point, roles in ROLES.items()
    for role in roles
    for passing in range(1, 2 if point is KillPoint.BEFORE_OUTCOME else _SEGMENTS + 1)
]


@pytest.fixture
async def vm(lab: Lab, client: Client, request: pytest.FixtureRequest) -> AsyncIterator[Replicated]:
    """A VM that is quick to copy."""
    replicated = Replicated.create(lab.world, client, request.node.name, (_PER_DISK * 4 * MIB + 37 * SECTOR, _PER_DISK * 4 * MIB))
    yield replicated
    await replicated.discard()


@pytest.mark.parametrize(("role", "point", "passing"), _CASES)
async def test_a_cycle_survives_a_death_at_any_passing(
    lab: Lab, vm: Replicated, role: str, point: KillPoint, passing: int
) -> None:
    await vm.enable_and_sync()
    await quiet(vm)
    for disk in (_BOOT, _DATA):
        overwrite(vm, disk, 0, _PER_DISK * 4 * MIB)
    traffic = Traffic.from_now(vm)
    record = await cycle_with_kill(lab, vm, role, point, passing)
    assert record.segments_sent + record.segments_found == _SEGMENTS
    if point is KillPoint.AFTER_PUT:
        assert record.segments_found >= passing
    if role == "source" and point is KillPoint.BEFORE_OUTCOME:
        assert record.segments_found == _SEGMENTS
    if role == "target":
        assert set(traffic.sendings().values()) == {1}
    await assert_in_order(vm)
