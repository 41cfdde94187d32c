"""What an operator promises a VM: how far its recovery points may lag, how long they are kept, how they are taken (spec §8)."""

from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum

DEFAULT_RETENTION = timedelta(hours=24)
"""Spec §8: how long recovery points are kept unless the policy says otherwise."""

DEFAULT_REVERSE_INTERVAL = timedelta(hours=1)
"""How long after a reverse delta the next one starts, unless the failback policy says otherwise: as long as a site's shortest wait."""


class AccountKind(StrEnum):
    """What a storage account's page blobs are made for; decides how many snapshots one may have."""

    STANDARD = "standard"
    PREMIUM = "premium"


@dataclass(frozen=True, slots=True)
class FailbackPolicy:
    """How an Azure VM replicates back to its site after a failover. It is made with a replication policy, and named with it.

    Reverse points are crash-consistent only, which is what failback should use anyway (facts A7): an application-consistent
    one would need an agent in the guest.
    """

    interval: timedelta = DEFAULT_REVERSE_INTERVAL
    """From the end of one reverse delta to the snapshot of the next."""
    rpo_threshold: timedelta | None = None
    """How old the last copy at the site may be before an event says so; None asks for no event."""


@dataclass(frozen=True, slots=True)
class ReplicationPolicy:
    """A named promise. Whether it can be kept is `deltaferry.planning.policy`'s to say; nothing here is checked."""

    name: str
    rpo_threshold: timedelta
    """How old the latest recovery point may be, measured from the source's snapshot, before an event says so.

    It does not change replication."""
    retention: timedelta = DEFAULT_RETENTION
    """How long recovery points are kept; the latest, and the latest application-consistent one, are kept even longer."""
    app_consistent_every: timedelta | None = None
    """How often a cycle's snapshot is quiesced; None for never."""
    failback: FailbackPolicy = field(default_factory=FailbackPolicy)
