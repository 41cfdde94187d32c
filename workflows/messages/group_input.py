"""What people write to make a replication group and to change it: strict, since a typo that is ignored does harm."""

import dataclasses
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any

from pydantic import ConfigDict, StringConstraints

from deltaferry.planning.replication_group import DEFAULT_SPREAD, DEFAULT_WAIT, GroupRules

_STRICT = ConfigDict(extra="forbid")
_Word = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]


@dataclass(frozen=True, slots=True)
class GroupInput:
    """Start `ReplicationGroup` with this, under the id `group/<site>/<name>`."""

    __pydantic_config__ = _STRICT

    name: _Word
    site: _Word
    members: tuple[_Word, ...]
    """Workflow ids of replications of that site, `vm/<site>/<instance uuid>`; at least two."""
    interval: timedelta | None = None
    """Between two shared points; the site's shortest interval between cycles where left out."""
    wait: timedelta = DEFAULT_WAIT
    """How long is waited until all members are idle; then they go alone. At most an hour."""
    max_spread: timedelta = DEFAULT_SPREAD
    """How far apart the members' snapshots may be taken; at most five minutes."""
    reason: str = ""
    carried: dict[str, Any] | None = None
    """Written by the group itself when it continues as new, never by people."""

    def rules(self) -> GroupRules:
        """Return what was decided about the group."""
        return GroupRules(self.interval, self.wait, self.max_spread)


@dataclass(frozen=True, slots=True)
class GroupChange:
    """What is changed of a group while it runs; what is left out stays as it is."""

    __pydantic_config__ = _STRICT

    interval: timedelta | None = None
    """Between the beginnings of two shared points."""
    site_interval: bool = False
    """Have no interval of the group's own any more, but the site's shortest one between cycles."""
    wait: timedelta | None = None
    """How long is waited until all members are idle; then they go alone. At most an hour."""
    max_spread: timedelta | None = None
    """How far apart the members' snapshots may be taken; at most five minutes."""
    reason: str = ""

    def rules(self, present: GroupRules) -> GroupRules:
        """Return what holds after the change."""
        return dataclasses.replace(
            present,
            interval=None if self.site_interval else present.interval if self.interval is None else self.interval,
            wait=present.wait if self.wait is None else self.wait,
            max_spread=present.max_spread if self.max_spread is None else self.max_spread,
        )

    def objection(self) -> str:
        """Return why it is no change, in a sentence; empty if it is one."""
        if self.site_interval and self.interval is not None:
            return "Either interval or site_interval can be given, not both."
        if not self.site_interval and self.interval is self.wait is self.max_spread is None:
            return "Nothing is to be changed: give interval, site_interval, wait or max_spread."
        return ""


@dataclass(frozen=True, slots=True)
class GroupMemberInput:
    """Which replication joins or leaves a group."""

    __pydantic_config__ = _STRICT

    member: _Word
    """Its workflow id, `vm/<site>/<instance uuid>`."""
    reason: str = ""
