"""What can be set while the lab runs: times, and what is denied to everybody."""

from dataclasses import dataclass, field, fields, replace


@dataclass(frozen=True, slots=True)
class Times:
    """How long things take, in seconds. A real vCenter's are longer; the rules are the same."""

    stun_s: float = 0.05
    """How long a VM stands still when a snapshot is taken or removed."""
    snapshot_s: float = 0.2
    """CreateSnapshot, stun included."""
    consolidation_s: float = 0.3
    """Merging the deltas of one VM's disks back."""
    shutdown_s: float = 0.5
    """From ShutdownGuest to powered off."""
    power_s: float = 0.1
    """PowerOn, PowerOff and Reset."""
    reconfigure_s: float = 0.05
    """ReconfigVM."""
    session_idle_s: float = 1800.0
    """A session that is idle for longer is gone (facts B3: 30 minutes)."""
    quiesce_minute_s: float = 60.0
    """A minute of the time limit that a quiesced snapshot's caller gives the guest."""
    task_retention_s: float = 600.0
    """How long a finished task can still be read."""
    datastore_update_s: float = 600.0
    """After how long vCenter looks by itself how much room a datastore has."""

    def changed(self, values: dict[str, float]) -> "Times":
        """Return these times with some replaced. Raises ValueError for a name there is not, or a negative time."""
        names = {item.name for item in fields(self)}
        for name, value in values.items():
            if name not in names:
                raise ValueError(f"there is no time called {name}; there are {', '.join(sorted(names))}")
            if value < 0:
                raise ValueError(f"{name} cannot be negative")
        return replace(self, **values)


@dataclass(slots=True)
class Denials:
    """What the lab's users may not do or see."""

    privileges: set[str] = field(default_factory=set)
    """Privilege ids that HasPrivilegeOnEntities answers with no, and whose methods raise NoPermission."""
    properties: set[str] = field(default_factory=set)
    """Property paths that come back in an object's missingSet with NoPermission."""


@dataclass(slots=True)
class Answers:
    """How QueryChangedDiskAreas pages its answers; what differs by disk is in the disk's `tracking.behaviour`."""

    page_limit_areas: int = 2000
