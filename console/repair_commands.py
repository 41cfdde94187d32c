"""`repair`, `resync` and `verify`: the verbs that have the seed disks compared, and mended."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Group
from rich.text import Text
from temporalio.client import Client

from console import client as replicating
from console.client import Handle
from console.following import follow
from console.options import ConfigOption, JsonOption, ReasonOption, SiteOption, VmArgument
from console.outcomes import CommandError, ExitCode
from console.session import Session
from console.views import resync_text, scrub_text
from deltaferry.model.states import Operation, ReplicationState
from deltaferry.planning.phrases import size_text
from workflows.messages.operator_input import RepairOptions, VerifyOptions
from workflows.messages.replication_state import ResyncRecord, ScrubRecord
from workflows.messages.views import StatusView

app = typer.Typer()

_RESYNCING = frozenset({ReplicationState.REPAIR_QUEUED, ReplicationState.RESYNC_IN_PROGRESS})
_SAYS_WHEN = "Repair pending"
"""How the activity of a replication begins that knows whether its resync begins by itself."""

_FullCopy = Annotated[bool, typer.Option("--full-copy", help="Compare nothing, and send everything that is allocated.")]
_ResetTracking = Annotated[
    bool, typer.Option("--reset-tracking", help="Reset change tracking first; refused while the VM has snapshots.")
]
_WithSource = Annotated[
    bool,
    typer.Option("--with-source", help="Compare the source's blocks too, by a resync, which mends what differs."),
]
_WaitOption = Annotated[
    bool, typer.Option("--wait", help="Show the progress until it is done, and fail if something differs and is not mended.")
]


@app.command(epilog="Example: deltaferry repair web-01")
def repair(
    vm: VmArgument,
    site: SiteOption = None,
    full_copy: _FullCopy = False,
    reset_tracking: _ResetTracking = False,
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Resynchronise a replication that is Repair pending, without waiting for the off-hours window."""
    options = RepairOptions(full_copy, reset_tracking, reason)
    _resynchronise(Session(config, as_json=as_json), vm, site, Operation.REPAIR, options)


@app.command(epilog='Example: deltaferry resync web-01 --reason "restored from an array snapshot"')
def resync(
    vm: VmArgument,
    site: SiteOption = None,
    full_copy: _FullCopy = False,
    reset_tracking: _ResetTracking = False,
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare the seed disks with the source by checksums, now, and send what differs."""
    options = RepairOptions(full_copy, reset_tracking, reason)
    _resynchronise(Session(config, as_json=as_json), vm, site, Operation.RESYNC, options)


@app.command(epilog="Example: deltaferry verify web-01 --wait")
def verify(
    vm: VmArgument,
    site: SiteOption = None,
    with_source: _WithSource = False,
    reason: ReasonOption = "",
    wait: _WaitOption = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read the whole seed disks and compare them with what was committed; cycles go on meanwhile."""
    session = Session(config, as_json=as_json)

    async def work(client: Client) -> None:
        handle = await replicating.find(client, vm, site)
        before = await replicating.status(handle)
        sentence = await replicating.send(handle, Operation.VERIFY, VerifyOptions(with_source, reason))
        answer = _answer(handle, Operation.VERIFY, sentence)
        if not wait:
            session.output.result(Text(sentence), answer)
            return
        session.output.note(sentence)
        over = _resync_is_over(before) if with_source else _scrub_is_over(before)
        after = (await follow(client, handle, session.output, over)).status
        scrub, mended = _new_scrub(before, after), _new_resync(before, after)
        if not _is_in_order(scrub, mended):
            raise _not_in_order(after, scrub)
        lines = [f"Verified {scrub_text(scrub)}."] if scrub is not None else []
        lines += [_mended_sentence(mended), f"Resynchronised {resync_text(mended)}."] if mended is not None else []
        session.output.result(Group(*map(Text, lines)), {**answer, "scrub": scrub, "resync": mended})

    session.run(work)


def _resynchronise(session: Session, vm: str, site: str | None, operation: Operation, options: RepairOptions) -> None:
    async def work(client: Client) -> None:
        handle = await replicating.find(client, vm, site)
        sentence = await replicating.send(handle, operation, options)
        session.output.result(Text(sentence), _answer(handle, operation, sentence))

    session.run(work)


def _answer(handle: Handle, operation: Operation, sentence: str) -> dict[str, object]:
    return {"workflow_id": handle.id, "operation": operation, "result": sentence}


def _new_scrub(before: StatusView, after: StatusView) -> ScrubRecord | None:
    """Return the scrub that has ended since, if one has."""
    return after.last_scrub if after.last_scrub != before.last_scrub else None


def _new_resync(before: StatusView, after: StatusView) -> ResyncRecord | None:
    """Return the resync that has succeeded since, if one has."""
    return after.resyncs[-1] if after.resyncs[-1:] != before.resyncs[-1:] else None


def _resync_is_over(before: StatusView) -> Callable[[StatusView], bool]:
    def over(view: StatusView) -> bool:
        return _new_resync(before, view) is not None or view.replication_state not in _RESYNCING

    return over


def _scrub_is_over(before: StatusView) -> Callable[[StatusView], bool]:
    """Return whether a scrub has ended, and what it found is mended or waits for a person or a window."""

    def over(view: StatusView) -> bool:
        scrub = _new_scrub(before, view)
        if scrub is None:
            return False
        return not scrub.differing_bytes or _new_resync(before, view) is not None or _waits(view)

    return over


def _waits(view: StatusView) -> bool:
    if view.replication_state in _RESYNCING:
        return False
    if view.replication_state != ReplicationState.REPAIR_PENDING or view.repair is None:
        return True
    begins = view.repair.starts_at
    return view.activity.startswith(_SAYS_WHEN) and (begins is None or begins > datetime.now(UTC))


def _is_in_order(scrub: ScrubRecord | None, mended: ResyncRecord | None) -> bool:
    return mended is not None or (scrub is not None and not scrub.failure and not scrub.differing_bytes)


def _mended_sentence(mended: ResyncRecord) -> str:
    if not mended.differing_bytes:
        return "Nothing differs between source and seed disks."
    return f"{size_text(mended.differing_bytes)} differed, and were sent again: the seed disks are in order."


def _not_in_order(view: StatusView, scrub: ScrubRecord | None) -> CommandError:
    found = f"The seed disks were read: {scrub_text(scrub)}. " if scrub is not None else ""
    if view.health:
        error = view.health[0]
        return CommandError(ExitCode.FAILED, f"{found}{view.replication_state}: {error.message}", error.remedy, error.kind)
    return CommandError(ExitCode.FAILED, f"{found}It did not come to its end: {view.replication_state}, {view.activity}.")
