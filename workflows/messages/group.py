"""What a replication group and its members say to each other, and what the group remembers and shows.

All of it passes by signals, which have no answer: each message names what it belongs to, and one that is repeated or comes
too late changes nothing.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from deltaferry.model.errors import ErrorKind
from deltaferry.model.recovery_points import SharedPoint
from deltaferry.planning.replication_group import GroupRules
from workflows.messages.replication_state import Refusal, Replication
from workflows.messages.site import Placement, SiteProfile

# --- from the group to a member ---


@dataclass(frozen=True, slots=True)
class GroupJoin:
    """A group asks a replication to be its member."""

    group: str
    """The group's workflow id."""
    request_id: str


@dataclass(frozen=True, slots=True)
class GroupLeft:
    """The replication is no member of the group any more."""

    group: str


@dataclass(frozen=True, slots=True)
class GroupHold:
    """Hold still for a shared point: end what runs, begin nothing, and say so."""

    group: str
    key: str
    """Of the point."""
    until: datetime
    """Nothing of the group is waited for after this time."""


@dataclass(frozen=True, slots=True)
class GroupGo:
    """The snapshots are taken: run a cycle from yours."""

    group: str
    key: str
    cycle_key: str
    """Of the member's cycle: its snapshot has this name."""
    slots: str
    """Id of the member's part of the group's slots."""
    shared_key: str
    """For the point's record: `key`, or empty where the snapshots are too far apart."""
    alone_from: datetime
    """The group asks again before then: no cycle of the member's own is due until that time."""


@dataclass(frozen=True, slots=True)
class GroupRelease:
    """There will be no such point: go alone."""

    group: str
    key: str


@dataclass(frozen=True, slots=True)
class GroupAsks:
    """The group has not heard what became of the member's part of a point."""

    group: str
    key: str


@dataclass(frozen=True, slots=True)
class SharedPointMade:
    """Every member has committed its part of the point."""

    group: str
    point: SharedPoint


# --- from a member to the group ---


@dataclass(frozen=True, slots=True)
class MemberAnswer:
    """What a replication says to being asked to join."""

    member: str
    request_id: str
    accepted: bool
    sentence: str
    vm: str = ""
    disks: int = 0
    placement: Placement = field(default_factory=Placement)
    profile: SiteProfile | None = None
    retention: timedelta | None = None


@dataclass(frozen=True, slots=True)
class MemberReady:
    """A member holds still, or says why it does not."""

    member: str
    key: str
    ready: bool
    sentence: str = ""
    replication: Replication | None = None
    profile: SiteProfile | None = None
    placement: Placement = field(default_factory=Placement)
    cycle_key: str = ""
    """Minted for the cycle of this point."""
    expected_growth: tuple[tuple[int, int], ...] = ()
    retention: timedelta | None = None


@dataclass(frozen=True, slots=True)
class MemberEnded:
    """What became of a member's part of a point."""

    member: str
    key: str
    committed: bool
    sentence: str = ""
    untouched: bool = False
    """It began no cycle: the group is to remove the snapshot."""
    left: bool = False
    """The member replicates no more, or was told to leave."""


# --- activities ---


@dataclass(frozen=True, slots=True)
class TogetherMember:
    """One VM of which a snapshot is taken with others."""

    replication: Replication
    cycle_key: str
    granted: Placement
    """Where the VM was when slots were granted: if it is elsewhere now, no snapshot is taken of any."""
    expected_growth: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class TogetherInput:
    """Take a snapshot of each of these VMs of one site, at once."""

    key: str
    members: tuple[TogetherMember, ...]


@dataclass(frozen=True, slots=True)
class TakenMember:
    """A member's snapshot, or why it has none."""

    cycle_key: str
    taken_at: datetime | None
    """By vCenter's clock; None: it has none."""
    failure: ErrorKind | None = None
    sentence: str = ""
    short_of_space: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TakenTogether:
    """What was taken, in the order asked for."""

    members: tuple[TakenMember, ...]


# --- what the group remembers, and shows ---


@dataclass(frozen=True, slots=True)
class GroupMember:
    """A member of a group."""

    replication: str
    """Its workflow id."""
    vm: str
    disks: int = 0
    placement: Placement = field(default_factory=Placement)
    retention: timedelta | None = None
    """Of its policy, as last told; None: only its latest recovery point is kept."""


@dataclass(frozen=True, slots=True)
class PointAttempt:
    """A shared point that was tried for."""

    key: str
    began_at: datetime
    ended_at: datetime
    shared: bool
    spread: timedelta | None
    """None: no snapshots were taken."""
    sentence: str


@dataclass(slots=True)
class GroupState:
    """A group's state over continue-as-new."""

    rules: GroupRules
    members: tuple[GroupMember, ...] = ()
    profile: SiteProfile | None = None
    """The site's settings as a member last told them."""
    points: tuple[SharedPoint, ...] = ()
    """Those that every member keeps, oldest first."""
    attempts: tuple[PointAttempt, ...] = ()
    """The last ones, newest last."""
    minted: int = 0
    next_at: datetime | None = None
    why_no_member: tuple[str, ...] = ()
    """Who left the group by itself lately, and why."""
    last_refused: Refusal | None = None
    """The last change that was asked for by a signal and refused."""


@dataclass(frozen=True, slots=True)
class GroupView:
    """The answer of a group's query `status`."""

    name: str
    site: str
    activity: str
    members: tuple[GroupMember, ...]
    interval: timedelta
    wait: timedelta
    max_spread: timedelta
    next_at: datetime | None
    points: tuple[SharedPoint, ...]
    """Newest first: those that a failover is offered."""
    attempts: tuple[PointAttempt, ...]
    """Newest first."""
    warnings: tuple[str, ...]
    allowed: tuple[str, ...]
    last_refused: Refusal | None = None


@dataclass(frozen=True, slots=True)
class GroupResult:
    """How a group ended."""

    group: str
    members: tuple[str, ...]
    sentence: str
