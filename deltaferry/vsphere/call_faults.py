"""The rows of the vSphere fault table that one call alone meets: asking for changed areas, taking a snapshot, consolidating.

Sources: the fault map of the vSphere CSI driver's `translateVslmError`, and VMware's declared faults of each method.
"""

from deltaferry.model.errors import ErrorKind
from deltaferry.model.faults import FaultClass
from deltaferry.vsphere.fault_rule import FaultRule
from deltaferry.vsphere.vocabulary import vim, vmodl

_K = ErrorKind
_C = FaultClass

CBT_NO_TRACK = "vim.hostd.vmsvc.cbt.noTrack"
CBT_NO_EPOCH = "vim.hostd.vmsvc.cbt.noEpoch"
CBT_CANNOT_GET_CHANGES = "vim.hostd.vmsvc.cbt.cannotGetChanges"
CBT_CORRUPT = "vim.hostd.vmsvc.cbt.corrupt"
"""Beside cannotGetChanges. Where vSphere says "corrupt" in the message's text alone, the change id counts as rejected:
the repair is the same, and when that fails its remedy is the reset that a damaged tracking file needs."""

_QUERY = "QueryChangedDiskAreas"
_TAKE = "CreateSnapshotEx_Task"
_MERGE = "ConsolidateVMDisks_Task"

CHANGED_AREAS_RULES: tuple[FaultRule, ...] = (
    FaultRule(
        name="cbt-off",
        fault=vim.fault.FileFault,
        keys=frozenset({CBT_NO_TRACK}),
        method=_QUERY,
        answer=_C.RESYNC,
        kind=_K.CBT_OFF,
        meaning="Change block tracking is not in effect on the disk.",
    ),
    FaultRule(
        name="cbt-no-epoch",
        fault=vim.fault.FileFault,
        keys=frozenset({CBT_NO_EPOCH}),
        method=_QUERY,
        answer=_C.FALL_BACK,
        kind=_K.CBT_NO_EPOCH,
        meaning="Allocated areas (`*`) cannot be told on this datastore.",
    ),
    FaultRule(
        name="cbt-corrupt",
        fault=vim.fault.FileFault,
        keys=frozenset({CBT_CORRUPT}),
        method=_QUERY,
        answer=_C.RESET_CBT,
        kind=_K.CBT_CORRUPT,
        meaning="The disk's change tracking file is damaged.",
        remedy="Repair the replication: its resync resets change block tracking first.",
    ),
    FaultRule(
        name="cbt-cannot-get-changes",
        fault=vim.fault.FileFault,
        keys=frozenset({CBT_CANNOT_GET_CHANGES}),
        method=_QUERY,
        answer=_C.RESYNC,
        kind=_K.CBT_CHANGE_ID_REJECTED,
        meaning="The change id is of another tracking UUID, or too old.",
    ),
    FaultRule(
        name="bad-change-id",
        fault=vmodl.fault.InvalidArgument,
        properties=frozenset({"changeId"}),
        method=_QUERY,
        answer=_C.RESYNC,
        kind=_K.CBT_CHANGE_ID_REJECTED,
        meaning="The change id is not one that this vSphere understands.",
    ),
    FaultRule(
        name="bad-snapshot",
        fault=vmodl.fault.InvalidArgument,
        properties=frozenset({"snapshot"}),
        method=_QUERY,
        answer=_C.REPAIR,
        kind=_K.SNAPSHOT_LOST,
        meaning="The snapshot is not the VM's, or no longer.",
    ),
    FaultRule(
        name="bad-start-offset",
        fault=vmodl.fault.InvalidArgument,
        properties=frozenset({"startOffset"}),
        method=_QUERY,
        answer=_C.RESYNC,
        kind=_K.DISKS_CHANGED,
        meaning="An offset below the known capacity is behind the disk's end: the disk is smaller now.",
    ),
    FaultRule(
        name="key-of-no-disk",
        fault=vmodl.fault.InvalidArgument,
        properties=frozenset({"deviceKey"}),
        method=_QUERY,
        when="the snapshot has no such disk",
        answer=_C.RESYNC,
        kind=_K.DISKS_CHANGED,
        meaning="The disk was removed before the snapshot was taken.",
    ),
    FaultRule(
        name="key-of-untracked-disk",
        fault=vmodl.fault.InvalidArgument,
        properties=frozenset({"deviceKey"}),
        method=_QUERY,
        when="the snapshot's disk has no change id",
        answer=_C.RESYNC,
        kind=_K.CBT_OFF,
        meaning="The disk's backing is not tracked.",
    ),
    FaultRule(
        name="key-refused",
        fault=vmodl.fault.InvalidArgument,
        properties=frozenset({"deviceKey"}),
        method=_QUERY,
        when="the snapshot has the disk with a change id",
        answer=_C.RESYNC,
        kind=_K.CBT_CHANGE_ID_REJECTED,
        meaning="vSphere names the key when it is the change id that it does not accept.",
    ),
    FaultRule(
        name="not-found",
        fault=vim.fault.NotFound,
        method=_QUERY,
        when="the snapshot has the disk with a change id",
        answer=_C.RESYNC,
        kind=_K.CBT_CHANGE_ID_REJECTED,
        meaning="vSphere finds nothing for the change id.",
    ),
    FaultRule(
        name="not-supported",
        fault=vmodl.fault.NotSupported,
        method=_QUERY,
        answer=_C.RESYNC,
        kind=_K.CBT_CHANGE_ID_REJECTED,
        meaning="The backing does not answer for this change id.",
    ),
    FaultRule(
        name="file-locked",
        fault=vim.fault.FileFault,
        method=_QUERY,
        answer=_C.RETRY,
        kind=_K.VSPHERE_FAULT,
        meaning="The tracking file could not be opened, or the disk is locked.",
    ),
)
"""QueryChangedDiskAreas. `startOffset` is only asked for below the capacity that the caller knows. NotFound and an invalid
`deviceKey` have several meanings, told apart by looking at the snapshot (changed_areas.py)."""

SNAPSHOT_RULES: tuple[FaultRule, ...] = (
    FaultRule(
        name="too-many-snapshots",
        fault=vim.fault.TooManySnapshotLevels,
        method=_TAKE,
        answer=_C.OPERATOR,
        kind=_K.SNAPSHOT_REFUSED,
        meaning="The VM's chain of snapshots is as long as vSphere allows (32).",
        remedy="Remove snapshots of the VM.",
    ),
    FaultRule(
        name="snapshot-fault",
        fault=vim.fault.SnapshotFault,
        method=_TAKE,
        answer=_C.RETRY,
        kind=_K.SNAPSHOT_REFUSED,
        meaning="vSphere could not take the snapshot.",
    ),
    FaultRule(
        name="vm-config-fault",
        fault=vim.fault.VmConfigFault,
        method=_TAKE,
        answer=_C.RETRY,
        kind=_K.SNAPSHOT_REFUSED,
        meaning="The VM's configuration does not allow a snapshot now.",
    ),
    FaultRule(
        name="invalid-name",
        fault=vim.fault.InvalidName,
        method=_TAKE,
        answer=_C.RETRY,
        kind=_K.SNAPSHOT_REFUSED,
        meaning="vSphere does not accept the snapshot's name.",
    ),
    FaultRule(
        name="invalid-state",
        fault=vim.fault.InvalidState,
        method=_TAKE,
        answer=_C.RETRY,
        kind=_K.SNAPSHOT_REFUSED,
        meaning="The VM is in a state in which it cannot be snapshotted, such as migrating.",
    ),
    FaultRule(
        name="snapshot-file-fault",
        fault=vim.fault.FileFault,
        method=_TAKE,
        answer=_C.RETRY,
        kind=_K.SNAPSHOT_REFUSED,
        meaning="A file of the VM could not be opened or created.",
    ),
    FaultRule(
        name="snapshot-not-supported",
        fault=vmodl.fault.NotSupported,
        method=_TAKE,
        answer=_C.OPERATOR,
        kind=_K.SNAPSHOT_REFUSED,
        meaning="The VM cannot have snapshots: independent or physical disks, fault tolerance.",
        remedy="Remove what keeps the VM from having snapshots.",
    ),
)
"""CreateSnapshot, quiesced or not."""

QUIESCE_RULES: tuple[FaultRule, ...] = (
    FaultRule(
        name="quiesce-application",
        fault=vim.fault.ApplicationQuiesceFault,
        method=_TAKE,
        answer=_C.FALL_BACK,
        kind=_K.QUIESCE_FAILED,
        meaning="A VSS writer or a freeze script of the guest failed.",
    ),
    FaultRule(
        name="quiesce-filesystem",
        fault=vim.fault.FilesystemQuiesceFault,
        method=_TAKE,
        answer=_C.FALL_BACK,
        kind=_K.QUIESCE_FAILED,
        meaning="The guest could not hold its writes back, or not for long enough.",
    ),
)
"""CreateSnapshot where the guest is to be quiesced: both faults are kinds of SnapshotFault, and stand before its row."""

CONSOLIDATION_RULES: tuple[FaultRule, ...] = (
    FaultRule(
        name="consolidation-locked",
        fault=vim.fault.FileFault,
        method=_MERGE,
        answer=_C.OPERATOR,
        kind=_K.CONSOLIDATION_STUCK,
        meaning="Something holds a disk of the VM locked, mostly a backup product.",
    ),
    FaultRule(
        name="consolidation-state",
        fault=vim.fault.InvalidState,
        method=_MERGE,
        answer=_C.OPERATOR,
        kind=_K.CONSOLIDATION_STUCK,
        meaning="The VM is in a state in which its disks cannot be merged.",
    ),
    FaultRule(
        name="consolidation-config",
        fault=vim.fault.VmConfigFault,
        method=_MERGE,
        answer=_C.OPERATOR,
        kind=_K.CONSOLIDATION_STUCK,
        meaning="The VM's configuration does not allow its disks to be merged.",
    ),
)
"""ConsolidateVMDisks."""
