"""Making a VM for a failback to another place, and deleting it: only one that carries our mark is ever deleted.

The mark, the claim and the failback mark are part of the very request that makes the VM, and its instance UUID is given by
the caller: an attempt that dies at any point leaves a VM that the next one finds, or none.
"""

from typing import Any

from deltaferry.model.elsewhere import NewVm
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.naming import CLAIM_KEY, FAILBACK_KEY, MADE_KEY
from deltaferry.model.vm import Claim, Firmware, PowerState
from deltaferry.ports.access import Beat
from deltaferry.vsphere.claims import extra_value
from deltaferry.vsphere.hardware import device_changes, misplaced
from deltaferry.vsphere.locating import by_uuid
from deltaferry.vsphere.properties import ObjectProperties, moref, read_object
from deltaferry.vsphere.reconfiguring import reconfigure
from deltaferry.vsphere.session import Session
from deltaferry.vsphere.tasks import no_beat, wait_for_running, wait_for_task
from deltaferry.vsphere.vocabulary import ManagedObject, vim

_CREATING = frozenset({"CreateVM_Task"})
_PATHS = ("config.extraConfig", "config.instanceUuid", "config.hardware.device", "runtime.powerState")


def find_made_vm(session: Session, instance_uuid: str, holder: Claim) -> bool:
    """Return whether the VM that was made for `holder` under that UUID exists.

    Raises ALREADY_PROTECTED for a VM of that UUID that was not.
    """
    return _find(session, instance_uuid, holder) is not None


def make_vm(session: Session, new: NewVm, beat: Beat) -> None:
    """Make the VM, unless an earlier attempt has, or is about to.

    Raises OPERATION_REFUSED where its name was taken meanwhile or vSphere numbers its disks otherwise, ALREADY_PROTECTED,
    DATASTORE_FULL, VSPHERE_PERMISSION.
    """
    folder = session.object(vim.Folder, new.place.folders[0].moref)
    if _find(session, new.instance_uuid, new.holder) is None:
        wait_for_running(session, folder, _CREATING, beat)
    made = _find(session, new.instance_uuid, new.holder)
    if made is None:
        try:
            made = wait_for_task(session, _create(session, folder, new), beat)
        except vim.fault.DuplicateName:
            made = _find(session, new.instance_uuid, new.holder)
            if made is None:
                raise DeltaferryError(
                    ErrorKind.OPERATION_REFUSED,
                    f"The name {new.name!r} was taken in the folder meanwhile: give the new VM another name.",
                ) from None
    _require_as_asked(session, made, new, beat)


def keep_made_vm(session: Session, instance_uuid: str, holder: Claim) -> None:
    """Take the mark off: from now on the VM is one like any other, and is never deleted. No-op without it."""

    def decide(row: ObjectProperties) -> Any | None:
        if _mark(row) != _value(holder):
            return None
        return vim.vm.ConfigSpec(extraConfig=[vim.option.OptionValue(key=MADE_KEY, value="")])

    for vm in by_uuid(session, instance_uuid):
        reconfigure(session, vm, ("config.extraConfig",), decide, no_beat)


def delete_made_vm(session: Session, instance_uuid: str, holder: Claim, beat: Beat) -> None:
    """Delete the VM and its disks if it was made for `holder`; no-op for one that is gone, or was not.

    One that is being made for an attempt that died is waited for. Raises OPERATION_REFUSED while it is on.
    """
    wait_for_running(session, session.content().taskManager, _CREATING, beat)
    for vm in by_uuid(session, instance_uuid):
        row = read_object(session, vm, _PATHS)
        if _mark(row) != _value(holder):
            continue
        if PowerState(str(row.get("runtime.powerState"))) is not PowerState.OFF:
            raise DeltaferryError(
                ErrorKind.OPERATION_REFUSED,
                f"VM {instance_uuid}, which was made for the failback, is on: it is not deleted. Power it off if it is not needed.",
            )
        wait_for_task(session, vm.Destroy_Task(), beat)


def _find(session: Session, instance_uuid: str, holder: Claim) -> ManagedObject | None:
    found = by_uuid(session, instance_uuid)
    if not found:
        return None
    if len(found) > 1 or _mark(read_object(session, found[0], _PATHS[:1])) != _value(holder):
        names = ", ".join(sorted(moref(vm) for vm in found))
        raise DeltaferryError(
            ErrorKind.ALREADY_PROTECTED,
            f"the instance UUID {instance_uuid} is another VM's, which was not made for this: {names}",
        )
    return found[0]


def _create(session: Session, folder: ManagedObject, new: NewVm) -> ManagedObject:
    place, hardware = new.place, new.hardware
    config = vim.vm.ConfigSpec(
        name=new.name,
        instanceUuid=new.instance_uuid,
        guestId=hardware.guest_id,
        firmware=hardware.firmware.value,
        version=f"vmx-{hardware.hardware_version:02d}",
        numCPUs=hardware.cpus,
        numCoresPerSocket=hardware.cores_per_socket,
        memoryMB=hardware.memory_mib,
        files=vim.vm.FileInfo(vmPathName=f"[{place.datastores[0].name}]"),
        annotation=new.line,
        extraConfig=[vim.option.OptionValue(key=key, value=_value(new.holder)) for key in (MADE_KEY, CLAIM_KEY, FAILBACK_KEY)],
        deviceChange=device_changes(new),
    )
    if hardware.firmware is Firmware.EFI:
        config.bootOptions = vim.vm.BootOptions(efiSecureBootEnabled=hardware.secure_boot)
    pool = session.object(vim.ResourcePool, place.pools[0].moref)
    return folder.CreateVM_Task(config, pool, session.object(vim.HostSystem, place.hosts[0].moref))


def _require_as_asked(session: Session, vm: ManagedObject, new: NewVm, beat: Beat) -> None:
    """Delete what was made, and raise, where vSphere gave it another UUID, or its disks other keys or sizes."""
    row = read_object(session, vm, _PATHS)
    wrong = ""
    if row.get("config.instanceUuid") != new.instance_uuid:
        wrong = f"gave the VM the instance UUID {row.get('config.instanceUuid')} instead of {new.instance_uuid}"
    elif keys := misplaced(row.get("config.hardware.device") or (), new.disks):
        wrong = f"did not make the disks {', '.join(map(str, keys))} as they are replicated"
    if wrong:
        wait_for_task(session, vm.Destroy_Task(), beat)
        raise DeltaferryError(ErrorKind.OPERATION_REFUSED, f"vSphere {wrong}: the VM was deleted again.")


def _mark(row: ObjectProperties) -> str:
    return extra_value(row.get("config.extraConfig") or (), MADE_KEY)


def _value(holder: Claim) -> str:
    return f"{holder.installation}/{holder.replication_id}"
