"""What the book of named replication policies carries from run to run."""

from dataclasses import dataclass, field

from deltaferry.model.policy import ReplicationPolicy


@dataclass(slots=True)
class PolicyBookState:
    """All named policies."""

    policies: dict[str, ReplicationPolicy] = field(default_factory=dict)
