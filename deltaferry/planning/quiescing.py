"""When a cycle asks the guest to hold its writes back, and what the answer makes of its recovery point (spec §8).

Everything here is pure. The first delta cycle due after the policy's frequency asks; a first copy, a resync and the cycles of
a migration or failover never do: they are waited for. A request that came to nothing slows the application all the same, so
that it is not repeated with every cycle.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from deltaferry.model.quiescing import QuiesceAnswer, QuiesceOrder, QuiesceOutcome
from deltaferry.model.recovery_points import PointKind
from deltaferry.model.replication import CycleKind
from deltaferry.planning.guests import GuestFamily

TIME_LIMIT = timedelta(minutes=5)
"""What vSphere is given, the shortest that it takes (facts B2). VSS writers are held for a minute at most, whatever is given here."""

PATIENCE = TIME_LIMIT + timedelta(minutes=1)
"""How long the cycle, with its slots, waits for a quiesced snapshot: a task that outlasts its own limit ends with it."""

AGAIN_AFTER = timedelta(hours=1)
"""How long after a request that came to nothing the next one may be made."""

TRIES = 3
"""After so many in a row that came to nothing, the next one is made by the policy's frequency."""


@dataclass(frozen=True, slots=True)
class QuiesceWatch:
    """What is remembered between two requests: carried in the replication's state."""

    obtained_at: datetime | None = None
    """When the cycle began that committed the last application-consistent point."""
    asked_at: datetime | None = None
    """When the last cycle began that asked the guest."""
    in_vain: int = 0
    """How many requests in a row led to no application-consistent point."""


def is_due(kind: CycleKind, every: timedelta | None, watch: QuiesceWatch, now: datetime) -> bool:
    """Return whether a cycle that begins now has the guest quiesced; `every` is the policy's frequency, None for never."""
    if every is None or kind is not CycleKind.DELTA:
        return False
    if watch.obtained_at is not None and now - watch.obtained_at < every:
        return False
    if watch.asked_at is None or not watch.in_vain:
        return True
    return now - watch.asked_at >= (min(AGAIN_AFTER, every) if watch.in_vain < TRIES else every)


def order_for(os_type: str) -> QuiesceOrder:
    """Return how a guest of an OS type (`GuestFamily`) is asked."""
    return QuiesceOrder(os_type == GuestFamily.WINDOWS, TIME_LIMIT, PATIENCE)


def asked(watch: QuiesceWatch, now: datetime) -> QuiesceWatch:
    """Return the watch of a cycle that asks: in vain, until its point is committed."""
    return replace(watch, asked_at=now, in_vain=watch.in_vain + 1)


def answered(before: QuiesceWatch, watch: QuiesceWatch, outcome: QuiesceOutcome) -> QuiesceWatch:
    """Return the watch once the guest has answered; `before` is that from before it was asked.

    A guest that was left alone is asked again by the next cycle. One that freezes its file systems and nothing else will do
    so next time, too: it is asked by the frequency.
    """
    if outcome.answer is QuiesceAnswer.NOT_ASKED:
        return before
    if outcome.kind is PointKind.FILE_SYSTEM_CONSISTENT:
        return replace(watch, in_vain=max(watch.in_vain, TRIES))
    return watch


def committed(watch: QuiesceWatch, kind: PointKind) -> QuiesceWatch:
    """Return the watch once a cycle that asked has committed its point."""
    return QuiesceWatch(watch.asked_at, watch.asked_at) if kind is PointKind.APP_CONSISTENT else watch


def obtained(*, windows: bool, quiesced: bool, script_ran: bool) -> QuiesceOutcome:
    """Return what a snapshot is worth of which vSphere says whether it was `quiesced`, and the guest whether a script ran."""
    if not quiesced:
        sentence = "vSphere took the snapshot without quiescing the guest."
        return QuiesceOutcome(QuiesceAnswer.FAILED, PointKind.CRASH_CONSISTENT, sentence)
    if windows:
        script = "a freeze script of the guest told that it ran" if script_ran else "no freeze script told that it ran"
        sentence = f"The guest was quiesced by VSS with its writers, as a copy; {script}."
        return QuiesceOutcome(QuiesceAnswer.QUIESCED, PointKind.APP_CONSISTENT, sentence)
    if script_ran:
        sentence = "VMware Tools froze the file systems, and a freeze script of the guest told that it ran."
        return QuiesceOutcome(QuiesceAnswer.QUIESCED, PointKind.APP_CONSISTENT, sentence)
    sentence = "VMware Tools froze the file systems; no freeze script of the guest told that it held an application back."
    return QuiesceOutcome(QuiesceAnswer.QUIESCED, PointKind.FILE_SYSTEM_CONSISTENT, sentence)


def not_obtained(answer: QuiesceAnswer, why: str) -> QuiesceOutcome:
    """Return the outcome where a crash-consistent snapshot was taken instead; `why` is a sentence."""
    return QuiesceOutcome(answer, PointKind.CRASH_CONSISTENT, why)
