"""A VM comes home to another place of its site, on real bytes: a new VM is made, written, started, and replicated from then on."""

import asyncio
import dataclasses
import random
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.audit import seen_vm
from activities.failback_elsewhere import FailbackElsewhere
from deltaferry.model.elsewhere import NewVm
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.naming import CLAIM_KEY, FAILBACK_KEY, MADE_KEY
from deltaferry.model.units import MIB, SECTOR
from deltaferry.planning.dr_states import DrState
from deltaferry.ports.access import Beat
from lab.oracle import target_disks
from lab.settings import DATASTORES, ESXI_HOSTS, NETWORKS, SITE
from lab.vcenter.control_views import VmState
from lab.vcenter.inventory_file import ControllerSpec, DiskSpec, NicSpec, VmSpec
from tests.e2e.accidents import SLOW_S
from tests.e2e.conftest import Lab
from tests.e2e.replicated import Replicated, image_of
from tests.e2e.reverse_by_hand import ReverseByHand, refusal_of
from workflows import names
from workflows.messages.failback import MakeVmInput, OnMadeVm
from workflows.messages.operator_input import AlternateLocation
from workflows.messages.reverse_records import MadeVm
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


async def _killed_as_soon_as_it_is_made(lab: Lab, name: str) -> None:
    """Kill the source worker when vCenter has a VM of that name, and start it again."""
    while all(vm.name != name for vm in await asyncio.to_thread(lambda: lab.world.vcenter_control.state().vms)):
        await asyncio.sleep(0.01)
    lab.source.kill()
    await asyncio.to_thread(lab.source.restart)


async def _health(vm: Replicated, part: str) -> str:
    """Wait until reprotect has ended with a sentence that has `part`, and can be sent again; return the sentence."""

    def ended(view: StatusView) -> bool:
        return bool(view.health) and part in view.health[0].message and "reprotect" in view.allowed

    return (await vm.until(ended, part, SLOW_S)).health[0].message


@pytest.mark.chaos
async def test_a_vm_that_is_gone_from_its_site_is_made_again_once_though_workers_die(lab: Lab, vm: Replicated) -> None:
    vm_id = await _committed_failover(vm)
    _write_in_azure(vm, vm_id)
    in_azure = _in_azure(vm, vm_id)
    vm.world.vcenter_control.delete_vm(vm.source.moref)
    await vm.handle.execute_update("reprotect", {"confirm_losses": True})
    assert "does not exist at the site any more" in await _health(vm, "send reprotect with a location")
    wrong = {"datastore": "ds9", "cluster": "cluster-1", "resource_pool": "gold", "folder": "/no", "networks": {"LAN": "x"}}
    await vm.handle.execute_update("reprotect", {"location": wrong})
    told = await _health(vm, "'ds9'")
    for part in ("no resource pool 'gold'", "no VM folder '/no'", "No adapter of the VM was on 'LAN'"):
        assert part in told
    lab.world.vcenter_control.fill_datastore(DATASTORES[1].name, 4 * MIB)
    try:
        await vm.handle.execute_update("reprotect", {"location": _THERE})
        assert "has 4 MiB free of 20 GiB" in await _health(vm, "and the disks may grow to 5 MiB")
    finally:
        lab.world.vcenter_control.fill_datastore(DATASTORES[1].name, None)
    assert all(one.name != vm.name for one in lab.world.vcenter_control.state().vms)

    killing = asyncio.create_task(_killed_as_soon_as_it_is_made(lab, vm.name))
    await vm.handle.execute_update("reprotect", {"location": {**_THERE, "host": None, "cluster": "cluster-1"}})
    await killing
    await _until(vm, DrState.FAILBACK_READY)
    first = _made(vm, vm.name)
    status = await vm.status()
    assert status.job_id is not None
    await vm.client.get_workflow_handle(status.job_id).cancel()
    await vm.until(lambda view: "reprotect" in view.allowed, "undone", SLOW_S)
    assert all(one.name != vm.name for one in lab.world.vcenter_control.state().vms)

    await vm.handle.execute_update("reprotect", {"location": _THERE})
    await _until(vm, DrState.FAILBACK_READY)
    lab.control.kill()
    await asyncio.to_thread(lab.control.restart)
    await vm.handle.execute_update("failback")
    await _until(vm, DrState.FAILED_BACK)
    home = _at(vm, _made(vm, vm.name))
    assert home.source.instance_uuid != first.instance_uuid
    assert (home.source.power, _held(home)) == ("poweredOn", in_azure)
    assert [disk.key for disk in home.source.disks] == list(_DISK_KEYS)
    await vm.handle.execute_update("commit_failback")
    await asyncio.wait_for(vm.handle.result(), SLOW_S)
    await home.until(lambda v: v.failover is None and len(v.resyncs) == 1, "resynchronised", SLOW_S)
    home.assert_seeds_equal_source()
    await home.stop()
    home.assert_nothing_left()


class _DiesBehind:
    """A site's vCenter for a worker that dies right behind the making of a VM."""

    def __init__(self, real: object) -> None:
        self._real = real

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)

    def make_vm(self, new: NewVm, beat: Beat) -> None:
        self._real.make_vm(new, beat)  # type: ignore[attr-defined]
        raise DeltaferryError(ErrorKind.INTERRUPTED, "the worker died")


async def test_an_attempt_that_died_behind_the_making_left_one_vm_whose_disks_are_not_taken_for_empty(
    lab: Lab, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in lab.world.environment.items():
        monkeypatch.setenv(name, value)
    hand = ReverseByHand(_vm_of(lab, client, "died-behind"))
    await asyncio.to_thread(hand.prepare)
    await asyncio.to_thread(hand.initial)
    lab.world.vcenter_control.power_off(hand.vm.source.moref)
    ref, control = hand.replication.ref, lab.world.vcenter_control
    location = AlternateLocation(DATASTORES[1].name, host=ESXI_HOSTS[1].name, name=f"{hand.vm.name}-home")
    request = MakeVmInput(hand.replication, location, str(uuid.uuid4()))
    dying = FailbackElsewhere({SITE: dataclasses.replace(hand.site, hypervisor=_DiesBehind(hand.site.hypervisor))})
    living = FailbackElsewhere({SITE: hand.site})
    environment = ActivityEnvironment()
    with pytest.raises(ApplicationError, match="the worker died"):
        environment.run(dying.make_vm, request)
    again = environment.run(living.make_vm, request)
    assert isinstance(again, MadeVm) and not again.pristine
    assert [vm.instance_uuid for vm in control.state().vms if vm.name == location.name] == [request.instance_uuid]
    environment.run(living.delete_made_vm, OnMadeVm(hand.replication, request.instance_uuid))
    environment.run(living.delete_made_vm, OnMadeVm(hand.replication, ref.instance_uuid))
    assert control.vm(hand.vm.name).moref == hand.vm.source.moref
    assert all(vm.name != location.name for vm in control.state().vms)

    other = dataclasses.replace(request, instance_uuid=str(uuid.uuid4()))
    made, twice = environment.run(living.make_vm, other), environment.run(living.make_vm, other)
    assert isinstance(made, MadeVm) and made == twice and made.pristine
    seen = seen_vm(hand.site.hypervisor.read_vm(other.instance_uuid), SITE)
    assert seen.made == seen.claim and seen.made is not None and seen.made.replication_id == ref.replication_id
    assert [disk.key for disk in made.disks] == list(_DISK_KEYS)
    (vm,) = [vm for vm in control.state().vms if vm.name == location.name]
    control.write(vm.moref, vm.disks[0].key, 0, b"x" * SECTOR)
    touched = environment.run(living.make_vm, other)
    assert isinstance(touched, MadeVm) and not touched.pristine
    environment.run(living.delete_made_vm, OnMadeVm(hand.replication, other.instance_uuid))

    control.delete_vm(hand.vm.source.moref)
    gone = await asyncio.to_thread(refusal_of, hand.prepare_site)
    assert gone.type == ErrorKind.OPERATION_REFUSED.value and "send reprotect with a location" in gone.message
    last = dataclasses.replace(request, instance_uuid=str(uuid.uuid4()), location=dataclasses.replace(location, name=None))
    remade = environment.run(living.make_vm, last)
    assert isinstance(remade, MadeVm)
    assert (remade.name, [disk.key for disk in remade.disks]) == (hand.vm.name, list(_DISK_KEYS))
    environment.run(living.delete_made_vm, OnMadeVm(hand.replication, last.instance_uuid))
    hand.close()
