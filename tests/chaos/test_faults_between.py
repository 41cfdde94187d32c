"""Faults between the workers and all that they speak with: replies lost, requests doubled or late, refusals, cut lines, damage.

The proxy's choices follow the seed. The oracle is the reference disk, byte by byte.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from temporalio.client import Client

from deltaferry.model.naming import log_container, seed_container
from deltaferry.model.states import MigrationState, ReplicationState
from deltaferry.model.units import MIB, SECTOR
from lab.chaos_proxy_control import ARM, BLOBS, NBD, TEMPORAL, VCENTER
from lab.chaos_proxy_faults import ProxyAction, ProxyFault
from tests.chaos.proxied import MANY, PUT_PAGE, disturb, proxied_lab
from tests.e2e.accidents import SLOW_S, assert_in_order, committed_beyond, dot, known_cycles, overwrite, quiet
from tests.e2e.conftest import Lab
from tests.e2e.interventions import reached, resumed
from tests.e2e.replicated import Replicated
from workflows.messages.views import StatusView

_BOOT, _DATA = 0, 1


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, chaos_seed: int) -> Iterator[Lab]:
    with proxied_lab(tmp_path_factory.mktemp("proxied"), chaos_seed) as running:
        yield running


@pytest.fixture(autouse=True)
def calm(lab: Lab) -> Iterator[None]:
    """Leave no fault to the next test."""
    yield
    lab.world.chaos_control.clear()


@pytest.fixture
async def vm(lab: Lab, client: Client, request: pytest.FixtureRequest) -> AsyncIterator[Replicated]:
    """A VM that is quick to copy."""
    replicated = Replicated.create(lab.world, client, request.node.name, (8 * MIB + 37 * SECTOR, 4 * MIB))
    yield replicated
    lab.world.chaos_control.clear()
    await replicated.discard()


async def commits_again(lab: Lab, vm: Replicated) -> None:
    """Calm everything; a further cycle commits what the guest writes now, and all is in order.

    A replication that was paused makes its next cycle at once: after a slow one it would wait for half as long again.
    """
    lab.world.chaos_control.clear()
    paused = (await vm.status()).replication_state == ReplicationState.PAUSED.value
    known = await (known_cycles(vm) if paused else quiet(vm))
    vm.scribble(5)
    await resumed(vm)
    await committed_beyond(vm, known)
    await assert_in_order(vm)


def why(status: StatusView) -> str:
    """Return what a status says of a failure, whole: a long repr is cut in the middle."""
    return f"{status.migration.error if status.migration else None} {status.health}"


@pytest.mark.chaos
async def test_lost_replies_doubled_requests_and_refusals_cost_time_only(lab: Lab, vm: Replicated) -> None:
    """All three together, at a few of the requests to the stores."""
    disturb(lab, ProxyAction.DROP, BLOBS, 0.04)
    disturb(lab, ProxyAction.DUPLICATE, BLOBS, 0.1, method="PUT")
    disturb(lab, ProxyAction.UNAVAILABLE, BLOBS, 0.04)
    await vm.enable_and_sync()
    assert sum(lab.world.chaos_control.met(action, BLOBS) for action in ("drop", "duplicate", "unavailable")) > 0
    await commits_again(lab, vm)


@pytest.mark.chaos
async def test_late_writes_released_after_newer_cycles_change_nothing(lab: Lab, vm: Replicated) -> None:
    """Requests that were sent, never answered, sent again, and arrive after a newer cycle wrote the same range."""
    await vm.enable_and_sync()
    known = await quiet(vm)
    for disk in (_BOOT, _DATA):
        overwrite(vm, disk, 0, 4 * MIB)
    chaos = lab.world.chaos_control
    before = len(chaos.report().late)
    seed, log = seed_container(vm.reference), log_container(vm.reference)
    chaos.order(ProxyFault(ProxyAction.LATE, route=BLOBS, method="PUT", path_contains=seed, head_contains=PUT_PAGE, count=2))
    chaos.order(ProxyFault(ProxyAction.LATE, route=BLOBS, method="PUT", path_contains=log, count=2))
    await resumed(vm)
    await committed_beyond(vm, known)
    later = await quiet(vm)
    for disk in (_BOOT, _DATA):
        overwrite(vm, disk, 0, 4 * MIB)
    await resumed(vm)
    await committed_beyond(vm, later)
    await quiet(vm)
    seeds = vm.seed_bytes(_BOOT), vm.seed_bytes(_DATA)
    assert chaos.report().held == 4
    chaos.release()
    await reached(lambda: len(chaos.report().late) == before + 4, "the answers to the late requests")
    assert chaos.report().late[before:].count(412) == 2
    assert (vm.seed_bytes(_BOOT), vm.seed_bytes(_DATA)) == seeds
    await commits_again(lab, vm)


@pytest.mark.chaos
@pytest.mark.parametrize("route", [BLOBS, VCENTER, ARM, ""], ids=["stores", "vcenter", "arm", "everything"])
async def test_lost_replies_of_any_server_cost_time_only(lab: Lab, vm: Replicated, route: str) -> None:
    """From the initial replication to the migrated VM: the reply is lost after the effect, at a tenth of the requests."""
    disturb(lab, ProxyAction.DROP, route, 0.1)
    await vm.enable_and_sync()
    vm.scribble()
    migrated = await vm.migrate()
    assert migrated.migration_state == MigrationState.MIGRATED.value, why(migrated)
    lab.world.chaos_control.clear()
    vm.assert_target_identical(migrated)
    await vm.complete()
    vm.assert_nothing_left()


@pytest.mark.chaos
@pytest.mark.parametrize("share", [0.05, 0.3, 0.8])
@pytest.mark.parametrize("action", [ProxyAction.UNAVAILABLE, ProxyAction.TIMED_OUT])
async def test_a_store_that_refuses_a_share_of_all_requests_gets_no_storm(
    lab: Lab, vm: Replicated, action: ProxyAction, share: float
) -> None:
    """What is refused is sent again, once for each refusal: the requests are those that the share makes necessary."""
    await vm.enable_and_sync()
    known = await quiet(vm)
    dot(vm, _BOOT, 64)
    dot(vm, _DATA, 32)
    chaos = lab.world.chaos_control
    passed, refused = chaos.met("passed", BLOBS), chaos.met(action.value, BLOBS)
    disturb(lab, action, BLOBS, share)
    await resumed(vm)
    await committed_beyond(vm, known, SLOW_S / (1 - share))  # each refusal is waited out before it is sent again
    passed, refused = chaos.met("passed", BLOBS) - passed, chaos.met(action.value, BLOBS) - refused
    assert passed > 100
    assert refused > 0
    assert (passed + refused) / passed <= 1.5 / (1 - share)
    await commits_again(lab, vm)


@pytest.mark.chaos
@pytest.mark.parametrize("cuts", [(1.0,), (0.3,) * 5, (30.0,)], ids=["1 s", "flapping", "30 s"])
@pytest.mark.parametrize("route", [NBD, BLOBS, VCENTER, TEMPORAL, ""], ids=["source", "stores", "vcenter", "temporal", "all"])
async def test_a_line_that_is_cut_in_a_cycle_heals_by_itself(
    lab: Lab, vm: Replicated, route: str, cuts: tuple[float, ...]
) -> None:
    """Cut when a segment is on its way; how long it is cut is the fault, and not a wait for something."""
    await vm.enable_and_sync()
    known = await quiet(vm)
    for disk in (_BOOT, _DATA):
        overwrite(vm, disk, 0, 4 * MIB)
    chaos = lab.world.chaos_control
    chaos.order(ProxyFault(ProxyAction.HOLD, route=BLOBS, method="PUT", path_contains=log_container(vm.reference), skip=1))
    await resumed(vm)
    await reached(lambda: chaos.report().held == 1, "a segment on its way", SLOW_S)
    for cut_s in cuts:
        chaos.take_down(route)
        chaos.release()
        await asyncio.sleep(cut_s)
        chaos.bring_up()
        await asyncio.sleep(cut_s)
    await committed_beyond(vm, known)
    await commits_again(lab, vm)


@pytest.mark.chaos
@pytest.mark.parametrize("action", [ProxyAction.FLIP, ProxyAction.TRUNCATE, ProxyAction.CUT])
async def test_a_segment_that_is_damaged_on_its_way_is_not_applied(lab: Lab, vm: Replicated, action: ProxyAction) -> None:
    """The target reads something else than what is stored: the cycle fails or reads again, and the seed stays right."""
    await vm.enable_and_sync()
    known = await quiet(vm)
    for disk in (_BOOT, _DATA):
        overwrite(vm, disk, 0, 4 * MIB)
    fault = ProxyFault(action, route=BLOBS, method="GET", path_contains=f"{log_container(vm.reference)}/cycles", after_bytes=5000)
    lab.world.chaos_control.order(fault)
    await resumed(vm)
    await reached(lambda: lab.world.chaos_control.report().ordered == 0, "the damage", SLOW_S)
    await committed_beyond(vm, known)
    await commits_again(lab, vm)


@pytest.mark.chaos
async def test_a_slow_line_costs_time_only(lab: Lab, vm: Replicated) -> None:
    """Every request waits; every piece that the source sends, too."""
    chaos = lab.world.chaos_control
    chaos.order(ProxyFault(ProxyAction.DELAY, route=NBD, delay_s=0.02, count=MANY))
    chaos.order(ProxyFault(ProxyAction.DELAY, route=BLOBS, delay_s=0.05, count=MANY))
    chaos.order(ProxyFault(ProxyAction.DELAY, route=VCENTER, delay_s=0.05, count=MANY))
    await vm.enable_and_sync()
    await commits_again(lab, vm)
