"""A VM comes home to another place of its site, on real bytes: a new VM is made, written, started, and replicated from then on."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from temporalio.client import Client, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError

from deltaferry.model.naming import CLAIM_KEY, FAILBACK_KEY, MADE_KEY
from deltaferry.model.units import MIB, SECTOR
from deltaferry.planning.dr_states import DrState
from lab.oracle import target_disks
from lab.settings import DATASTORES, ESXI_HOSTS, NETWORKS, SITE
from lab.vcenter.control_views import VmState
from lab.vcenter.inventory_file import ControllerSpec, DiskSpec, NicSpec, VmSpec
from tests.e2e.accidents import SLOW_S
from tests.e2e.conftest import Lab
from tests.e2e.replicated import Replicated, image_of
from workflows import names
from workflows.messages.views import StatusView

_CAPACITIES = (3 * MIB + 5 * SECTOR, 2 * MIB)
_CONTROLLERS = (ControllerSpec("VirtualLsiLogicSASController", 0), ControllerSpec("VirtualAHCIController", 0))
_DISK_KEYS = (2000, 16003)
_THERE = {"datastore": DATASTORES[1].name, "host": ESXI_HOSTS[1].name, "networks": {NETWORKS[0]: NETWORKS[1]}}


def _vm_of(lab: Lab, client: Client, name: str) -> Replicated:
    """Make a VM with two kinds of controllers, a slot left free, and an adapter that is not the usual one."""
    source = random.Random(random.SystemRandom().getrandbits(32))
    name = f"{name[:30].replace('_', '-')}-{source.getrandbits(32):08x}"
    images = [image_of(lab.world.directory, f"{name}-{n}", size, source) for n, size in enumerate(_CAPACITIES)]
    spec = VmSpec(
        name=name,
        host=ESXI_HOSTS[0].name,
        datastore=DATASTORES[0].name,
        guest_id="debian12_64Guest",
        guest_full_name="Debian GNU/Linux 12 (64-bit)",
        firmware="efi",
        cpus=4,
        cores_per_socket=2,
        memory_mib=2048,
        secure_boot=True,
        controllers=_CONTROLLERS,
        disks=(
            DiskSpec(_CAPACITIES[0], "Hard disk 1", images[0], controller=1000, unit=0),
            DiskSpec(_CAPACITIES[1], "Hard disk 2", images[1], controller=15000, unit=3),
        ),
        nics=(NicSpec(NETWORKS[0], kind="VirtualE1000e"), NicSpec(NETWORKS[1], connected=False)),
    )
    return Replicated(lab.world, client, name, lab.world.vcenter_control.add_vm(spec), source)


@pytest.fixture
async def vm(lab: Lab, client: Client, request: pytest.FixtureRequest) -> AsyncIterator[Replicated]:
    made = _vm_of(lab, client, request.function.__name__.removeprefix("test_"))
    lab.world.arm_control.set_limits(snapshots_per_window=100)
    yield made
    lab.world.arm_control.set_limits()
    await made.discard()


async def _until(vm: Replicated, state: DrState) -> StatusView:
    return await vm.until(lambda view: view.migration_state == state.value, state.value, SLOW_S)


async def _committed_failover(vm: Replicated) -> str:
    """Replicate, fail over, commit; return the id of the VM in Azure."""
    await vm.enable_and_sync()
    await vm.handle.execute_update("failover")
    await _until(vm, DrState.FAILED_OVER)
    await vm.handle.execute_update("commit")
    view = await vm.until(lambda v: v.failover is not None and v.failover.committed_at is not None, "committed", SLOW_S)
    assert view.failover is not None and view.failover.vm_id is not None
    return view.failover.vm_id


def _write_in_azure(vm: Replicated, vm_id: str, writes: int = 6) -> None:
    for disk_id, _, _ in target_disks(vm.world, vm_id):
        for _ in range(writes):
            vm.world.arm_control.write(disk_id, vm.random.randrange(3000) * SECTOR, vm.random.randbytes(3 * SECTOR))
        vm.world.arm_control.discard(disk_id, 0, 16 * SECTOR)


def _in_azure(vm: Replicated, vm_id: str) -> tuple[bytes, ...]:
    disks = zip(target_disks(vm.world, vm_id), vm.source.disks, strict=True)
    return tuple(Path(file).read_bytes()[: disk.capacity_bytes] for (_, file, _), disk in disks)


def _held(vm: Replicated) -> tuple[bytes, ...]:
    return tuple(vm.source_bytes(index) for index, _ in enumerate(vm.source.disks))


def _made(vm: Replicated, name: str) -> VmState:
    """Return the one VM of that name that was made for the failback."""
    (found,) = [one for one in vm.world.vcenter_control.state().vms if one.name == name and one.moref != vm.source.moref]
    return found


def _at(vm: Replicated, made: VmState) -> Replicated:
    """Return the VM that was made as one under replication."""
    assert vm.enabled is not None
    return Replicated(vm.world, vm.client, made.name, made, vm.random, vm.enabled)


async def _refused(vm: Replicated, operation: str, argument: object) -> str:
    with pytest.raises(WorkflowUpdateFailedError) as refused:
        await vm.handle.execute_update(operation, argument)
    assert isinstance(refused.value.cause, ApplicationError)
    return refused.value.cause.message


async def test_a_vm_comes_home_to_another_place_and_is_replicated_from_there(vm: Replicated) -> None:
    vm_id = await _committed_failover(vm)
    before = _held(vm)
    _write_in_azure(vm, vm_id)
    name = f"{vm.name}-home"
    await vm.handle.execute_update("reprotect", {"location": {**_THERE, "name": name}})
    view = await _until(vm, DrState.FAILBACK_READY)
    assert view.failover is not None and view.failover.home_vm == name
    made = _made(vm, name)
    assert (made.power, made.host, made.extra_config[FAILBACK_KEY], made.extra_config[MADE_KEY]) == (
        "poweredOff",
        ESXI_HOSTS[1].name,
        made.extra_config[CLAIM_KEY],
        made.extra_config[CLAIM_KEY],
    )
    assert [(disk.key, disk.capacity_bytes, disk.file_name.partition("]")[0]) for disk in made.disks] == [
        (key, capacity, f"[{DATASTORES[1].name}") for key, capacity in zip(_DISK_KEYS, _CAPACITIES, strict=True)
    ]
    assert [disk.controller for disk in made.disks] == ["VirtualLsiLogicSASController 0", "VirtualAHCIController 0"]
    assert [(nic.network, nic.kind, nic.start_connected) for nic in made.nics] == [
        (NETWORKS[1], "VirtualE1000e", True),
        (NETWORKS[1], "VirtualVmxnet3", False),
    ]
    _write_in_azure(vm, vm_id)
    in_azure = _in_azure(vm, vm_id)
    await vm.handle.execute_update("failback")
    view = await _until(vm, DrState.FAILED_BACK)
    assert view.failover is not None
    assert any(vm.source.instance_uuid in told and "powered off" in told for told in view.failover.information)
    home = _at(vm, _made(vm, name))
    assert (home.source.power, home.source.annotation, _held(home)) == ("poweredOn", "", in_azure)

    await vm.handle.execute_update("commit_failback")
    await asyncio.wait_for(vm.handle.result(), SLOW_S)
    await home.until(lambda v: v.failover is None and len(v.resyncs) == 1, "resynchronised", SLOW_S)
    home.scribble()
    await home.committed(2)
    home.assert_seeds_equal_source()
    original = vm.world.vcenter_control.vm(vm.name)
    assert (original.power, _held(vm), CLAIM_KEY in original.extra_config) == ("poweredOff", before, False)
    status = await home.status()
    assert (status.replication_id, status.instance_uuid, status.vm) == (
        vm.reference.replication_id,
        home.source.instance_uuid,
        name,
    )
    assert MADE_KEY not in vm.world.vcenter_control.vm(name).extra_config
    assert names.replication_id(SITE, home.source.instance_uuid) == home.handle.id
    await home.stop()
    home.assert_nothing_left()
    vm.assert_nothing_left()
