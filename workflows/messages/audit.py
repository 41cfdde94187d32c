"""What the steps of an audit are asked and what they answer: numbers and references, never the list of what was seen."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from deltaferry.model.audit import Finding
from deltaferry.model.replication import ObjectRef
from workflows.messages.site import SiteProfile

SHOWN_FINDINGS = 50
"""How many findings pass through a workflow; all of them are in the stored report."""


@dataclass(frozen=True, slots=True)
class AuditStep:
    """One step of an audit of a site."""

    profile: SiteProfile
    audit_key: str
    """Names what its steps store; begins with the time, so that keys are in order of time."""
    dry_run: bool = False
    grace: timedelta | None = None
    """None: what the worker's settings say."""


@dataclass(frozen=True, slots=True)
class Looked:
    """A side was looked at."""

    things: int
    """How many of Deltaferry's were seen there, whether they belong or not."""


@dataclass(frozen=True, slots=True)
class AuditResult:
    """What an audit found, and what became of it."""

    site: str
    dry_run: bool
    read_at: datetime
    found: int
    repaired: int
    to_repair: int
    """How many the audit may repair, and has not."""
    failed: int
    left: int
    """How many are left for a person, or for an audit that is no dry run."""
    findings: tuple[Finding, ...]
    """The first of them: what is left first, at most 50."""
    report: ObjectRef
    """The stored report, with all of them."""
