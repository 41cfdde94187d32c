"""The closed taxonomy of errors: every failure that leaves an adapter is one of these kinds.

Control flow asks an error's `kind` and never its text. `activities/failures.py` carries a kind through Temporal
and back. A new kind is a change of this table, of the docs and of the tests that read it.
"""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum


class Audience(StrEnum):
    """Who can do something about an error."""

    OPERATOR = "operator"
    VSPHERE_ADMIN = "vsphere administrator"
    AZURE_ADMIN = "azure administrator"
    DEVELOPER = "developer"


class ErrorKind(StrEnum):
    """What went wrong, as the workflows need to tell it apart."""

    # input and prerequisites
    BAD_INPUT = "BadInput"
    BAD_CONFIGURATION = "BadConfiguration"
    VM_NOT_FOUND = "VmNotFound"
    VM_AMBIGUOUS = "VmAmbiguous"
    PREREQUISITES_FAILED = "PrerequisitesFailed"
    ALREADY_PROTECTED = "AlreadyProtected"
    CLAIM_LOST = "ClaimLost"
    OPERATION_REFUSED = "OperationRefused"
    # vSphere
    VSPHERE_LOGIN_REJECTED = "VsphereLoginRejected"
    VSPHERE_PERMISSION = "VspherePermission"
    VSPHERE_UNREACHABLE = "VsphereUnreachable"
    HOST_GONE = "HostGone"
    VSPHERE_BUSY = "VsphereBusy"
    VSPHERE_FAULT = "VsphereFault"
    SNAPSHOT_LOST = "SnapshotLost"
    SNAPSHOT_REFUSED = "SnapshotRefused"
    QUIESCE_FAILED = "QuiesceFailed"
    CONSOLIDATION_STUCK = "ConsolidationStuck"
    CBT_OFF = "CbtOff"
    CBT_RESET = "CbtReset"
    CBT_NO_EPOCH = "CbtNoEpoch"
    CBT_CHANGE_ID_REJECTED = "CbtChangeIdRejected"
    CBT_CORRUPT = "CbtCorrupt"
    CBT_MISSED_CHANGES = "CbtMissedChanges"
    TRACKING_RESET_REFUSED = "TrackingResetRefused"
    DISKS_CHANGED = "DisksChanged"
    SOURCE_LOST_POWER = "SourceLostPower"
    SOURCE_MOVED_ON = "SourceMovedOn"
    DATASTORE_FULL = "DatastoreFull"
    GUEST_SHUTDOWN_TIMED_OUT = "GuestShutdownTimedOut"
    GUEST_TOOLS_UNAVAILABLE = "GuestToolsUnavailable"
    DISK_READ_FAILED = "DiskReadFailed"
    # stores and integrity
    STORE_UNREACHABLE = "StoreUnreachable"
    STORE_THROTTLED = "StoreThrottled"
    STORE_ACCESS_DENIED = "StoreAccessDenied"
    STORE_OBJECT_MISSING = "StoreObjectMissing"
    STORE_FULL = "StoreFull"
    STORE_LEASED = "StoreLeased"
    FENCED = "Fenced"
    SEED_MISSING = "SeedMissing"
    SEED_DAMAGED = "SeedDamaged"
    CHECKSUM_MISMATCH = "ChecksumMismatch"
    SEGMENT_DAMAGED = "SegmentDamaged"
    COVERAGE_MISMATCH = "CoverageMismatch"
    MANIFEST_MISMATCH = "ManifestMismatch"
    KEY_UNAVAILABLE = "KeyUnavailable"
    KEY_VAULT_UNREACHABLE = "KeyVaultUnreachable"
    LOCAL_DISK_FULL = "LocalDiskFull"
    # Azure
    AZURE_LOGIN_REJECTED = "AzureLoginRejected"
    AZURE_PERMISSION = "AzurePermission"
    AZURE_UNREACHABLE = "AzureUnreachable"
    AZURE_THROTTLED = "AzureThrottled"
    AZURE_QUOTA = "AzureQuota"
    AZURE_NOT_FOUND = "AzureNotFound"
    AZURE_CONFLICT = "AzureConflict"
    AZURE_FAILED = "AzureFailed"
    # ours
    INTERRUPTED = "Interrupted"
    RESYNC_REPEATS = "ResyncRepeats"
    RPO_EXCEEDED = "RpoExceeded"
    INTERNAL = "Internal"


@dataclass(frozen=True, slots=True)
class ErrorRecord:
    """What a kind means to the person who reads it, and what the system does about it by itself."""

    cause: str
    remedy: str
    retryable: bool
    audience: Audience
    retry_after: timedelta | None = None
    """How long an activity waits before its next attempt; None means the retry policy's own back-off."""


_O, _V, _A, _D = Audience.OPERATOR, Audience.VSPHERE_ADMIN, Audience.AZURE_ADMIN, Audience.DEVELOPER
_K = ErrorKind

# fmt: off: one line for each kind, to be read as the table that it is
CATALOGUE: dict[ErrorKind, ErrorRecord] = {
    _K.BAD_INPUT: ErrorRecord(
        "The input is not what this operation takes.", "Correct the named field and send it again.", False, _O
    ),
    _K.BAD_CONFIGURATION: ErrorRecord(
        "A worker's configuration is incomplete or contradicts itself.",
        "Correct the named setting in the TOML file and restart that worker.",
        False,
        _O,
    ),
    _K.VM_NOT_FOUND: ErrorRecord(
        "The site has no VM of that name or instance UUID.",
        "Check the name in vCenter, and the site; use the instance UUID where names change.",
        False,
        _O,
    ),
    _K.VM_AMBIGUOUS: ErrorRecord(
        "Several VMs of the site have that name.", "Name the VM by one of the instance UUIDs in the message.", False, _O
    ),
    _K.PREREQUISITES_FAILED: ErrorRecord(
        "The VM does not meet the prerequisites for replication.",
        "Mend each finding in the list, then enable replication again.",
        False,
        _O,
    ),
    _K.ALREADY_PROTECTED: ErrorRecord(
        "The VM is already being replicated.", "Use the replication named in the message, or stop it first.", False, _O
    ),
    _K.CLAIM_LOST: ErrorRecord(
        "The VM no longer carries this replication's claim.",
        "Find out who removed or replaced the extraConfig entry; then stop this replication, or repair it.",
        False,
        _O,
    ),
    _K.OPERATION_REFUSED: ErrorRecord(
        "The operation is not possible in the replication's present state.",
        "Read the sentence in the message: it says when the operation is accepted.",
        False,
        _O,
    ),
    _K.VSPHERE_LOGIN_REJECTED: ErrorRecord(
        "vCenter refused the user name or password.",
        "Correct the site's credentials; the worker reads them again at the next attempt.",
        True,
        _V,
        timedelta(seconds=30),
    ),
    _K.VSPHERE_PERMISSION: ErrorRecord(
        "The vSphere user lacks a privilege.", "Grant the privilege named in the message.", False, _V
    ),
    _K.VSPHERE_UNREACHABLE: ErrorRecord(
        "vCenter or an ESXi host does not answer.",
        "Check the network between the source appliance, vCenter (443) and the ESXi host (902).",
        True,
        _V,
    ),
    _K.HOST_GONE: ErrorRecord(
        "The ESXi host that ran the VM does not answer vCenter, or no longer runs the VM.",
        "Nothing if the VM was moved: its host is read again. Otherwise connect the host in vCenter again.",
        True,
        _V,
        timedelta(seconds=5),
    ),
    _K.VSPHERE_BUSY: ErrorRecord(
        "vSphere is carrying out another task on the VM.",
        "Nothing: it is tried again when the other task is done.",
        True,
        _V,
        timedelta(seconds=5),
    ),
    _K.VSPHERE_FAULT: ErrorRecord(
        "vSphere reported a fault that may pass.",
        "If it persists, look up the fault named in the message in the VM's events.",
        True,
        _V,
    ),
    _K.SNAPSHOT_LOST: ErrorRecord(
        "The replication's snapshot is gone from the VM.",
        "Nothing: the next cycle takes a new one. Find out who removed it.",
        False,
        _V,
    ),
    _K.SNAPSHOT_REFUSED: ErrorRecord(
        "vSphere could not take the snapshot.",
        "Read the fault in the message; take a snapshot by hand to see the full reason.",
        True,
        _V,
        timedelta(seconds=20),
    ),
    _K.QUIESCE_FAILED: ErrorRecord(
        "The guest could not be quiesced for the snapshot.",
        "Nothing: the recovery point is crash-consistent. Look at the guest's VSS writers or freeze scripts.",
        False,
        _V,
    ),
    _K.CONSOLIDATION_STUCK: ErrorRecord(
        "The VM's disks still need consolidation.",
        "Consolidate the VM's disks in vCenter; a backup product may hold a lock on them.",
        True,
        _V,
        timedelta(seconds=20),
    ),
    _K.CBT_OFF: ErrorRecord(
        "Change block tracking is off on a disk.",
        "Repair the replication: tracking is enabled again and the disk resynchronised.",
        False,
        _V,
    ),
    _K.CBT_RESET: ErrorRecord(
        "Change block tracking was reset: the tracking UUID changed.",
        "Repair the replication: the disk must be resynchronised.",
        False,
        _V,
    ),
    _K.CBT_NO_EPOCH: ErrorRecord(
        "The datastore cannot tell which areas are allocated.", "Nothing: the whole disk is read instead.", False, _V
    ),
    _K.CBT_CHANGE_ID_REJECTED: ErrorRecord(
        "vSphere does not know the last committed change id.",
        "Repair the replication: the disk must be resynchronised.",
        False,
        _V,
    ),
    _K.CBT_CORRUPT: ErrorRecord(
        "The change tracking file of a disk is damaged.",
        "Reset change block tracking on the VM, then repair the replication.",
        False,
        _V,
    ),
    _K.CBT_MISSED_CHANGES: ErrorRecord(
        "Blocks changed that change block tracking does not report.",
        "Repair the replication: the disks must be resynchronised. If it happens again, reset change block tracking on the VM.",
        False,
        _V,
    ),
    _K.TRACKING_RESET_REFUSED: ErrorRecord(
        "Change tracking cannot be reset while the VM has snapshots.",
        "Remove the snapshots named in the message, then send repair again.",
        False,
        _V,
    ),
    _K.DISKS_CHANGED: ErrorRecord(
        "A disk was added, removed or resized under replication.",
        "Repair the replication: it takes the VM's disks as they are now. Or undo the change first.",
        False,
        _O,
    ),
    _K.SOURCE_LOST_POWER: ErrorRecord(
        "The source VM lost power or was forcibly shut down: change tracking may have missed writes.",
        "Repair the replication: the disks must be resynchronised. Shut guests down instead of powering VMs off.",
        False,
        _V,
    ),
    _K.SOURCE_MOVED_ON: ErrorRecord(
        "The source was started or changed while its disks were read without a snapshot.",
        "Nothing was committed. Consolidate the VM's disks, then send migrate_now again.",
        False,
        _V,
    ),
    _K.DATASTORE_FULL: ErrorRecord(
        "A datastore's free space is below the threshold.",
        "Enlarge the datastore, or migrate its VMs one at a time.",
        True,
        _V,
        timedelta(minutes=1),
    ),
    _K.GUEST_SHUTDOWN_TIMED_OUT: ErrorRecord(
        "The guest did not shut down in time.", "Shut it down by hand and migrate again, or allow the power-off.", False, _O
    ),
    _K.GUEST_TOOLS_UNAVAILABLE: ErrorRecord(
        "VMware Tools do not run in the guest, so it cannot be asked to shut down.",
        "Shut it down by hand and migrate again, or allow the power-off.",
        False,
        _O,
    ),
    _K.DISK_READ_FAILED: ErrorRecord(
        "Reading the snapshot's disk failed.",
        "If it persists, check the ESXi host's NFC service and TCP 902 from the appliance.",
        True,
        _V,
    ),
    _K.STORE_UNREACHABLE: ErrorRecord(
        "A storage account does not answer.", "Check the network to the storage account's endpoint.", True, _A
    ),
    _K.STORE_THROTTLED: ErrorRecord(
        "A storage account throttles.",
        "Nothing: it is tried again. If it persists, spread the replications over more accounts.",
        True,
        _A,
    ),
    _K.STORE_ACCESS_DENIED: ErrorRecord(
        "A storage account refused the credential.",
        "Check the worker's role assignment or account key.",
        True,
        _A,
        timedelta(seconds=30),
    ),
    _K.STORE_OBJECT_MISSING: ErrorRecord(
        "An object of the log or gateway store is missing.",
        "Nothing: the cycle fails and the next one repairs it. Find out who deleted it.",
        False,
        _A,
    ),
    _K.STORE_FULL: ErrorRecord(
        "A storage account has no room left.", "Make room, or raise the account's capacity.", True, _A, timedelta(minutes=1)
    ),
    _K.STORE_LEASED: ErrorRecord(
        "Somebody holds a lease on a blob or container of Deltaferry's.",
        "Find out who took the lease, and break it; Deltaferry takes none.",
        True,
        _A,
        timedelta(minutes=1),
    ),
    _K.FENCED: ErrorRecord(
        "A newer writer has taken over the seed disk.", "Nothing: the replication raises its number and goes on.", False, _D
    ),
    _K.SEED_MISSING: ErrorRecord(
        "A seed disk is missing.",
        "Repair the replication: the seed disk is made again. Find out who deleted the page blob.",
        False,
        _A,
    ),
    _K.SEED_DAMAGED: ErrorRecord(
        "A seed disk is not what was committed to it.",
        "Repair the replication: what differs is sent again. Find out who wrote to the page blob.",
        False,
        _A,
    ),
    _K.CHECKSUM_MISMATCH: ErrorRecord(
        "A block's checksum does not match its content.",
        "Nothing at first: the cycle fails and the next one repairs it.",
        False,
        _D,
    ),
    _K.SEGMENT_DAMAGED: ErrorRecord(
        "A stored segment cannot be authenticated or decoded.",
        "Nothing at first: the cycle fails and the next one repairs it.",
        False,
        _D,
    ),
    _K.COVERAGE_MISMATCH: ErrorRecord(
        "The sectors written are not the sectors that had to be replicated.",
        "Nothing at first: the cycle fails and the next one repairs it.",
        False,
        _D,
    ),
    _K.MANIFEST_MISMATCH: ErrorRecord(
        "The segments applied are not the segments that the source listed.",
        "Nothing at first: the cycle fails and the next one repairs it.",
        False,
        _D,
    ),
    _K.KEY_UNAVAILABLE: ErrorRecord(
        "The data key cannot be unwrapped.",
        "Check the Key Vault key or the local key file, and the worker's access to it.",
        True,
        _A,
        timedelta(seconds=30),
    ),
    _K.KEY_VAULT_UNREACHABLE: ErrorRecord(
        "Key Vault does not answer, or throttles.",
        "Check the outbound network on 443 and the vault's firewall; throttling passes by itself.",
        True,
        _A,
        timedelta(seconds=10),
    ),
    _K.LOCAL_DISK_FULL: ErrorRecord(
        "The worker's own disk is full.", "Make room on the worker's machine.", True, _O, timedelta(seconds=30)
    ),
    _K.AZURE_LOGIN_REJECTED: ErrorRecord(
        "Azure refused the worker's identity.",
        "Check the identity's secret, certificate or federation.",
        True,
        _A,
        timedelta(seconds=30),
    ),
    _K.AZURE_PERMISSION: ErrorRecord(
        "The worker's identity lacks an Azure permission.", "Grant the action named in the message.", False, _A
    ),
    _K.AZURE_UNREACHABLE: ErrorRecord("Azure Resource Manager does not answer.", "Check the outbound network on 443.", True, _A),
    _K.AZURE_THROTTLED: ErrorRecord(
        "Azure Resource Manager throttles.", "Nothing: it is tried again when Azure says so.", True, _A
    ),
    _K.AZURE_QUOTA: ErrorRecord(
        "The subscription's quota does not allow the resource.", "Ask for more quota, or choose another size.", False, _A
    ),
    _K.AZURE_NOT_FOUND: ErrorRecord(
        "An Azure resource that the migration needs does not exist.", "Create it, or correct the target properties.", False, _A
    ),
    _K.AZURE_CONFLICT: ErrorRecord(
        "An Azure resource of that name exists and is not ours.",
        "Choose another name in the target properties, or remove the resource.",
        False,
        _A,
    ),
    _K.AZURE_FAILED: ErrorRecord("Azure could not carry out an operation.", "Read Azure's code in the message.", True, _A),
    _K.INTERRUPTED: ErrorRecord(
        "The worker was stopped in the middle of a step.",
        "Nothing: another attempt goes on from what was done.",
        True,
        _D,
        timedelta(seconds=1),
    ),
    _K.RESYNC_REPEATS: ErrorRecord(
        "The same cause leads to a resync again and again.",
        "Mend the cause that the message names; a resync mends only its effect.",
        False,
        _O,
    ),
    _K.RPO_EXCEEDED: ErrorRecord(
        "Cycles take longer, wait longer or fail more often than the replication policy's RPO threshold allows.",
        "Read what the replication waits for; lift limits, windows or the throttle, or set a threshold that can be met.",
        True,
        _O,
    ),
    _K.INTERNAL: ErrorRecord("A defect of Deltaferry.", "Report it with the workflow's history.", True, _D),
}
# fmt: on


class DeltaferryError(Exception):
    """An error of the taxonomy, with the sentence that says what happened, where, and to what.

    `detail` never holds a secret. `retry_after` overrides the catalogue's (a server's Retry-After);
    `number` carries the one number a kind needs (FENCED: the sequence number found on the page blob).
    """

    def __init__(
        self,
        kind: ErrorKind,
        detail: str,
        *,
        retry_after: timedelta | None = None,
        number: int | None = None,
    ) -> None:
        super().__init__(f"{kind.value}: {detail}")
        self.kind = kind
        self.detail = detail
        self.retry_after = retry_after
        self.number = number

    @property
    def record(self) -> ErrorRecord:
        """The catalogue's entry for this error's kind."""
        return CATALOGUE[self.kind]
