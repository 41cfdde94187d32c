"""What an operator's receiver of events is told."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from deltaferry.model.replication import ReplicationRef
from deltaferry.planning.rpo import RpoChange


@dataclass(frozen=True, slots=True)
class RpoNotice:
    """That an RPO threshold was crossed, or that it recovered: what the operators' webhook is told."""

    workflow_id: str
    ref: ReplicationRef
    vm_name: str
    change: RpoChange
    at: datetime
    rpo: timedelta
    """How old the latest point was."""
    threshold: timedelta | None
    sentence: str
