"""What holders and the arbiter of slots say to each other, and the arbiter's state."""

from dataclasses import dataclass, field
from datetime import datetime

from deltaferry.model.replication import CycleKind
from workflows.messages.site import Placement, SiteProfile


@dataclass(frozen=True, slots=True)
class SlotsPart:
    """What a member of a replication group needs, as a part of the group's one request."""

    request_id: str
    """Of the part: the member takes it over under this id."""
    replication: str
    """Workflow id of the member."""
    disks: int
    placement: Placement


@dataclass(frozen=True, slots=True)
class SlotsWanted:
    """A request to the arbiter; the same holder and request id again is the same request."""

    holder: str
    request_id: str
    kind: CycleKind
    appliance: str
    disks: int
    placement: Placement = field(default_factory=Placement)
    replication: str = ""
    """Workflow id of the replication that the holder is, or works for."""
    turn: int = 0
    """How often its transfer has given way at a chunk's end, keeping its snapshots: from 1 on it asks for transfer slots
    alone. A grant of an earlier turn does not count."""
    whatever_window: bool = False
    """It starts inside a blackout window too: a migration that was accepted before waits for it."""
    group: str = ""
    """Workflow id of the replication group for which it is; with the group's own id as `holder`, nobody has taken it over."""
    parts: tuple[SlotsPart, ...] = ()
    """What a group's request consists of: all of it is granted at once, or nothing. The lease of each part is one of its own."""


@dataclass(frozen=True, slots=True)
class SlotsGranted:
    """The arbiter's grant, with the site's settings of now."""

    request_id: str
    lease_id: str
    profile: SiteProfile
    turn: int = 0


@dataclass(frozen=True, slots=True)
class SlotsReleased:
    """A holder gives back a lease, or takes back a request that it no longer waits for."""

    holder: str
    request_id: str
    short_of_space: tuple[str, ...] = ()
    """Datastores that were found below their threshold."""
    snapshot_left: bool = False
    """The snapshot could not be removed: its slots count until it is known to be gone."""


@dataclass(frozen=True, slots=True)
class SlotsAskedBack:
    """The arbiter asks a holder to give way at its chunk's end."""

    request_id: str
    why: str = ""
    """For whom or for what, in words."""


@dataclass(frozen=True, slots=True)
class SlotsAnnounced:
    """What a holder has and waits for, for an arbiter that starts afresh."""

    holder: str
    replication: str
    appliance: str
    wanted: SlotsWanted | None = None
    """What it has or waits for; None: nothing."""
    lease_id: str = ""
    """Empty while it waits for its first grant."""
    waits: bool = False
    """It waits for `wanted`; with a lease, for that one's transfer slots."""


@dataclass(frozen=True, slots=True)
class SlotsDelayed:
    """The arbiter cannot take a replication up yet, and says why."""

    request_id: str
    sentence: str


@dataclass(frozen=True, slots=True)
class ApplianceSilent:
    """A holder says that nobody on an appliance's queue took up its transfer in time."""

    appliance: str


@dataclass(frozen=True, slots=True)
class ReplicationLeft:
    """A replication has ended: it no longer counts."""

    replication: str


@dataclass(frozen=True, slots=True)
class WaitingRequest:
    """A request in the arbiter's queue."""

    wanted: SlotsWanted
    ticket: int
    requested_at: datetime


@dataclass(frozen=True, slots=True)
class HeldLease:
    """A lease that a holder has."""

    wanted: SlotsWanted
    lease_id: str
    granted_at: datetime
    gave_way: bool = False
    """Its transfer slots were given back at a chunk's end; its snapshots are still held."""
    asked_back: bool = False
    """The holder was asked to give way."""
    holder_gone: bool = False
    """Nobody works under it: the holder does not run any more, or could not remove its snapshot. Its snapshots count until
    they are known to be gone, or the replication asks again: then they are that request's."""


@dataclass(slots=True)
class SlotsState:
    """The arbiter's state over continue-as-new."""

    profile: SiteProfile
    waiting: tuple[WaitingRequest, ...] = ()
    leases: tuple[HeldLease, ...] = ()
    tickets: int = 0
    learned: bool = False
    """Who holds what is known: only then is anything granted."""
    assigned: dict[str, str] = field(default_factory=dict)
    """Replication to appliance."""
    silent: tuple[str, ...] = ()
    """Appliances on whose queue nobody answers."""
    short_of_space: tuple[str, ...] = ()
    """Datastores that were last found below their threshold."""
