"""The methods of VMs and snapshots: most start a task and return it."""

from typing import Any

from lab.vcenter.changed_areas import query_changed_areas
from lab.vcenter.dispatch import Call, Handler
from lab.vcenter.power_operations import PowerOperations
from lab.vcenter.quiescing import asked_for
from lab.vcenter.reconfiguration import Reconfiguration
from lab.vcenter.snapshot_operations import SnapshotOperations, check_name
from lab.vcenter.tasks import Task, TaskManager
from lab.vcenter.virtual_machine import Snapshot, VirtualMachine
from lab.vcenter.vocabulary import vim, vmodl


class VmMethods:
    """Handlers by WSDL name."""

    def __init__(
        self, tasks: TaskManager, snapshots: SnapshotOperations, power: PowerOperations, reconfiguration: Reconfiguration
    ) -> None:
        self._tasks = tasks
        self._snapshots = snapshots
        self._power = power
        self._reconfiguration = reconfiguration

    def handlers(self) -> dict[str, Handler]:
        """Return the table."""
        return {
            "ReconfigVM_Task": self._reconfigure,
            "CreateSnapshot_Task": self._create_snapshot,
            "CreateSnapshotEx_Task": self._create_snapshot,
            "RemoveSnapshot_Task": self._remove_snapshot,
            "RemoveAllSnapshots_Task": self._remove_all_snapshots,
            "RevertToSnapshot_Task": self._revert_to_snapshot,
            "RevertToCurrentSnapshot_Task": self._revert_to_current,
            "RenameSnapshot": _rename_snapshot,
            "ConsolidateVMDisks_Task": lambda call: self._start(call, _vm(call), self._consolidate),
            "PowerOnVM_Task": lambda call: self._start(call, _vm(call), lambda vm, _: self._power.power_on(vm, _user(call))),
            "PowerOffVM_Task": lambda call: self._start(call, _vm(call), lambda vm, _: self._power.power_off(vm, _user(call))),
            "ResetVM_Task": lambda call: self._start(call, _vm(call), lambda vm, _: self._power.reset(vm, _user(call))),
            "ShutdownGuest": lambda call: self._power.shut_down_guest(_vm(call), _user(call)),
            "QueryChangedDiskAreas": _query_changed_areas,
        }

    def _start(self, call: Call, vm: VirtualMachine, work: Any) -> Any:
        """Start a task on a VM; `work` gets the VM and the task."""
        return self._tasks.start(call.method, vm, vm.name, call.caller.user, lambda task: work(vm, task))

    def _reconfigure(self, call: Call) -> Any:
        spec = call.argument("spec")
        return self._start(call, _vm(call), lambda vm, _: self._reconfiguration.apply(vm, spec))

    def _create_snapshot(self, call: Call) -> Any:
        name, description = call.argument("name"), call.argument("description") or ""
        check_name(name)
        quiesce = asked_for(bool(call.argument("quiesce")), call.argument("quiesceSpec"))

        def work(vm: VirtualMachine, task: Task) -> Any:
            return self._snapshots.create(vm, name, description, quiesce, task).reference

        return self._start(call, _vm(call), work)

    def _remove_snapshot(self, call: Call) -> Any:
        snapshot = _snapshot(call)
        children, consolidate = bool(call.argument("removeChildren")), call.argument("consolidate") is not False

        def work(vm: VirtualMachine, task: Task) -> None:
            self._snapshots.remove(vm, snapshot, children, consolidate, task)

        return self._start(call, snapshot.vm, work)

    def _remove_all_snapshots(self, call: Call) -> Any:
        consolidate = call.argument("consolidate") is not False

        def work(vm: VirtualMachine, task: Task) -> None:
            gone = [item for root in list(vm.roots) for item in root.with_descendants()]
            self._snapshots.remove_several(vm, gone, consolidate, task)

        return self._start(call, _vm(call), work)

    def _revert_to_snapshot(self, call: Call) -> Any:
        snapshot = _snapshot(call)
        return self._start(call, snapshot.vm, lambda vm, _: self._snapshots.revert(vm, snapshot))

    def _revert_to_current(self, call: Call) -> Any:
        vm = _vm(call)
        current = vm.current
        if current is None:
            raise vim.fault.NotFound(msg="The virtual machine has no current snapshot.")
        return self._start(call, vm, lambda vm, _: self._snapshots.revert(vm, current))

    def _consolidate(self, vm: VirtualMachine, task: Task) -> None:
        self._snapshots.consolidate(vm, task)


def _user(call: Call) -> str:
    return call.caller.user


def _vm(call: Call) -> VirtualMachine:
    if not isinstance(call.target, VirtualMachine):
        raise vmodl.fault.InvalidRequest(msg="The object is not a virtual machine.")
    return call.target


def _snapshot(call: Call) -> Snapshot:
    if not isinstance(call.target, Snapshot):
        raise vmodl.fault.InvalidRequest(msg="The object is not a snapshot.")
    return call.target


def _rename_snapshot(call: Call) -> None:
    snapshot = _snapshot(call)
    if call.argument("name"):
        check_name(call.argument("name"))
        snapshot.name = call.argument("name")
    if call.argument("description") is not None:
        snapshot.description = call.argument("description")
    snapshot.vm.touch()


def _query_changed_areas(call: Call) -> Any:
    return query_changed_areas(
        call.world,
        _vm(call),
        call.argument("snapshot"),
        call.argument("deviceKey"),
        call.argument("startOffset"),
        call.argument("changeId"),
    )
