"""What another workflow asks a replication to do, and the replication's answers.

A workflow cannot send an update, and a signal has no answer: so whoever asks says who it is, and is answered by signals. It
may ask again with the same id at any time (after the replication was adopted, say): what was begun is not begun twice, and
the answer comes again.
"""

from dataclasses import dataclass, field
from typing import Any

from deltaferry.model.states import JobOutcome


@dataclass(frozen=True, slots=True)
class OperationWanted:
    """A workflow asks for one of the verbs that people send."""

    requester: str
    """Its workflow id, to which the answers go."""
    request_id: str
    operation: str
    """The verb's name."""
    options: dict[str, Any] = field(default_factory=dict)
    """What a person would send as JSON with it."""


@dataclass(frozen=True, slots=True)
class OperationAnswer:
    """What became of it: a refusal; or that it was accepted; and, once, how it ended."""

    entity_id: str
    request_id: str
    accepted: bool
    ended: bool
    """False while it goes on; another answer follows."""
    outcome: JobOutcome | None = None
    sentence: str = ""
    """The table's sentence, or the cause of a failure."""
    target_vm_id: str | None = None
