"""The life of a VM in a simulation: what its running cycle has reached, and what comes next."""

from dataclasses import dataclass
from enum import StrEnum

from deltaferry.planning.simulation_links import Lane
from deltaferry.planning.simulation_site import SimulatedSite, SimulatedVm, changed_bytes, written_bytes
from deltaferry.planning.slots import Priority


class Stage(StrEnum):
    """Where a VM's replication stands."""

    NOT_ENABLED = "not enabled"
    NO_APPLIANCE = "waits for an appliance"
    IDLE = "idle"
    WAITING = "waits for slots"
    SNAPSHOT = "takes its snapshot"
    SENDING = "sends"
    GAVE_WAY = "gave way"
    CONSOLIDATING = "consolidates"
    MIGRATED = "migrated"


class Asked(StrEnum):
    """What was asked for beside the schedule."""

    NOTHING = "nothing"
    RESYNC = "resync"
    ON_DEMAND = "on-demand delta"
    FINAL = "final delta"


@dataclass(slots=True)
class Life:
    """A VM and its replication."""

    number: int
    vm: SimulatedVm
    stage: Stage = Stage.NOT_ENABLED
    appliance: str = ""
    asked: Asked = Asked.NOTHING
    token: int = 0
    """Raised with every stage: an event that was planned for an earlier one is void."""
    kind: Priority = Priority.INITIAL
    """Of the running cycle, or the one that waits."""
    requested_s: float = 0.0
    granted_s: float = 0.0
    snapshot_s: float = 0.0
    paused_s: float = 0.0
    """How long the running cycle has waited after giving way."""
    left_bytes: float = 0.0
    """By each disk that is sent at once; the disks of a VM with more of them than slots go in turns."""
    at_once: int = 0
    committed_snapshot_s: float = 0.0
    last_duration_s: float | None = None
    """Of the last delta cycle."""
    copied: bool = False

    @property
    def holder(self) -> str:
        """Return the id that its requests carry."""
        return f"vm/{self.vm.name}"

    @property
    def lane(self) -> Lane:
        """Return which share of the line its cycle gets."""
        if self.kind is Priority.PRE_FAILOVER:
            return Lane.PRE_FAILOVER
        return Lane.COMPARING if self.kind is Priority.RESYNC else Lane.ORDINARY

    def to_send(self, site: SimulatedSite, at_once: int) -> float:
        """Return the bytes that each of `at_once` disks has to move for the cycle whose snapshot was just taken."""
        if self.kind in (Priority.INITIAL, Priority.RESYNC):
            sizes = [float(disk.used_bytes) for disk in self.vm.disks]
        else:
            written = self.vm.churn * written_bytes(site.churn, self.committed_snapshot_s, self.snapshot_s)
            sizes = [changed_bytes(disk.used_bytes, written, site.churn.working_set) for disk in self.vm.disks]
        return max(max(sizes), sum(sizes) / at_once)
