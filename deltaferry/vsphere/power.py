"""Power: guest shutdown, power-off, power-on."""

from deltaferry.model.vm import PowerState
from deltaferry.ports.access import Beat
from deltaferry.vsphere.failback_marks import require_unmarked
from deltaferry.vsphere.locating import locate
from deltaferry.vsphere.properties import read_object
from deltaferry.vsphere.session import Session
from deltaferry.vsphere.tasks import wait_for_task
from deltaferry.vsphere.vocabulary import ManagedObject, vim

_STATE = "runtime.powerState"


def power_state(session: Session, instance_uuid: str) -> PowerState:
    """Return the VM's power state."""
    return _state(session, locate(session, instance_uuid))


def shut_down_guest(session: Session, instance_uuid: str) -> None:
    """Ask the guest to shut down, and return at once. Raises GUEST_TOOLS_UNAVAILABLE. No-op when off."""
    vm = locate(session, instance_uuid)
    if _state(session, vm) is PowerState.OFF:
        return
    try:
        vm.ShutdownGuest()
    except vim.fault.InvalidPowerState as fault:
        _pass_on_unless(session, vm, PowerState.OFF, fault)


def power_off(session: Session, instance_uuid: str, beat: Beat) -> None:
    """Power off hard; no-op when off. Raises VSPHERE_BUSY."""
    vm = locate(session, instance_uuid)
    if _state(session, vm) is PowerState.OFF:
        return
    try:
        wait_for_task(session, vm.PowerOffVM_Task(), beat)
    except vim.fault.InvalidPowerState as fault:
        _pass_on_unless(session, vm, PowerState.OFF, fault)


def power_on(session: Session, instance_uuid: str, beat: Beat) -> None:
    """Power on; no-op when on. Raises VSPHERE_BUSY, OPERATION_REFUSED while the VM is marked for failback."""
    vm = locate(session, instance_uuid)
    if _state(session, vm) is PowerState.ON:
        return
    require_unmarked(session, vm, "powering the VM on")
    try:
        wait_for_task(session, vm.PowerOnVM_Task(None), beat)
    except vim.fault.InvalidPowerState as fault:
        _pass_on_unless(session, vm, PowerState.ON, fault)


def _state(session: Session, vm: ManagedObject) -> PowerState:
    return PowerState(str(read_object(session, vm, [_STATE]).get(_STATE)))


def _pass_on_unless(session: Session, vm: ManagedObject, wanted: PowerState, fault: Exception) -> None:
    """Raise the fault, unless the VM came to be as wanted between reading its state and asking."""
    if _state(session, vm) is not wanted:
        raise fault
