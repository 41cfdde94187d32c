"""Prerequisite rules: what stands in the way of replicating a VM, all of it at once (spec §9).

Read-only and pure: the caller has read the VM, its datastores and the target; each rule looks at that and yields
findings. What these data cannot tell (a static IP address inside the guest) is not judged.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from deltaferry.model.units import MAX_SEED_BYTES, SECTOR
from deltaferry.model.vm import DatastoreSpace, Firmware, PowerState, SourceDisk, SourceVm
from deltaferry.planning.datastores import shortage
from deltaferry.planning.disks import boot_disk, disks_changed
from deltaferry.planning.findings import Finding, FindingCode, Severity, errors
from deltaferry.planning.guests import GuestFamily, effective_guest, generation, guest_of_declaration, guest_of_id, os_type
from deltaferry.planning.phrases import count_text, size_text

__all__ = [
    "CheckFacts", "Finding", "FindingCode", "Severity", "boot_disk", "check", "disks_changed", "errors", "generation", "os_type",
]  # fmt: skip

_GIB = 1024**3
_MAX_BOOT_BYTES = {1: 2048 * _GIB, 2: 4095 * _GIB}
"""The largest boot disk by Azure generation (spec §9)."""

_MIN_HARDWARE_VERSION = 7
"""Change block tracking exists from VMware hardware version 7 on (facts F1)."""

_TARGET_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_WINDOWS_COMPUTER_NAME_CHARACTERS = 15


@dataclass(frozen=True, slots=True)
class CheckFacts:
    """What the checks know besides the VM."""

    target_name: str
    """The name that the VM gets in Azure."""
    installation: str = ""
    """This installation's id, to tell its own claims from others'."""
    replication_id: str | None = None
    """The replication whose claim on the VM is our own; None while enabling."""
    boot_disk_key: int | None = None
    """The operator's designation; None for the lowest disk."""
    declared_os: str | None = None
    """The operator's declaration, for a guest that vSphere does not know: a guest id, `Other Linux (64-bit)`, or `Linux`."""
    max_data_disks: int | None = None
    """How many data disks the target size takes; None if that is not known."""
    missing_privileges: tuple[str, ...] = ()
    """Ids of the vSphere privileges that the site's user lacks on the VM."""
    missing_for_failback: tuple[str, ...] = ()
    """Ids of those that failback needs besides; empty where nobody wants one."""
    datastores: tuple[DatastoreSpace, ...] = ()
    expected_growth_bytes: tuple[tuple[str, int], ...] = ()
    """(datastore, bytes that the VM's snapshots will grow by on it)."""
    target_name_taken: bool = False
    target_missing: tuple[str, ...] = ()
    """A sentence for each resource of the target that does not exist."""


def check(vm: SourceVm, facts: CheckFacts) -> tuple[Finding, ...]:
    """Return every finding, the errors first, each group in the order of the rules."""
    found = [finding for rule in _RULES for finding in rule(vm, facts)]
    order = list(Severity)
    return tuple(sorted(found, key=lambda finding: order.index(finding.severity)))


def _error(code: FindingCode, cause: str, remedy: str) -> Finding:
    return Finding(code, Severity.ERROR, cause, remedy)


def _claim(vm: SourceVm, facts: CheckFacts) -> Iterator[Finding]:
    if vm.claim is not None and vm.claim.replication_id != facts.replication_id:
        ours = vm.claim.installation == facts.installation
        holder = "this installation" if ours else f"another installation, '{vm.claim.installation}'"
        yield _error(
            FindingCode.ALREADY_PROTECTED,
            f"{vm.name} is claimed by replication {vm.claim.replication_id} of {holder}.",
            "Use that replication, or stop it first.",
        )


def _privileges(vm: SourceVm, facts: CheckFacts) -> Iterator[Finding]:
    if facts.missing_privileges:
        yield _error(
            FindingCode.VSPHERE_PRIVILEGES,
            f"The site's vSphere user lacks {count_text(len(facts.missing_privileges), 'privilege')} on {vm.name}: "
            f"{', '.join(facts.missing_privileges)}.",
            "Grant them to the user's role on the VM, or on a folder above it.",
        )


def _failback_privileges(vm: SourceVm, facts: CheckFacts) -> Iterator[Finding]:
    if facts.missing_for_failback:
        yield Finding(
            FindingCode.FAILBACK_PRIVILEGES,
            Severity.WARNING,
            f"The site's vSphere user could not write to the disks of {vm.name}, which failback does: it lacks "
            f"{', '.join(facts.missing_for_failback)}.",
            "Grant it on the VM, or on a folder above it, before a failover is to come home; replication needs none of it.",
        )


def _power(vm: SourceVm, facts: CheckFacts) -> Iterator[Finding]:
    if vm.power is PowerState.SUSPENDED:
        yield _error(
            FindingCode.SUSPENDED,
            f"{vm.name} is suspended; what its memory holds cannot be replicated.",
            "Resume it, or power it off.",
        )
    elif vm.power is PowerState.OFF:
        yield Finding(FindingCode.POWERED_OFF, Severity.INFO, f"{vm.name} is powered off.", "Nothing: it is replicated as it is.")
    elif not vm.tools_running:
        yield Finding(
            FindingCode.TOOLS_NOT_RUNNING,
            Severity.WARNING,
            f"VMware Tools do not run in {vm.name}, so its guest cannot be asked to shut down at migration.",
            "Install and start VMware Tools, or shut the guest down by hand, or allow the power-off when migrating.",
        )


def _change_tracking(vm: SourceVm, facts: CheckFacts) -> Iterator[Finding]:
    if vm.hardware_version < _MIN_HARDWARE_VERSION:
        yield _error(
            FindingCode.HARDWARE_VERSION,
            f"{vm.name} has VMware hardware version {vm.hardware_version}; change block tracking needs {_MIN_HARDWARE_VERSION}.",
            "Power the VM off and upgrade its compatibility in vCenter.",
        )
    elif not vm.cbt_supported:
        yield _error(
            FindingCode.CBT_NOT_SUPPORTED,
            f"vSphere does not support change block tracking for {vm.name}.",
            "Upgrade the VM's compatibility, or move its disks to a datastore that supports change block tracking.",
        )
    if vm.snapshots and not vm.cbt_enabled:
        names = ", ".join(f"'{snapshot.name}'" for snapshot in vm.snapshots)
        yield _error(
            FindingCode.SNAPSHOTS_PRESENT,
            f"Change block tracking cannot be enabled while {vm.name} has {count_text(len(vm.snapshots), 'snapshot')}: {names}.",
            "Remove these snapshots, then enable replication again.",
        )
    elif vm.snapshots:
        yield Finding(
            FindingCode.SNAPSHOTS_PRESENT,
            Severity.INFO,
            f"{vm.name} has {count_text(len(vm.snapshots), 'snapshot')}; reverting to one makes a resynchronisation necessary.",
            "Remove the snapshots that nobody needs.",
        )
    if vm.consolidation_needed:
        yield _error(
            FindingCode.CONSOLIDATION_NEEDED,
            f"The disks of {vm.name} need consolidation.",
            "Consolidate the VM's disks in vCenter; if that fails, look for a backup product that holds a lock on them.",
        )


def _disks(vm: SourceVm, facts: CheckFacts) -> Iterator[Finding]:
    if not vm.disks:
        yield _error(FindingCode.NO_DISKS, f"{vm.name} has no disks.", "Replicate a VM that has at least one disk.")
    for disk in vm.disks:
        yield from _disk(vm, disk)
    data_disks = len(vm.disks) - 1
    if facts.max_data_disks is not None and data_disks > facts.max_data_disks:
        yield _error(
            FindingCode.DATA_DISK_COUNT,
            f"{vm.name} has {count_text(data_disks, 'data disk')}; the target size takes {facts.max_data_disks}.",
            "Choose a larger size in the target properties.",
        )


def _disk(vm: SourceVm, disk: SourceDisk) -> Iterator[Finding]:
    name = f"{disk.label} of {vm.name}"
    if disk.independent:
        yield _error(
            FindingCode.DISK_INDEPENDENT,
            f"{name} is independent, so snapshots leave it out.",
            "Change the disk's mode to dependent.",
        )
    if disk.physical_rdm:
        yield _error(
            FindingCode.DISK_PHYSICAL_RDM,
            f"{name} is a raw device mapping in physical mode, which snapshots leave out.",
            "Map it in virtual mode, or move its data to a virtual disk.",
        )
    if disk.shared:
        yield _error(
            FindingCode.DISK_SHARED,
            f"{name} is shared with other VMs, and snapshots of it are refused.",
            "Turn bus and multi-writer sharing off.",
        )
    if disk.encrypted:
        yield _error(FindingCode.DISK_ENCRYPTED, f"{name} is encrypted by vSphere.", "Decrypt it by changing its storage policy.")
    if disk.capacity_bytes > MAX_SEED_BYTES:
        yield _error(
            FindingCode.DISK_TOO_LARGE,
            f"{name} has {size_text(disk.capacity_bytes)}; the largest page blob, and so the largest disk, has {size_text(MAX_SEED_BYTES)}.",
            "Move its data to several smaller disks.",
        )
    if disk.capacity_bytes <= 0 or disk.capacity_bytes % SECTOR:
        yield _error(
            FindingCode.DISK_SIZE_UNALIGNED,
            f"{name} has {disk.capacity_bytes} bytes, which is not a whole number of {SECTOR}-byte sectors.",
            "Enlarge the disk in vCenter to a whole number of MiB.",
        )


def _boot(vm: SourceVm, facts: CheckFacts) -> Iterator[Finding]:
    becomes = generation(vm)
    firmware = "EFI" if vm.firmware is Firmware.EFI else "BIOS"
    yield Finding(
        FindingCode.GENERATION,
        Severity.INFO,
        f"{vm.name} boots by {firmware}, so it becomes a generation {becomes} VM in Azure.",
        "Nothing: choose a size that supports this generation.",
    )
    boot = boot_disk(vm, facts.boot_disk_key)
    if boot is None:
        if vm.disks:
            keys = ", ".join(str(disk.key) for disk in vm.disks)
            yield _error(
                FindingCode.BOOT_DISK_UNKNOWN,
                f"{vm.name} has no disk with key {facts.boot_disk_key}, which was designated as its boot disk.",
                f"Designate one of its disks: {keys}.",
            )
    elif boot.capacity_bytes > _MAX_BOOT_BYTES[becomes]:
        yield _error(
            FindingCode.BOOT_DISK_TOO_LARGE,
            f"{boot.label} of {vm.name}, its boot disk, has {boot.capacity_bytes / _GIB:,.0f} GB; "
            f"a generation {becomes} VM boots from at most {_MAX_BOOT_BYTES[becomes] // _GIB:,} GB.",
            "Designate another boot disk, or move the operating system to a smaller one.",
        )


def _guest(vm: SourceVm, facts: CheckFacts) -> Iterator[Finding]:
    if facts.declared_os is not None and guest_of_declaration(facts.declared_os) is None:
        yield _error(
            FindingCode.GUEST_DECLARATION,
            f"The declared guest OS type '{facts.declared_os}' is neither a Linux nor a Windows that is understood.",
            "Declare a vSphere guest id such as otherLinux64Guest, or a name such as Other Linux (64-bit).",
        )
        return
    guest = effective_guest(vm.guest_id, facts.declared_os)
    if guest is None:
        known = f"'{vm.guest_full_name or vm.guest_id}' is not known" if vm.guest_id else "is not set"
        yield _error(
            FindingCode.GUEST_UNKNOWN,
            f"The guest OS type of {vm.name} {known}.",
            "Set it in the VM's settings, or declare it when enabling, e.g. as Other Linux (64-bit).",
        )
    elif not guest.is_64_bit:
        declared = guest_of_id(vm.guest_id) is None
        shown = facts.declared_os if declared else vm.guest_full_name or vm.guest_id
        yield _error(
            FindingCode.GUEST_NOT_64_BIT,
            f"The guest OS type of {vm.name}, '{shown}', is not 64-bit.",
            "If the guest is 64-bit, correct the guest OS type; a 32-bit guest does not run in Azure.",
        )


def _target(vm: SourceVm, facts: CheckFacts) -> Iterator[Finding]:
    guest = effective_guest(vm.guest_id, facts.declared_os)
    if not _TARGET_NAME.fullmatch(facts.target_name):
        yield _error(
            FindingCode.TARGET_NAME,
            f"'{facts.target_name}' is not a name that a VM can have in Azure.",
            "Give a target name of 1 to 63 letters, digits and hyphens that begins and ends with a letter or digit.",
        )
    elif guest is not None and guest.family is GuestFamily.WINDOWS and len(facts.target_name) > _WINDOWS_COMPUTER_NAME_CHARACTERS:
        yield Finding(
            FindingCode.TARGET_COMPUTER_NAME,
            Severity.WARNING,
            f"'{facts.target_name}' is longer than a Windows computer name, which has at most {_WINDOWS_COMPUTER_NAME_CHARACTERS} characters.",
            "Nothing if the names may differ: the guest keeps its own computer name. Else give a shorter target name.",
        )
    if facts.target_name_taken:
        yield _error(
            FindingCode.TARGET_NAME_TAKEN,
            f"The target's resource group already has a VM '{facts.target_name}'.",
            "Give another target name, or remove that VM.",
        )
    for sentence in facts.target_missing:
        yield _error(FindingCode.TARGET_MISSING, sentence, "Create it, or correct the target properties.")


def _datastores(vm: SourceVm, facts: CheckFacts) -> Iterator[Finding]:
    growth = dict(facts.expected_growth_bytes)
    for space in facts.datastores:
        sentence = shortage(space, growth.get(space.name, 0))
        if sentence is not None:
            yield _error(FindingCode.DATASTORE_FULL, sentence, "Enlarge the datastore, or migrate its VMs one at a time.")


_RULES: tuple[Callable[[SourceVm, CheckFacts], Iterator[Finding]], ...] = (
    _claim, _privileges, _failback_privileges, _power, _change_tracking, _disks, _boot, _guest, _target, _datastores,
)  # fmt: skip
