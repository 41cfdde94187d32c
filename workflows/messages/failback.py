"""What the steps of reprotect and failback are asked and what they answer: references, totals and a few ranges, never a long list."""

from dataclasses import dataclass
from datetime import datetime

from deltaferry.model.replication import DiskBase, PlanRef
from workflows.messages.operator_input import AlternateLocation, TargetProperties
from workflows.messages.replication_state import DiskPosition, Replication
from workflows.messages.reverse_records import MadeVm
from workflows.messages.step import ChunkDisk, SentChunk


@dataclass(frozen=True, slots=True)
class PrepareFailbackInput:
    """Check the VM at the site, and mark it."""

    replication: Replication
    power_off: bool = False
    """Power it off where it is on; otherwise that is refused."""


@dataclass(frozen=True, slots=True)
class PreparedFailback:
    """The VM at the site is off and marked."""

    powered_off_by_us: bool
    nics_at_power_on: tuple[int, ...]
    host: str = ""
    """Whose NFC service the writes go through."""
    home: str = ""
    """A sentence where an earlier failback has brought the VM home already; then it was left as it is, on or off."""


@dataclass(frozen=True, slots=True)
class ReleaseFailbackInput:
    """Take the mark off the VM at the site."""

    replication: Replication
    home_pass: int = 0
    """Number of a failback's final pass, which is whole: the VM comes home with it. 0: it does not, and reprotect is undone."""


@dataclass(frozen=True, slots=True)
class Homecoming:
    """Whether a failback has brought the VM home."""

    home: str = ""
    """A sentence that says why it counts as home; empty where it does not."""


@dataclass(frozen=True, slots=True)
class MakeVmInput:
    """Make a VM at another place of the site."""

    replication: Replication
    """With the VM that it came from."""
    location: AlternateLocation
    instance_uuid: str
    """Which the new VM shall have: it is known before the VM is."""
    power_off: bool = False
    """Power the VM that it came from off where it is on; otherwise that is refused."""
    reconnect_nics: tuple[int, ...] = ()
    """Its adapters that the failover had disconnected at power-on: the new VM's connect."""


@dataclass(frozen=True, slots=True)
class OnMadeVm:
    """A step on the VM that was made at another place, or was to be."""

    replication: Replication
    instance_uuid: str


@dataclass(frozen=True, slots=True)
class KeepMadeVmInput:
    """The failback to another place is committed: the VM stays."""

    replication: Replication
    made: MadeVm


@dataclass(frozen=True, slots=True)
class LossesInput:
    """Find what the source wrote after the point that was failed over to."""

    replication: Replication
    bases: tuple[DiskBase, ...]
    """Of the last committed cycle."""
    given_up_bytes: int = 0
    """What cycles had changed that were committed after the point that was failed over to."""


@dataclass(frozen=True, slots=True)
class LostDisk:
    """What would be lost of one disk."""

    disk_key: int
    label: str
    written_bytes: int | None
    """Since the last committed cycle; None where change tracking cannot tell."""
    ranges: tuple[tuple[int, int], ...] = ()
    """(offset, length) of the first of them."""
    sentence: str = ""
    """Why it cannot be told; empty where it can."""


@dataclass(frozen=True, slots=True)
class Losses:
    """What reprotect would overwrite, for somebody to confirm."""

    disks: tuple[LostDisk, ...]
    given_up_bytes: int = 0

    @property
    def to_confirm(self) -> bool:
        """Whether anything is, or may be, lost."""
        return self.given_up_bytes > 0 or any(disk.written_bytes != 0 for disk in self.disks)


@dataclass(frozen=True, slots=True)
class OnTarget:
    """A step on the VM in Azure."""

    replication: Replication
    target: TargetProperties


@dataclass(frozen=True, slots=True)
class TargetSurvey:
    """The VM in Azure, matched with the disks at the site."""

    vm_id: str
    running: bool
    disks: tuple[tuple[int, str], ...]
    """(disk key, resource id of the managed disk), in disk order."""
    not_replicated: tuple[str, ...] = ()
    """A sentence for each disk that was added in Azure, and for each that has grown."""


@dataclass(frozen=True, slots=True)
class SnapshotTargetInput:
    """Take a pass's snapshots of the VM's managed disks."""

    replication: Replication
    target: TargetProperties
    cycle_key: str
    disks: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class TakenSnapshots:
    """(disk key, name) of each, and when the first was taken."""

    snapshots: tuple[tuple[int, str], ...]
    taken_at: datetime


@dataclass(frozen=True, slots=True)
class DropSnapshotsInput:
    """Delete the replication's snapshots of managed disks, but for some."""

    replication: Replication
    target: TargetProperties
    keep: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HashInput:
    """Hash the next chunk of each snapshot, from the given positions on."""

    replication: Replication
    target: TargetProperties
    cycle_key: str
    snapshots: tuple[tuple[int, str], ...]
    positions: tuple[DiskPosition, ...]


@dataclass(frozen=True, slots=True)
class HashResult:
    """Up to where each disk is hashed; the capacity at its end."""

    positions: tuple[DiskPosition, ...]


@dataclass(frozen=True, slots=True)
class CompareSiteInput:
    """Compare the next chunk of each disk at the site with the snapshots' hashes."""

    replication: Replication
    cycle_key: str
    number: int
    positions: tuple[DiskPosition, ...]


@dataclass(frozen=True, slots=True)
class ComparedSite:
    """Up to where one disk is compared, and a plan of what differs; no plan where its turn has not come."""

    disk_key: int
    position_bytes: int
    differing: PlanRef | None
    compared_bytes: int


@dataclass(frozen=True, slots=True)
class CompareSiteResult:
    """One chunk for each disk."""

    disks: tuple[ComparedSite, ...]


@dataclass(frozen=True, slots=True)
class PlanChangesInput:
    """Plan what differs between the base's snapshots and a pass's."""

    replication: Replication
    target: TargetProperties
    cycle_key: str
    snapshots: tuple[tuple[int, str], ...]
    base: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class PlannedChanges:
    """(disk key, plan) of each disk."""

    plans: tuple[tuple[int, PlanRef], ...]


@dataclass(frozen=True, slots=True)
class SendBackInput:
    """Send a chunk of a pass's segments to the log store."""

    replication: Replication
    target: TargetProperties
    cycle_key: str
    snapshots: tuple[tuple[int, str], ...]
    disks: tuple[ChunkDisk, ...]
    urgent: bool = False


@dataclass(frozen=True, slots=True)
class WriteBackInput:
    """Write a chunk to the disks at the site."""

    replication: Replication
    cycle_key: str
    number: int
    chunks: tuple[SentChunk, ...]


@dataclass(frozen=True, slots=True)
class DiscardBackInput:
    """Delete what a pass has stored."""

    replication: Replication
    cycle_key: str
