"""What disks hold in a world of stand-ins, as content ids: a strict account of what workflows have made of it.

The source's content has a number, which rises with each snapshot: the guest always writes. A seed holds the number that it
was last sealed with, as long as everything was covered that had been applied to it; a point, its copies and the VM made of
them hold the seed's. On the way back the VM in Azure has a version, which rises with each pass.

What a real side would refuse, a stand-in refuses; what it could not know, it notes as a fault, and tests of random
operations find none.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from deltaferry.model.recovery_points import RecoveryPointRecord


@dataclass(slots=True)
class CloudVm:
    """What a job has made in Azure: disks, and a VM once it is created."""

    name: str
    content: int
    created: bool = False
    running: bool = False


@dataclass(slots=True)
class _Pass:
    """A cycle or resync that has begun."""

    epoch: int
    base: int | None
    """From which content on it covers everything; None: it compares all there is."""
    covered: frozenset[str]
    """Cycles whose areas it covers besides."""

    def covers(self, other: "_Pass") -> bool:
        """Whether all that another one may have written is in what this one goes through: it goes on from as far back."""
        return self.base is None or (other.base is not None and other.base >= self.base)


@dataclass(slots=True)
class Ledger:
    """The account of one VM's world."""

    faults: list[str] = field(default_factory=list)
    points: dict[str, int] = field(default_factory=dict)
    """Cycle key to the source's content when its snapshot was taken."""
    snapshots: dict[str, int] = field(default_factory=dict)
    """The seeds' snapshots: the id, which all disks of a point share, to the content."""
    copies: dict[str, int] = field(default_factory=dict)
    """Job to the content of its copies."""
    cloud: dict[str, CloudVm] = field(default_factory=dict)
    """Job to what it has made."""
    disk_snapshots: dict[str, int] = field(default_factory=dict)
    """Snapshot of a managed disk to the version of the VM in Azure that it holds."""
    marked: bool = False
    """The VM at the site is marked: its disks are written to."""
    azure_version: int = 0
    site_version: int | None = None
    """Which version the disks at the site hold; None: they are the source's own."""
    _seed: int = 0
    _applied: set[str] = field(default_factory=set)
    _begun: dict[str, _Pass] = field(default_factory=dict)
    _misled_until: int = -1
    """Change tracking tells nothing from before this content: the disks were written to behind it."""
    _reverse: dict[str, tuple[int | None, int]] = field(default_factory=dict)
    """Pass to the version that it goes on from, and to the one that it brings."""

    def fault(self, sentence: str) -> None:
        """Note what no right procedure does."""
        self.faults.append(sentence)

    # --- to Azure ---

    def starts_with(self, point: RecoveryPointRecord) -> None:
        """Begin where a replication has one point, of content 0."""
        self.points[point.cycle_key] = self._seed = 0
        self.snapshots.update({disk.snapshot: 0 for disk in point.disks})

    def began(self, cycle_key: str, epoch: int, bases: Iterable[str | None], dirty: Iterable[str]) -> None:
        """Take note of a cycle: its snapshot, the change ids that it goes on from, and the plans that it covers besides."""
        known = [_epoch_of(base) for base in bases]
        base = None if None in known else min((one for one in known if one is not None), default=None)
        if base is not None and base <= self._misled_until:
            self.fault(f"cycle {cycle_key} trusts change tracking from before the disks were written to")
        self._note_begun(cycle_key, epoch, base, dirty)

    def began_resync(self, cycle_key: str, epoch: int, dirty: Iterable[str]) -> None:
        """Take note of a resync pass, which compares everything."""
        self._note_begun(cycle_key, epoch, None, dirty)

    def _note_begun(self, cycle_key: str, epoch: int, base: int | None, dirty: Iterable[str]) -> None:
        if self.marked:
            self.fault(f"cycle {cycle_key} takes a snapshot of a VM whose disks are being written to")
        self._begun[cycle_key] = _Pass(epoch, base, frozenset(key for name in dirty for key in name.split("/")))

    def applied(self, cycle_key: str) -> None:
        """Take note that a cycle has written to the seed."""
        self._applied.add(cycle_key)

    def sealed(self, cycle_key: str, snapshots: Iterable[str]) -> None:
        """Take the point of a cycle."""
        begun = self._begun[cycle_key]
        torn = {key for key in self._applied - begun.covered - {cycle_key} if not begun.covers(self._begun[key])}
        if (begun.base is not None and begun.base > self._seed) or torn:
            self.fault(f"cycle {cycle_key} sealed a seed of {self._seed} from {begun.base}, and left {sorted(torn)} uncovered")
        self._seed = self.points[cycle_key] = begun.epoch
        self._applied.clear()
        self.snapshots.update(dict.fromkeys(snapshots, begun.epoch))

    def pruned(self, left: Iterable[RecoveryPointRecord]) -> None:
        """Delete the snapshots of all points but those that are left."""
        kept = {disk.snapshot for point in left for disk in point.disks}
        self.snapshots = {name: content for name, content in self.snapshots.items() if name in kept}

    def copied(self, job: str, point: RecoveryPointRecord, *, pinned: bool) -> None:
        """Copy a point's disks."""
        held = {self.snapshots.get(disk.snapshot) for disk in point.disks}
        if not pinned:
            self.fault(f"{job} copies {point.cycle_key}, which is not pinned")
        if held != {self.points.get(point.cycle_key)}:
            self.fault(f"point {point.cycle_key} holds {held} instead of {self.points.get(point.cycle_key)}")
        self.copies[job] = self.points.get(point.cycle_key, -1)

    # --- in Azure ---

    def in_the_way(self, job: str, name: str) -> str:
        """Return which other job's disks have a VM's name; empty if none's do."""
        return next((other for other, made in self.cloud.items() if made.name == name and other != job), "")

    def imported(self, job: str, name: str, content: int | None = None) -> None:
        """Make managed disks: of a job's copies, or of the sealed seed."""
        if content is None and self._applied:
            self.fault(f"{job} imports a seed that {sorted(self._applied)} have written to and not sealed")
        made = self._seed if content is None else content
        self.cloud.setdefault(job, CloudVm(name, made))

    def created(self, job: str) -> None:
        """Create the VM."""
        if job in self.cloud:
            self.cloud[job].created = self.cloud[job].running = True

    def runs(self, name: str, *, running: bool) -> None:
        """Start or stop the VM of a name."""
        for made in self.cloud.values():
            if made.name == name and made.created:
                made.running = running

    # --- back to the site ---

    def snapshot_azure(self, name: str, cycle_key: str, snapshots: Iterable[str]) -> None:
        """Take the snapshots of a pass; a VM that runs has written since the last ones."""
        self.azure_version += any(made.running for made in self.cloud.values() if made.name == name)
        self.disk_snapshots.update(dict.fromkeys(snapshots, self.azure_version))
        self._reverse[cycle_key] = (None, self.azure_version)

    def planned_back(self, cycle_key: str, base: Iterable[str]) -> None:
        """Let a pass go on from the snapshots of another."""
        versions = {self.disk_snapshots.get(name) for name in base}
        if None in versions or len(versions) != 1:
            self.fault(f"pass {cycle_key} goes on from snapshots that are gone")
        self._reverse[cycle_key] = (min((one for one in versions if one is not None), default=0), self._brings(cycle_key))

    def can_write_back(self, cycle_key: str) -> bool:
        """Return whether the disks at the site are as we left them, which a delta needs."""
        base, _ = self._reverse.get(cycle_key, (None, 0))
        return base is None or (self.site_version is not None and self.site_version >= base)

    def wrote_back(self, cycle_key: str, epoch: int) -> None:
        """Write a pass to the disks at the site."""
        if not self.marked:
            self.fault(f"pass {cycle_key} writes to disks at the site that are not marked")
        self.site_version = self._brings(cycle_key)
        self._misled_until = epoch

    def _brings(self, cycle_key: str) -> int:
        return self._reverse.get(cycle_key, (None, 0))[1]

    def powered_on_at_the_site(self, name: str) -> None:
        """Power the source on."""
        if self.marked:
            self.fault("the VM at the site is powered on while its disks are written to")
        if any(made.running and made.name == name for made in self.cloud.values()):
            self.fault("the VM at the site is powered on while the one in Azure runs")
        if self.site_version is not None and self.site_version != self.azure_version:
            self.fault(f"the VM at the site is powered on with {self.site_version} of {self.azure_version}")

    def forgot_the_site(self) -> None:
        """Take the disks at the site for the source's own again."""
        self.site_version = None


def _epoch_of(change_id: str | None) -> int | None:
    return int(change_id.rpartition("/")[2]) if change_id else None
