"""What tests of disaster recovery share: a policy, waiting for its states, recovery points whose bytes are known, the disks of both sides."""

from dataclasses import dataclass
from pathlib import Path

from deltaferry.planning.dr_states import DrState
from lab.oracle import target_disks
from tests.e2e.replicated import Replicated
from workflows.messages.views import StatusView

POLICY = {"name": "gold", "rpo_threshold": "PT1H", "retention": "PT1H"}


@dataclass(frozen=True)
class Known:
    """A recovery point, and what each disk held when it was taken."""

    cycle_key: str
    disks: tuple[bytes, ...]


async def known_point(vm: Replicated) -> Known:
    """Write, and return the next point whose snapshot has all of it."""
    vm.scribble()
    disks = on_site(vm)
    await vm.committed(2)  # one may have had its snapshot before the writes
    return Known((await vm.cycles())[-1].cycle_key, disks)


async def until_dr(vm: Replicated, state: DrState) -> StatusView:
    """Wait for a state of disaster recovery."""
    return await vm.until(lambda view: view.migration_state == state.value, state.value)


async def until_point(vm: Replicated, point: Known) -> StatusView:
    """Wait until the VM is failed over to a point."""
    return await vm.until(
        lambda v: v.migration_state == DrState.FAILED_OVER and v.failover is not None and v.failover.point_key == point.cycle_key,
        "failed over to the point",
    )


async def until_committed(vm: Replicated) -> StatusView:
    """Wait until a failover is committed."""
    return await vm.until(lambda v: v.failover is not None and v.failover.committed_at is not None, "committed")


def on_site(vm: Replicated) -> tuple[bytes, ...]:
    """Return what the disks at the site hold now."""
    return tuple(vm.source_bytes(index) for index, _ in enumerate(vm.source.disks))


def in_azure(vm: Replicated, vm_id: str | None) -> tuple[bytes, ...]:
    """Return what the disks of a VM in Azure hold now, as far as those at the site go."""
    assert vm_id is not None
    disks = zip(target_disks(vm.world, vm_id), vm.source.disks, strict=True)
    return tuple(Path(file).read_bytes()[: disk.capacity_bytes] for (_, file, _), disk in disks)


def assert_holds(vm: Replicated, vm_id: str | None, disks: tuple[bytes, ...]) -> None:
    """Compare every byte of a VM in Azure."""
    for number, (made, wanted) in enumerate(zip(in_azure(vm, vm_id), disks, strict=True)):
        assert made == wanted, f"disk {number} of {vm.name} in Azure is not as it was"


def resources_of(vm: Replicated) -> set[str]:
    """Return the resources of this VM's name in the lab's Azure."""
    return {resource.id for resource in vm.world.arm_control.resources() if vm.name in resource.id}
