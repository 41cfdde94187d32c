"""What the prerequisite checks answer with (spec §9): code, severity, cause, remedy."""

from dataclasses import dataclass
from enum import StrEnum


class FindingCode(StrEnum):
    """What a finding is about; programs branch on it, people read the cause."""

    ALREADY_PROTECTED = "AlreadyProtected"
    VSPHERE_PRIVILEGES = "VspherePrivileges"
    FAILBACK_PRIVILEGES = "FailbackPrivileges"
    POWERED_OFF = "PoweredOff"
    SUSPENDED = "Suspended"
    HARDWARE_VERSION = "HardwareVersion"
    CBT_NOT_SUPPORTED = "CbtNotSupported"
    SNAPSHOTS_PRESENT = "SnapshotsPresent"
    CONSOLIDATION_NEEDED = "ConsolidationNeeded"
    TOOLS_NOT_RUNNING = "ToolsNotRunning"
    NO_DISKS = "NoDisks"
    DISK_INDEPENDENT = "DiskIndependent"
    DISK_PHYSICAL_RDM = "DiskPhysicalRdm"
    DISK_SHARED = "DiskShared"
    DISK_ENCRYPTED = "DiskEncrypted"
    DISK_TOO_LARGE = "DiskTooLarge"
    DISK_SIZE_UNALIGNED = "DiskSizeUnaligned"
    DATA_DISK_COUNT = "DataDiskCount"
    BOOT_DISK_UNKNOWN = "BootDiskUnknown"
    BOOT_DISK_TOO_LARGE = "BootDiskTooLarge"
    GENERATION = "Generation"
    GUEST_UNKNOWN = "GuestUnknown"
    GUEST_NOT_64_BIT = "GuestNot64Bit"
    GUEST_DECLARATION = "GuestDeclaration"
    TARGET_NAME = "TargetName"
    TARGET_NAME_TAKEN = "TargetNameTaken"
    TARGET_COMPUTER_NAME = "TargetComputerName"
    TARGET_MISSING = "TargetMissing"
    DATASTORE_FULL = "DatastoreFull"


class Severity(StrEnum):
    """Errors stand in the way; warnings and information do not."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "information"


@dataclass(frozen=True, slots=True)
class Finding:
    """One result of the checks: a sentence for the cause, one for the remedy."""

    code: FindingCode
    severity: Severity
    cause: str
    remedy: str


def errors(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """Return the findings that stand in the way of replication."""
    return tuple(finding for finding in findings if finding.severity is Severity.ERROR)
