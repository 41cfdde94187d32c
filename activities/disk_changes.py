"""What a resync takes over when the VM's disks are not those under replication any more: added, removed, resized, replaced."""

from collections.abc import Mapping

from temporalio import activity

from activities.adapters import Site
from activities.failures import translated
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.replication import ReplicatedDisk
from deltaferry.planning.disks import disks_changed, replicated_disks
from deltaferry.planning.findings import FindingCode, Severity
from deltaferry.planning.prerequisites import CheckFacts, check
from workflows.messages.step import DisksNow, OnReplication

_OF_DISKS = frozenset(
    {
        FindingCode.NO_DISKS,
        FindingCode.DISK_INDEPENDENT,
        FindingCode.DISK_PHYSICAL_RDM,
        FindingCode.DISK_SHARED,
        FindingCode.DISK_ENCRYPTED,
        FindingCode.DISK_TOO_LARGE,
        FindingCode.DISK_SIZE_UNALIGNED,
        FindingCode.DATA_DISK_COUNT,
        FindingCode.BOOT_DISK_UNKNOWN,
        FindingCode.BOOT_DISK_TOO_LARGE,
    }
)
"""The prerequisites that a change of disks can break."""


class DiskChanges:
    """Reads the VM's disks as they are now."""

    def __init__(self, sites: Mapping[str, Site]) -> None:
        self._sites = sites

    @activity.defn
    @translated
    def read_disks(self, request: OnReplication) -> DisksNow:
        """Return the disks to replicate from now on, and what happened to them.

        Raises DISKS_CHANGED, with the findings, where the VM as it is now could not be replicated: the boot disk is
        gone, or a disk was added that no snapshot holds.
        """
        replication = request.replication
        ref = replication.ref
        vm = self._sites[ref.site].hypervisor.read_vm(ref.instance_uuid)
        sentence = disks_changed(replication.disks, vm)
        if sentence is None:
            return DisksNow(replication.disks, "")
        boot = next(disk for disk in replication.disks if disk.is_boot)
        if all(disk.key != boot.key for disk in vm.disks):
            raise DeltaferryError(
                ErrorKind.DISKS_CHANGED,
                f"{sentence} {boot.label} is the boot disk: stop the replication, and enable it again as the VM is now.",
            )
        facts = CheckFacts(target_name=vm.name, boot_disk_key=boot.key)
        refused = [f for f in check(vm, facts) if f.severity is Severity.ERROR and f.code in _OF_DISKS]
        if refused:
            findings = " ".join(f"{finding.cause} {finding.remedy}" for finding in refused)
            raise DeltaferryError(ErrorKind.DISKS_CHANGED, f"{sentence} {findings}")
        return DisksNow(_with_known_uuids(replication.disks, replicated_disks(vm, boot.key)), sentence)


def _with_known_uuids(before: tuple[ReplicatedDisk, ...], now: tuple[ReplicatedDisk, ...]) -> tuple[ReplicatedDisk, ...]:
    """Return the disks of now, those that did not change exactly as they are recorded: labels may have changed since."""
    known = {disk.key: disk for disk in before}
    return tuple(
        known[disk.key]
        if disk.key in known and (known[disk.key].uuid, known[disk.key].capacity_bytes) == (disk.uuid, disk.capacity_bytes)
        else disk
        for disk in now
    )
