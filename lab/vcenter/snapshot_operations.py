"""Snapshots of a VM: create, remove, revert, consolidate. Each runs inside a task, and raises vmodl faults.

Creating freezes all of a VM's disks during one stun, so that the snapshot is crash-consistent across disks. Removing
takes the snapshot out of the tree first and merges then, as vSphere does: a removal may succeed and leave deltas behind.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from lab.vcenter.faults import FaultName
from lab.vcenter.faults_disk import DiskBusy, DiskLocked
from lab.vcenter.quiescing import QuiesceOutcome, QuiesceRequest
from lab.vcenter.tasks import Task
from lab.vcenter.virtual_machine import FrozenAttachment, Snapshot, VirtualMachine
from lab.vcenter.vm_properties import publish_snapshot
from lab.vcenter.vocabulary import vim
from lab.vcenter.world import World

NAME_LIMIT = 80
_CHAIN_LIMIT = 32
"""vSphere's longest chain of snapshots (facts F12)."""


class SnapshotOperations:
    """What can be done with the snapshots of the world's VMs."""

    def __init__(self, world: World, is_held: Callable[[VirtualMachine], bool], taken: Callable[[], None] = lambda: None) -> None:
        """`is_held` says whether somebody has a powered-off VM's present disks open: then its files are locked.

        `taken` is called whenever there is one more snapshot.
        """
        self._world = world
        self._is_held = is_held
        self._taken = taken

    def create(
        self, vm: VirtualMachine, name: str, description: str, quiesce: QuiesceRequest | None, task: Task | None = None
    ) -> Snapshot:
        """Take a snapshot; a quiesced one only of a running guest with Tools, else it is a plain one (facts B2)."""
        self._check_room(vm)
        if quiesce is None:
            return self._create(vm, name, description, task, quiesced=False)
        world = self._world
        running = vm.tools_running
        frozen = vm.quiesce.frozen(
            name,
            quiesce,
            tools_run=running,
            fails=running and world.faults.take(FaultName.QUIESCE_FAILS, vm=vm.moref) is not None,
            minute_s=world.times.quiesce_minute_s,
            pause=world.pause,
        )
        with frozen as record:
            made = self._create(vm, name, description, task, quiesced=record.outcome is QuiesceOutcome.OBTAINED)
            record.snapshot = made.moref
            return made

    def _create(self, vm: VirtualMachine, name: str, description: str, task: Task | None, *, quiesced: bool) -> Snapshot:
        times, faults = self._world.times, self._world.faults
        self._world.pause(max(0.0, times.snapshot_s - times.stun_s))
        if task is not None:
            task.report(50)
        if self._is_held(vm):
            raise vim.fault.FileLocked(file=f"[{vm.home.name}] {vm.home_folder}", msg="Failed to lock the file")
        if faults.take(FaultName.SNAPSHOT_FAILS, vm=vm.moref):
            raise vim.fault.SnapshotFault(msg="An error occurred while taking a snapshot.")
        with self._stunned(vm):
            # Here, so that its time divides the guest's writes: those answered before are in it, those begun after are not.
            made = Snapshot(self._world, vm, name, description, vm.power, quiesced=quiesced)
            self._freeze(vm, made)
        publish_snapshot(made)
        with self._world.lock:
            vm.insert_snapshot(made)
            self._world.add(made)
            vm.touch()
        self._taken()
        return made

    def _check_room(self, vm: VirtualMachine) -> None:
        for datastore in vm.datastores:
            if datastore.free_bytes() == 0:
                raise vim.fault.NoDiskSpace(file=f"[{datastore.name}]", datastore=datastore.name, msg="There is no space left.")
        depth, current = 0, vm.current
        while current is not None:
            depth, current = depth + 1, current.parent
        if depth >= _CHAIN_LIMIT:
            raise vim.fault.TooManySnapshotLevels(msg=f"A chain has at most {_CHAIN_LIMIT} snapshots.")

    def _freeze(self, vm: VirtualMachine, made: Snapshot) -> None:
        try:
            for key, attached in vm.disks.items():
                if attached.in_snapshots:
                    made.disks[key] = FrozenAttachment(attached, attached.disk.freeze(made.moref))
                else:
                    attached.disk.on_power_on()
        except DiskBusy as error:
            for item in made.disks.values():
                item.attached.disk.release(made.moref)
            raise vim.fault.SnapshotFault(msg="A disk of the virtual machine is being consolidated.") from error

    def remove(self, vm: VirtualMachine, gone: Snapshot, children: bool, consolidate: bool, task: Task) -> None:
        """Remove a snapshot, with `children` all below it too, and merge what no snapshot needs any more."""
        self.remove_several(vm, list(gone.with_descendants()) if children else [gone], consolidate, task)

    def remove_several(self, vm: VirtualMachine, gone: list[Snapshot], consolidate: bool, task: Task) -> None:
        """Remove snapshots and merge once."""
        with self._stunned(vm):
            for snapshot in gone:
                for item in snapshot.disks.values():
                    self._release(item, snapshot)
                with self._world.lock:
                    vm.drop_snapshot(snapshot)
                    self._world.remove(snapshot.moref)
        with self._world.lock:
            vm.touch()
        if not consolidate or self._world.faults.take(FaultName.CONSOLIDATION_STUCK, vm=vm.moref):
            return
        try:
            self._merge(vm, task)
        except DiskLocked:
            return  # the removal succeeds all the same; consolidationNeeded tells (facts B2)
        finally:
            self._world.changed()

    @staticmethod
    def _release(item: FrozenAttachment, snapshot: Snapshot) -> None:
        try:
            item.attached.disk.release(snapshot.moref)
        except DiskBusy as error:
            raise vim.fault.SnapshotFault(msg="A disk of the virtual machine is being consolidated.") from error

    def consolidate(self, vm: VirtualMachine, task: Task) -> None:
        """Merge every delta that no snapshot needs. Raises vim.fault.FileLocked in the task."""
        stuck = self._world.faults.take(FaultName.CONSOLIDATION_STUCK, vm=vm.moref) is not None
        try:
            if stuck:
                raise DiskLocked("the lab was asked for it")
            self._merge(vm, task)
        except DiskLocked as error:
            name = next((item.backing_name(item.disk.file_name) for item in vm.disks.values()), vm.name)
            raise vim.fault.FileLocked(file=name, msg=f"Unable to access file {name} since it is locked") from error
        finally:
            self._world.changed()

    def _merge(self, vm: VirtualMachine, task: Task) -> None:
        pending = [item.disk for item in vm.disks.values() if item.disk.needs_consolidation]
        if pending and self._is_held(vm):
            raise DiskLocked(f"somebody has {vm.name}'s disks open")
        for number, disk in enumerate(pending):
            disk.consolidate(self._world.changed, self._world.times.consolidation_s / len(pending))
            task.report(50 + 50 * (number + 1) // len(pending))

    def revert(self, vm: VirtualMachine, target: Snapshot) -> None:
        """Go back to a snapshot. It has no memory, so the VM is off afterwards; change tracking starts anew."""
        with self._stunned(vm):
            for item in target.disks.values():
                item.attached.disk.revert(target.moref)
        with self._world.lock:
            vm.current = target
            vm.power, vm.boot_time = "poweredOff", None
            vm.touch()

    @contextmanager
    def _stunned(self, vm: VirtualMachine) -> Iterator[None]:
        """Let all disks of a VM stand still together, for at least the stun time if it runs."""
        with ExitStack() as stack:
            for attached in vm.disks.values():
                stack.enter_context(attached.disk.stunned())
            yield
            if vm.running:
                self._world.pause(self._world.times.stun_s)


def check_name(name: str) -> None:
    """Raise vim.fault.InvalidName for a snapshot name that vSphere does not take."""
    if not name or len(name) > NAME_LIMIT:
        raise vim.fault.InvalidName(name=name, msg=f"A snapshot's name has 1 to {NAME_LIMIT} characters.")


def snapshot_of(vm: VirtualMachine, reference: Any) -> Snapshot | None:
    """Return the VM's snapshot that a reference names, or None."""
    return vm.snapshot(str(reference._moId))
