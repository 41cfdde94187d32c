"""What holders and the arbiter of slots say to each other, and the arbiter's state."""

from dataclasses import dataclass, field
from datetime import datetime

from deltaferry.model.replication import CycleKind
from workflows.site_messages import Placement, SiteProfile


@dataclass(frozen=True, slots=True)
class SlotsWanted:
    """A request to the arbiter; the same holder and request id again is the same request."""

    holder: str
    request_id: str
    kind: CycleKind
    appliance: str
    disks: int
    placement: Placement = field(default_factory=Placement)


@dataclass(frozen=True, slots=True)
class SlotsGranted:
    """The arbiter's grant, with the site's settings of now."""

    request_id: str
    lease_id: str
    profile: SiteProfile


@dataclass(frozen=True, slots=True)
class SlotsReleased:
    """A holder gives back a lease, or takes back a request that it no longer waits for."""

    holder: str
    request_id: str


@dataclass(slots=True)
class SlotsState:
    """The arbiter's state over continue-as-new."""

    profile: SiteProfile
    waiting: tuple["WaitingRequest", ...] = ()
    leases: tuple["HeldLease", ...] = ()
    tickets: int = 0


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
