"""What the stand-ins for activities find and remember: one world for each site, which tests script and read.

A world remembers every call with its input, fails what it is told to fail, and holds what it is told to hold.
"""

import asyncio
import contextlib
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from deltaferry.model.errors import ErrorKind
from deltaferry.model.quiescing import QuiesceAnswer, QuiesceOutcome
from deltaferry.model.recovery_points import PointCopy, PointKind, RecoveryPointRecord
from deltaferry.model.replication import CycleKind, ObjectRef, PlanRef, ReplicatedDisk, Store
from deltaferry.model.units import GRANULE
from tests.workflows.ledger import Ledger
from workflows.messages.failback import LostDisk
from workflows.messages.point_views import NEWEST, PointList, PointView
from workflows.messages.replication_state import ReplicateVmInput, Replication
from workflows.messages.site import FindingView, Placement, SiteProfile
from workflows.messages.step import ComparedDisk, CompareDisk

APPLIANCE = "appliance-of-the-tests"
TARGET = "target-of-the-tests"
NICS = (4000, 4001)
PLACEMENT = Placement("esx-01", (("datastore-01", 2),))
DISKS = (
    ReplicatedDisk(2000, "6000c290-boot", "Hard disk 1", 1 << 30, True),
    ReplicatedDisk(2001, "6000c290-data", "Hard disk 2", (512 << 20) + 37 * 512, False),
)

QUIESCED = QuiesceOutcome(QuiesceAnswer.QUIESCED, PointKind.APP_CONSISTENT, "The guest was quiesced.")

_BEAT_S = 0.1
"""How often a held activity heartbeats: a cancellation reaches it by that alone."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """One activity execution: retries are calls of their own."""

    activity: str
    vm: str
    request: Any


@dataclass(slots=True)
class Hold:
    """Keeps the calls of an activity inside until they are released."""

    activity: str
    vm: str | None
    deaf: bool = False
    """Without a heartbeat, so that no cancellation reaches it."""
    skip: int = 0
    """So many calls pass before."""
    _reached: asyncio.Event = field(default_factory=asyncio.Event)
    _released: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def was_reached(self) -> bool:
        """Whether a call was held."""
        return self._reached.is_set()

    async def reached(self) -> None:
        """Wait until a call is held."""
        async with asyncio.timeout(120):
            await self._reached.wait()

    def release(self) -> None:
        """Let go, for good."""
        self._released.set()

    async def pass_through(self) -> None:
        """Wait inside an activity until released, or cancelled."""
        self._reached.set()
        while not self._released.is_set():
            if not self.deaf:
                activity.heartbeat()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_BEAT_S):
                    await self._released.wait()


@dataclass(slots=True)
class Failure:
    """A scripted failure; `skip` calls pass before it."""

    kind: ErrorKind
    message: str
    number: int | None
    skip: int
    datastores: tuple[str, ...] = ()


@dataclass(slots=True)
class World:
    """What the activities of one site find, and what they did."""

    profile: SiteProfile
    calls: list[Call] = field(default_factory=list)
    disks: tuple[ReplicatedDisk, ...] = DISKS
    disks_changed: str = ""
    """What happened to the disks since they were enabled; where it says something, `disks` are those to go on with."""
    source_findings: tuple[FindingView, ...] = ()
    target_findings: tuple[FindingView, ...] = ()
    segments: dict[CycleKind, int] = field(default_factory=dict)
    """Segments of each disk's plan, one chunk each; one where a kind is not named."""
    differing: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """Disk key to the offsets of the source's granules that are not as the checksum map says; a sealed resync mends them."""
    damaged: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """Disk key to the offsets of the seed's granules that are not as the checksum map says; a sealed resync mends them."""
    check_bytes: int = 1 << 40
    """How much of a disk one check of the seeds gets through."""
    compare_bytes: int = 1 << 40
    """How much of a disk one comparison of the source gets through."""
    ballast: str = ""
    """Lengthens the names of what checks store, so that a history grows quickly."""
    off_hours: timedelta | None = None
    """How long after the instant asked for the off-hours window starts; None: the site has none, and resyncs wait for repair."""
    holders: tuple[str, ...] = ()
    """Workflows that run when an arbiter starts afresh."""
    live_appliances: tuple[str, ...] = ()
    """Appliances that answer again when asked."""
    snapshots_left: int = 0
    """On the VM of a holder that does not run any more."""
    points: list[RecoveryPointRecord] = field(default_factory=list)
    """The recovery points, oldest first."""
    pins: dict[str, str] = field(default_factory=dict)
    """Holder to the cycle key of the point that it has pinned."""
    copies: dict[str, tuple[PointCopy, ...]] = field(default_factory=dict)
    """Job to its copies of a point's disks."""
    vms: dict[str, str] = field(default_factory=dict)
    """Job to the name of the VM that it has made from a recovery point."""
    ledger: Ledger = field(default_factory=Ledger)
    """What the disks of all these hold."""
    losses: tuple[LostDisk, ...] = ()
    """What the source wrote that a failover gave up."""
    not_replicated: tuple[str, ...] = ()
    """What replication back to the site says of the VM in Azure."""
    pass_segments: int = 1
    """Segments of the plan of each pass back to the site."""
    azure_behind: timedelta = timedelta(0)
    """How long ago the snapshots of a pass were taken when they are."""
    released: bool = False
    """A failback has taken the mark off the VM at the site: if that is on, it is home."""
    elsewhere: Placement | None = None
    """Where the VMs have been moved to."""
    powered_on: bool = True
    quiesced: QuiesceOutcome = QUIESCED
    """What comes of it where a cycle has the guest quiesced."""
    without_snapshot: bool = False
    """Final cycles of a source that is off get no snapshot, and read without one."""
    snapshots: dict[str, str] = field(default_factory=dict)
    """VM name to its held snapshot."""
    no_snapshot_of: dict[str, ErrorKind] = field(default_factory=dict)
    """VM name to why the next snapshot of its group cannot be taken of it."""
    together: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Cycle key to the snapshot that was taken together with those of its group, and its epoch."""
    spread: timedelta = timedelta(milliseconds=20)
    """Between the snapshots of one member of a group and the next."""
    most_snapshots: int = 0
    """The most VMs that held a snapshot at a time."""
    seed_number: Counter[str] = field(default_factory=Counter)
    """Replication id to the number on its seed disks."""
    made_at_site: dict[str, str] = field(default_factory=dict)
    """Instance UUID to name of each VM that was made at another place, and neither deleted nor kept for good."""
    kept_at_site: list[str] = field(default_factory=list)
    """Instance UUIDs of those that stay."""
    pristine: bool = True
    """Nobody writes to the disks of such a VM before the first pass."""
    records: dict[str, ReplicateVmInput] = field(default_factory=dict)
    """Replication id to its commit record."""
    page_records: int = 1000
    """So many commit records are read at a time."""
    archived: list[str] = field(default_factory=list)
    """Run ids whose histories were archived."""
    delays: dict[str, Callable[[Any], timedelta]] = field(default_factory=dict)
    """Activity to how long it takes in the server's time: its first attempt ends at once, the second comes after that."""
    _failures: dict[str, deque[Failure]] = field(default_factory=lambda: defaultdict(deque))
    _holds: list[Hold] = field(default_factory=list)
    _epoch: int = 0
    _mending: set[str] = field(default_factory=set)
    """Keys of the resync passes that have planned what to send."""

    # --- scripting ---

    def fail(
        self,
        step: str,
        kind: ErrorKind,
        *,
        times: int = 1,
        skip: int = 0,
        number: int | None = None,
        message: str = "scripted by the test",
        datastores: tuple[str, ...] = (),
    ) -> None:
        """Fail the next calls of an activity, for good each: as if its own retries were used up. `skip` calls pass first.

        `datastores` are those that a full datastore's error names.
        """
        self._failures[step].extend(
            Failure(kind, message, number, skip if index == 0 else 0, datastores) for index in range(times)
        )

    def hold(self, step: str, vm: str | None = None, *, deaf: bool = False, skip: int = 0) -> Hold:
        """Hold the calls of an activity (of one VM, if given) from now on until released; a deaf one hears no cancellation.

        `skip` calls pass first.
        """
        hold = Hold(step, vm, deaf, skip)
        self._holds.append(hold)
        return hold

    def forgive(self) -> None:
        """Take back the scripted failures that no call has met."""
        self._failures.clear()

    def let_go(self) -> None:
        """Release every hold: nothing of a test that is over stays inside an activity."""
        for hold in self._holds:
            hold.release()

    # --- reading ---

    @property
    def epoch(self) -> int:
        """The number of the last snapshot that was taken."""
        return self._epoch

    def count(self, step: str) -> int:
        """Return how often an activity was called."""
        return sum(call.activity == step for call in self.calls)

    def inputs(self, step: str, kind: type[T]) -> list[T]:
        """Return the inputs of an activity's calls, in order."""
        found = [call.request for call in self.calls if call.activity == step]
        assert all(isinstance(request, kind) for request in found)
        return found

    def order(self, steps: Iterable[str]) -> list[str]:
        """Return the names of the calls of the given activities, in order."""
        wanted = set(steps)
        return [call.activity for call in self.calls if call.activity in wanted]

    # --- what activities do ---

    async def enter(self, step: str, vm: str, request: object) -> None:
        """Note a call, then hold or fail it as scripted."""
        self.calls.append(Call(step, vm, request))
        for hold in self._holds:
            if hold.activity == step and hold.vm in (None, vm):
                if hold.skip:
                    hold.skip -= 1
                else:
                    await hold.pass_through()
        failures = self._failures[step]
        if failures and failures[0].skip == 0:
            failure = failures.popleft()
            raise scripted_error(failure.kind, failure.message, failure.number, failure.datastores)
        if failures:
            failures[0].skip -= 1
        if step in self.delays and activity.info().attempt == 1:
            raise ApplicationError(
                "takes its time", next_retry_delay=self.delays[step](request), category=ApplicationErrorCategory.BENIGN
            )

    def take_snapshot(self, vm: str) -> tuple[str, int]:
        """Return a new snapshot of a VM and the epoch of its change ids."""
        self._epoch += 1
        self.snapshots[vm] = f"snapshot-{self._epoch}"
        self.most_snapshots = max(self.most_snapshots, len(self.snapshots))
        return self.snapshots[vm], self._epoch

    def known_to_differ(self, disk_key: int, begin: int, end: int, *, source_too: bool) -> tuple[int, ...]:
        """Return the offsets of a part of a disk at which the seed, or else the source too, is not as the checksum map says."""
        known = {*self.damaged.get(disk_key, ()), *(self.differing.get(disk_key, ()) if source_too else ())}
        return tuple(sorted(offset for offset in known if begin <= offset < end))

    def will_mend(self, cycle_key: str) -> None:
        """Note that a pass sends what differs."""
        self._mending.add(cycle_key)

    def sealed(self, cycle_key: str) -> None:
        """Mend what a resync pass has sent, now that it is sealed."""
        if cycle_key in self._mending:
            self.differing, self.damaged = {}, {}

    def write_seed(self, replication: Replication, number: int) -> None:
        """Set the number on the seeds, as action `max` does; refuse a writer whose number is behind."""
        key = replication.ref.replication_id
        if number < self.seed_number[key]:
            raise scripted_error(ErrorKind.FENCED, f"the seed carries {self.seed_number[key]}", self.seed_number[key])
        self.seed_number[key] = number


def scripted_error(kind: ErrorKind, message: str, number: int | None, datastores: tuple[str, ...] = ()) -> ApplicationError:
    details = (number, list(datastores)) if datastores else (number,)
    return ApplicationError(message, *details, type=kind.value, non_retryable=True, category=ApplicationErrorCategory.BENIGN)


def require_free(world: World, job: str, name: str) -> None:
    """Refuse disks of a name that another job's have: they are not taken over, and not replaced."""
    other = world.ledger.in_the_way(job, name)
    if other:
        raise scripted_error(ErrorKind.AZURE_CONFLICT, f"The disks of {name} exist, and {other} has made them.", None)


def new_profile(
    site: str,
    *,
    min_interval: timedelta = timedelta(hours=1),
    disks_per_appliance: int = 52,
    scrub_every: timedelta = timedelta(0),
) -> SiteProfile:
    """Return a site's profile with the defaults of the spec."""
    return SiteProfile(
        installation="tests",
        site=site,
        appliance=APPLIANCE,
        target=TARGET,
        min_interval=min_interval,
        max_interval=timedelta(hours=12),
        disks_per_appliance=disks_per_appliance,
        disks_per_host=8,
        snapshots_per_datastore=15,
        scrub_every=scrub_every,
    )


def stored(key: str) -> ObjectRef:
    return ObjectRef(Store.GATEWAY, f"container/{key}", "etag")


def plan_of(cycle_key: str, disk_key: int, what: str, granules: int, segments: int = 1) -> PlanRef:
    """Return a plan of so many granules; without any it has no segment."""
    size = granules * GRANULE
    return PlanRef(stored(f"{cycle_key}/{disk_key}/{what}"), segments if granules else 0, size, size)


def compared(world: World, cycle_key: str, disk: CompareDisk) -> ComparedDisk:
    end = min(disk.position_bytes + world.compare_bytes, disk.end_bytes)
    differing = world.known_to_differ(disk.disk_key, disk.position_bytes, end, source_too=True)
    plan = plan_of(cycle_key, disk.disk_key, f"differs-{disk.position_bytes}", len(differing))
    return ComparedDisk(disk.disk_key, end, plan, end - disk.position_bytes)


def listed(points: list[RecoveryPointRecord]) -> PointList:
    """Return what a listing says of points."""
    views = [
        PointView(point.cycle_key, point.kind, point.taken_at, point.fence, point.changed_bytes, note=point.note)
        for point in points
    ]
    app_consistent = [view for view in views if view.kind is PointKind.APP_CONSISTENT]
    return PointList(
        book=ObjectRef(Store.GATEWAY, "points.json", "1"),
        total=len(views),
        app_consistent=len(app_consistent),
        pinned=0,
        newest=tuple(reversed(views[-NEWEST:])),
        latest_app_consistent=app_consistent[-1] if app_consistent else None,
        oldest_at=views[0].taken_at if views else None,
    )


class OnWorlds:
    """What all stand-ins share: which world a call belongs to is decided by its site."""

    def __init__(self) -> None:
        self.worlds: dict[str, World] = {}

    def all(self) -> list[Callable[..., Any]]:
        """Return the activities for a worker."""
        return [step for name in dir(self) if hasattr(step := getattr(self, name), "__temporal_activity_definition")]

    def _site(self, site: str) -> World:
        if site not in self.worlds:
            raise scripted_error(ErrorKind.BAD_INPUT, f"There is no site {site!r}.", None)
        return self.worlds[site]

    async def _on(self, step: str, replication: Replication, request: object) -> World:
        world = self._site(replication.ref.site)
        await world.enter(step, replication.vm_name, request)
        return world
