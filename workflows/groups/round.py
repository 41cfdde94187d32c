"""One shared point of a replication group on its way: who holds still, whose snapshot is taken, and who has ended."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from workflows.messages.group import GroupMember, MemberEnded, MemberReady
from workflows.messages.site import SiteProfile


class GivenUpError(Exception):
    """There will be no point: why, in words. The members go alone."""


@dataclass(slots=True)
class Round:
    """One shared point on its way."""

    key: str
    began: datetime
    until: datetime
    members: tuple[GroupMember, ...]
    max_spread: timedelta
    """As it was when the point began: the members are told by it whether theirs may become shared."""
    ready: dict[str, MemberReady] = field(default_factory=dict)
    """By workflow id: the last answer of each member."""
    ended: dict[str, MemberEnded] = field(default_factory=dict)
    profile: SiteProfile | None = None
    """The site's settings as the slots brought them."""
    spread: timedelta | None = None
    taken_at: datetime | None = None
    left: set[str] = field(default_factory=set)
    """Members on whose VM a snapshot may have stayed."""
    short_of_space: tuple[str, ...] = ()
    """Datastores that were found below their threshold."""

    def is_ready(self) -> bool:
        """Return whether all members hold still."""
        return len(self.ready) == len(self.members) and all(answer.ready for answer in self.ready.values())

    def objection(self) -> str:
        """Return which member does not hold still, and why; empty if none has said so."""
        names_of = {member.replication: member.vm for member in self.members}
        for replication, answer in self.ready.items():
            if not answer.ready:
                return f"{names_of.get(replication, replication)} does not hold still: {answer.sentence}"
        return ""

    def untouched(self) -> list[str]:
        """Return the members that have a snapshot, and run no cycle from it."""
        return [replication for replication, ended in self.ended.items() if ended.untouched]
