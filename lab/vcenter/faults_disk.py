"""What a virtual disk or its change tracking refuses, one class for each vSphere fault that the SOAP side maps it to.

The change-tracking ones are vSphere's own messages (facts F4): `vim.hostd.vmsvc.cbt.noTrack`, `.noEpoch` and
`.cannotGetChanges` arrive as FileFault; a bad start offset or change id as InvalidArgument.
"""

from enum import StrEnum


class DiskFault(Exception):
    """Base of everything that a lab disk refuses."""


class SnapshotGone(DiskFault):
    """The snapshot was removed, or never was one of this disk (ManagedObjectNotFound)."""


class DiskBusy(DiskFault):
    """A consolidation of the disk runs (TaskInProgress)."""


class DiskLocked(DiskFault):
    """A file of the disk is locked: its consolidation is held back, or somebody else has it open (FileFault: locked)."""


class DiskFull(DiskFault):
    """The disk's datastore has no room left (NoDiskSpace; ENOSPC to whoever writes over NBD)."""


class DiskHasSnapshots(DiskFault):
    """The disk cannot grow while a snapshot or a redo log exists (InvalidDeviceOperation)."""


class DiskClosed(DiskFault):
    """The disk was closed or deleted."""


class OutOfBounds(DiskFault):
    """An access is not made of whole sectors inside the disk."""


class TrackingFault(DiskFault):
    """Base of what QueryChangedDiskAreas refuses."""


class NoTrack(TrackingFault):
    """Change tracking was not in effect when the snapshot was taken (FileFault cbt.noTrack)."""


class NoEpoch(TrackingFault):
    """Allocated areas (`*`) cannot be told on this datastore (FileFault cbt.noEpoch)."""


class CannotGetChangesReason(StrEnum):
    """Why a change id cannot be answered; vSphere does not tell these apart, tests do."""

    OTHER_UUID = "tracking was reset since"
    UNKNOWN_EPOCH = "the epoch is not one of the snapshot's past"


class CannotGetChanges(TrackingFault):
    """The change id is not of this tracking, or not of the snapshot's past (FileFault cbt.cannotGetChanges)."""

    def __init__(self, reason: CannotGetChangesReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class CorruptTracking(TrackingFault):
    """The change-tracking file is damaged; only a reset mends it (FileFault cbt.cannotGetChanges, "corrupt")."""


class BadStartOffset(TrackingFault):
    """The start offset is negative, or not below the capacity (InvalidArgument startOffset)."""


class BadChangeId(TrackingFault):
    """The change id is not `*` and does not have the form of one (InvalidArgument changeId)."""
