"""How a VM and its snapshots look from outside: config, runtime, guest, summary, snapshot tree; devices are in `vm_devices`."""

from collections.abc import Iterator
from datetime import UTC
from pathlib import Path
from typing import Any

from lab.vcenter.virtual_machine import AttachedDisk, Snapshot, VirtualMachine
from lab.vcenter.vm_devices import devices
from lab.vcenter.vmodl_values import complete
from lab.vcenter.vocabulary import vim
from lab.vcenter.world import data_object, now

_BLOCK = 512
"""The unit of st_blocks."""


def publish(vm: VirtualMachine) -> None:
    """Give a VM the readers of its properties."""
    vm.readers.update(
        {
            "capability": lambda: _capability(vm),
            "config": lambda: config(vm),
            "runtime": lambda: runtime(vm),
            "guest": lambda: _guest(vm),
            "guestHeartbeatStatus": lambda: "green" if vm.tools_running else "gray",
            "summary": lambda: _summary(vm),
            "snapshot": lambda: _snapshot_info(vm),
            "rootSnapshot": lambda: [root.reference for root in vm.roots],
            "datastore": lambda: [datastore.reference for datastore in vm.datastores],
            "network": lambda: [network.reference for network in vm.networks],
            "resourcePool": lambda: vim.ResourcePool("resgroup-8"),
            "layoutEx": lambda: _layout(vm),
            "customValue": lambda: [
                data_object(vim.CustomFieldsManager.StringValue, key=key, value=value) for key, value in vm.identity.attributes
            ],
        }
    )


def publish_snapshot(snapshot: Snapshot) -> None:
    """Give a snapshot the reader of its configuration."""
    snapshot.readers["config"] = lambda: config(snapshot.vm, snapshot)


# --- configuration ---


def config(vm: VirtualMachine, snapshot: Snapshot | None = None) -> Any:
    """Return the VM's ConfigInfo of now, or as a snapshot froze it."""
    identity, settings = vm.identity, vm.settings
    hardware = data_object(
        vim.vm.VirtualHardware,
        numCPU=identity.cpus,
        numCoresPerSocket=identity.cores_per_socket,
        memoryMB=identity.memory_mib,
        device=devices(vm, snapshot),
    )
    return complete(
        data_object(
            vim.vm.ConfigInfo,
            changeVersion=str(settings.change_version),
            modified=vm.modified,
            name=vm.name,
            guestFullName=identity.guest_full_name,
            version=f"vmx-{identity.hardware_version:02d}",
            uuid=identity.bios_uuid,
            instanceUuid=identity.instance_uuid,
            template=identity.template,
            guestId=identity.guest_id,
            alternateGuestName="",
            annotation=settings.annotation or None,
            files=_files(vm),
            tools=data_object(vim.vm.ToolsConfigInfo, toolsVersion=2147483647 if vm.tools else 0),
            hardware=hardware,
            extraConfig=[vim.option.OptionValue(key=key, value=value) for key, value in extra_config(vm).items()],
            changeTrackingEnabled=settings.change_tracking,
            firmware=identity.firmware,
            bootOptions=data_object(vim.vm.BootOptions, efiSecureBootEnabled=identity.secure_boot),
        )
    )


def extra_config(vm: VirtualMachine) -> dict[str, str]:
    """Return the VM's extraConfig with the per-disk change tracking entries that vSphere itself writes."""
    entries = dict(vm.settings.extra_config)
    if vm.settings.change_tracking:
        entries["ctkEnabled"] = "TRUE"
        for attached in vm.disks.values():
            entries[f"{_bus_of(attached)}:{attached.unit_number}.ctkEnabled"] = "TRUE"
    return entries


def _bus_of(attached: AttachedDisk) -> str:
    """Return a controller's name in a VM's configuration file."""
    names = {1000: "scsi", 15000: "sata", 31000: "nvme", 200: "ide"}
    first = max(key for key in names if key <= attached.controller.key)
    return f"{names[first]}{attached.controller.bus}"


def _files(vm: VirtualMachine) -> Any:
    folder = f"[{vm.home.name}] {vm.home_folder}/"
    return data_object(
        vim.vm.FileInfo,
        vmPathName=f"{folder}{vm.name}.vmx",
        snapshotDirectory=folder,
        suspendDirectory=folder,
        logDirectory=folder,
    )


# --- state ---


def runtime(vm: VirtualMachine) -> Any:
    """Return the VM's RuntimeInfo."""
    return complete(
        data_object(
            vim.vm.RuntimeInfo,
            host=vm.host.reference,
            connectionState="connected",
            powerState=vm.power,
            faultToleranceState="notConfigured",
            recordReplayState="inactive",
            bootTime=vm.boot_time,
            cleanPowerOff=None if vm.running else vm.clean_power_off,
            consolidationNeeded=vm.consolidation_needed,
        )
    )


def _guest(vm: VirtualMachine) -> Any:
    return complete(
        data_object(
            vim.vm.GuestInfo,
            toolsStatus="toolsOk" if vm.tools_running else ("toolsNotRunning" if vm.tools else "toolsNotInstalled"),
            toolsVersionStatus2="guestToolsUnmanaged" if vm.tools else "guestToolsNotInstalled",
            toolsRunningStatus=vm.tools_status.value,
            guestId=vm.identity.guest_id if vm.tools_running else None,
            guestFullName=vm.identity.guest_full_name if vm.tools_running else None,
            hostName=vm.name if vm.tools_running else None,
            guestState="running" if vm.running else "notRunning",
        )
    )


def _capability(vm: VirtualMachine) -> Any:
    return complete(
        data_object(
            vim.vm.Capability,
            snapshotOperationsSupported=True,
            multipleSnapshotsSupported=True,
            snapshotConfigSupported=True,
            poweredOffSnapshotsSupported=True,
            memorySnapshotsSupported=True,
            revertToSnapshotSupported=True,
            quiescedSnapshotsSupported=True,
            changeTrackingSupported=vm.identity.change_tracking_supported,
            diskOnlySnapshotOnSuspendedVMSupported=True,
        )
    )


def _summary(vm: VirtualMachine) -> Any:
    identity = vm.identity
    guest = data_object(
        vim.vm.Summary.GuestSummary,
        guestId=identity.guest_id if vm.tools_running else None,
        guestFullName=identity.guest_full_name if vm.tools_running else None,
        toolsRunningStatus=vm.tools_status.value,
        hostName=vm.name if vm.tools_running else None,
    )
    settings = data_object(
        vim.vm.Summary.ConfigSummary,
        name=vm.name,
        template=identity.template,
        vmPathName=f"[{vm.home.name}] {vm.home_folder}/{vm.name}.vmx",
        memorySizeMB=identity.memory_mib,
        numCpu=identity.cpus,
        numEthernetCards=len(vm.nics),
        numVirtualDisks=len(vm.disks),
        uuid=identity.bios_uuid,
        instanceUuid=identity.instance_uuid,
        guestId=identity.guest_id,
        guestFullName=identity.guest_full_name,
        annotation=vm.settings.annotation or None,
        hwVersion=f"vmx-{identity.hardware_version:02d}",
    )
    capacity = sum(attached.disk.capacity_bytes for attached in vm.disks.values())
    committed = sum(size for _, _, size in _files_of(vm))
    return complete(
        data_object(
            vim.vm.Summary,
            vm=vm.reference,
            runtime=runtime(vm),
            guest=guest,
            config=settings,
            storage=data_object(
                vim.vm.Summary.StorageSummary,
                committed=committed,
                uncommitted=max(0, capacity - committed),
                unshared=committed,
                timestamp=now(),
            ),
            quickStats=data_object(vim.vm.Summary.QuickStats, guestHeartbeatStatus="green" if vm.tools_running else "gray"),
            overallStatus="green",
        )
    )


def _layout(vm: VirtualMachine) -> Any:
    """Return the VM's files as they are in its directories now, and which of them are whose disk."""
    found = list(enumerate(_files_of(vm)))
    files = [
        data_object(
            vim.vm.FileLayoutEx.FileInfo,
            key=number,
            name=f"[{datastore}] {vm.home_folder}/{path.name}",
            type="diskExtent" if path.stem.endswith(("-flat", "-delta")) else "diskDescriptor",
            size=size,
            accessible=True,
        )
        for number, (datastore, path, size) in found
    ]
    disks = [
        data_object(
            vim.vm.FileLayoutEx.DiskLayout, key=attached.key, chain=_chain(attached, [(n, path) for n, (_, path, _) in found])
        )
        for attached in vm.disks.values()
    ]
    return complete(data_object(vim.vm.FileLayoutEx, file=files, disk=disks, timestamp=now()))


def _chain(attached: AttachedDisk, files: list[tuple[int, Path]]) -> list[Any]:
    """Return a disk's files as one link: base and redo logs, told by how their names begin."""
    begins = (f"{attached.stem}.", f"{attached.stem}-")
    return [data_object(vim.vm.FileLayoutEx.DiskUnit, fileKey=[number for number, path in files if path.name.startswith(begins)])]


def _files_of(vm: VirtualMachine) -> Iterator[tuple[str, Path, int]]:
    """Yield datastore, file, and what the file takes: of a sparse one, as of a thin disk's, the blocks that it has."""
    for datastore in vm.datastores:
        for path in sorted((datastore.directory / vm.home_folder).glob("*")):
            try:
                status = path.stat()
                yield datastore.name, path, min(status.st_size, status.st_blocks * _BLOCK)
            except FileNotFoundError:  # removed by a consolidation meanwhile
                continue


# --- snapshots ---


def _snapshot_info(vm: VirtualMachine) -> Any:
    if not vm.roots:
        return None
    return data_object(
        vim.vm.SnapshotInfo,
        currentSnapshot=None if vm.current is None else vm.current.reference,
        rootSnapshotList=[_tree(root) for root in vm.roots],
    )


def _tree(snapshot: Snapshot) -> Any:
    return complete(
        data_object(
            vim.vm.SnapshotTree,
            snapshot=snapshot.reference,
            vm=snapshot.vm.reference,
            name=snapshot.name,
            description=snapshot.description,
            id=snapshot.number,
            createTime=snapshot.created_at.astimezone(UTC),
            state=snapshot.power,
            quiesced=snapshot.quiesced,
            childSnapshotList=[_tree(child) for child in snapshot.children],
            replaySupported=False,
        )
    )
