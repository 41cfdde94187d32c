"""What people write to name a replication policy: strict, since a typo that is ignored does harm."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import ConfigDict, StringConstraints


@dataclass(frozen=True, slots=True)
class PolicyName:
    """Which of the named policies."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
    reason: str = ""
