"""Finding VMs, and what a VM is at this moment."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.quiescing import FREEZE_MARK
from deltaferry.model.vm import Firmware, PowerState, SourceVm
from deltaferry.vsphere.claims import claim_of, extra_value, made_for
from deltaferry.vsphere.devices import datastores, source_disks, source_nics
from deltaferry.vsphere.locating import by_uuid, locate
from deltaferry.vsphere.properties import ObjectProperties, moref, names_of, read_all, read_object, read_objects, unescaped
from deltaferry.vsphere.session import Session
from deltaferry.vsphere.snapshot_tree import snapshots_of
from deltaferry.vsphere.vocabulary import ManagedObject, vim, vmodl

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

VM_PATHS = (
    "name",
    "config.instanceUuid",
    "config.template",
    "config.version",
    "config.firmware",
    "config.guestId",
    "config.guestFullName",
    "config.annotation",
    "config.changeTrackingEnabled",
    "config.extraConfig",
    "config.hardware.memoryMB",
    "config.hardware.numCPU",
    "config.hardware.device",
    "capability.changeTrackingSupported",
    "runtime.powerState",
    "runtime.host",
    "runtime.consolidationNeeded",
    "guest.toolsRunningStatus",
    "network",
    "snapshot",
)
"""What `source_vm` reads."""


def list_vms(session: Session) -> tuple[SourceVm, ...]:
    """Return every VM by name; templates, and VMs whose configuration vCenter cannot read now, are left out."""
    rows = read_all(session, vim.VirtualMachine, VM_PATHS)
    return tuple(sorted(_source_vms(session, rows), key=lambda vm: (vm.name, vm.instance_uuid)))


def find_vms(session: Session, reference: str) -> tuple[SourceVm, ...]:
    """Return the VMs whose name or instance UUID is `reference`."""
    found: dict[str, ManagedObject] = {}
    if _UUID.fullmatch(reference):
        found.update({moref(vm): vm for vm in by_uuid(session, reference)})
    for row in read_all(session, vim.VirtualMachine, ["name"]):
        if reference in (row.get("name"), unescaped(row.get("name") or "")):
            found[row.moref] = row.reference
    rows = read_objects(session, list(found.values()), VM_PATHS)
    return tuple(sorted(_source_vms(session, rows), key=lambda vm: (vm.name, vm.instance_uuid)))


def read_vm(session: Session, instance_uuid: str) -> SourceVm:
    """Return one VM as it is now. Raises VM_NOT_FOUND, VM_AMBIGUOUS, and VSPHERE_FAULT while it is not accessible."""
    vms = _source_vms(session, [read_object(session, locate(session, instance_uuid), VM_PATHS)])
    if not vms:
        raise DeltaferryError(
            ErrorKind.VSPHERE_FAULT, f"vCenter cannot read the configuration of VM {instance_uuid} now, or it is a template"
        )
    return vms[0]


def _source_vms(session: Session, rows: Iterable[ObjectProperties]) -> list[SourceVm]:
    usable = [row for row in rows if row.get("config.instanceUuid") and not row.get("config.template")]
    related: list[ManagedObject] = []
    for row in usable:
        related.extend(datastores(row.get("config.hardware.device") or ()))
        related.extend(row.get("network") or ())
        if row.get("runtime.host") is not None:
            related.append(row.get("runtime.host"))
    names = _names(session, related)
    return [source_vm(row, names) for row in usable]


def _names(session: Session, references: list[ManagedObject]) -> dict[str, str]:
    """Return names by moref; after a host or network vanished between two readings, without them."""
    try:
        return names_of(session, references)
    except vmodl.fault.ManagedObjectNotFound as fault:
        remaining = [reference for reference in references if fault.obj is not None and moref(reference) != moref(fault.obj)]
        if len(remaining) == len(references):
            raise
        return _names(session, remaining)


def source_vm(row: ObjectProperties, names: Mapping[str, str]) -> SourceVm:
    """Return the VM in a row read by `VM_PATHS`; `names` has those of hosts, datastores and networks by moref."""
    devices = row.get("config.hardware.device") or ()
    host = row.get("runtime.host")
    return SourceVm(
        instance_uuid=row.get("config.instanceUuid"),
        moref=row.moref,
        name=unescaped(row.get("name") or ""),
        power=PowerState(str(row.get("runtime.powerState"))),
        host=names.get(moref(host), "") if host is not None else "",
        hardware_version=_hardware_version(row.get("config.version")),
        firmware=Firmware.EFI if row.get("config.firmware") == "efi" else Firmware.BIOS,
        guest_id=row.get("config.guestId") or "",
        guest_full_name=row.get("config.guestFullName") or "",
        memory_mib=int(row.get("config.hardware.memoryMB") or 0),
        cpus=int(row.get("config.hardware.numCPU") or 0),
        tools_running=row.get("guest.toolsRunningStatus") == "guestToolsRunning",
        cbt_supported=bool(row.get("capability.changeTrackingSupported")),
        cbt_enabled=bool(row.get("config.changeTrackingEnabled")),
        consolidation_needed=bool(row.get("runtime.consolidationNeeded")),
        disks=source_disks(devices, names),
        nics=source_nics(devices, names),
        snapshots=snapshots_of(row.get("snapshot")),
        claim=claim_of(row.get("config.extraConfig") or ()),
        annotation=row.get("config.annotation") or "",
        freeze_mark=extra_value(row.get("config.extraConfig") or (), FREEZE_MARK),
        made_for=made_for(row.get("config.extraConfig") or ()),
    )


def _hardware_version(version: Any) -> int:
    """Return 19 for `vmx-19`; 0 where vSphere gives none."""
    digits = str(version or "").rpartition("-")[2]
    return int(digits) if digits.isdigit() else 0
