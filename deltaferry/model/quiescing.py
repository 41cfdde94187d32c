"""What a cycle asks of a guest for an application-consistent point, and what became of it (spec §8)."""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from deltaferry.model.recovery_points import PointKind

FREEZE_MARK = "guestinfo.deltaferry.frozen"
"""The variable that a guest's freeze script sets to something new each time (`vmtoolsd --cmd "info-set …"`): vSphere does not say
whether VMware Tools found a script to run, and a guest's variables can be read without an account in the guest."""


@dataclass(frozen=True, slots=True)
class QuiesceOrder:
    """How a guest is asked to hold its writes back while the snapshot is taken."""

    windows: bool
    """By VSS, with its writers; else by VMware Tools, which freeze file systems."""
    limit: timedelta
    """What vSphere is given: a guest that takes longer is thawed, and the snapshot fails. 5 to 240 minutes, whole (facts B2)."""
    patience: timedelta
    """How long the snapshot is waited for in all: what arrives after that is removed."""


class QuiesceAnswer(StrEnum):
    """What became of the request."""

    QUIESCED = "quiesced"
    NOT_ASKED = "not asked"
    """VMware Tools do not run in the guest, so that it was left alone."""
    FAILED = "failed"
    """The guest was asked, and the snapshot is none that was quiesced."""


@dataclass(frozen=True, slots=True)
class QuiesceOutcome:
    """What was obtained, and never what was asked for."""

    answer: QuiesceAnswer
    kind: PointKind
    sentence: str
    """How it was obtained, or why it was not."""

    @property
    def note(self) -> str:
        """Why the point is not application-consistent; empty where it is."""
        return self.sentence if self.kind is not PointKind.APP_CONSISTENT else ""
