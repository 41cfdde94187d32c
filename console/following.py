"""Looking at a replication again and again: for `watch`, and for the commands that wait for an end."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable

from rich.live import Live
from rich.text import Text
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from console import client as replicating
from console.client import Handle
from console.live_progress import read_progress
from console.output import Output
from console.views import Snapshot, replication_view
from workflows.messages.views import StatusView

_REFRESH_S = 1.0
_PATIENCE = 6
"""So many looks in a row may fail before following ends: workers and the server are restarted now and then."""
_MAY_PASS = frozenset(
    {RPCStatusCode.UNAVAILABLE, RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED, RPCStatusCode.FAILED_PRECONDITION}
)


async def look(client: Client, handle: Handle) -> Snapshot:
    """Return everything that is shown of a replication now."""
    status = await replicating.status(handle)
    disks, cycles, progress = await asyncio.gather(
        replicating.disks(handle), replicating.cycles(handle), read_progress(client, handle.id, status)
    )
    return Snapshot(handle.id, status, disks, cycles, progress)


async def follow(client: Client, handle: Handle, output: Output, done: Callable[[StatusView], bool]) -> Snapshot:
    """Show a replication each second until `done` says so or its workflow has ended; return what was shown last.

    A terminal gets a live view with bars; elsewhere every change of states and activity gets a line on standard error.
    """
    if output.as_json or not output.console.is_terminal:
        return await _follow_in_lines(client, handle, output, done)
    with Live(Text("Asking …"), console=output.console, auto_refresh=False, transient=True) as live:
        async for shown in _looks(client, handle, done):
            live.update(replication_view(shown), refresh=True)
    return shown


async def _follow_in_lines(client: Client, handle: Handle, output: Output, done: Callable[[StatusView], bool]) -> Snapshot:
    said = ""
    async for shown in _looks(client, handle, done):
        view = shown.status
        line = f"{view.vm}: {view.replication_state}, {view.migration_state}: {view.activity}"
        if line != said:
            said = line
            output.note(line)
    return shown


async def _looks(client: Client, handle: Handle, done: Callable[[StatusView], bool]) -> AsyncIterator[Snapshot]:
    """Yield at least one look, and the last one after the end."""
    highest = 0.0
    job: str | None = None
    failed = 0
    while True:
        try:
            ended = not await replicating.running(handle)
            shown = await look(client, handle)
        except RPCError as error:
            failed += 1
            if error.status not in _MAY_PASS or failed >= _PATIENCE:
                raise
            await asyncio.sleep(_REFRESH_S)
            continue
        failed = 0
        progress = shown.progress
        if shown.status.job_id != job or progress.percent is None:
            job, highest = shown.status.job_id, 0.0
        if progress.percent is not None:
            highest = max(highest, progress.percent)
            shown = dataclasses.replace(shown, progress=dataclasses.replace(progress, percent=highest))
        yield shown
        if ended or done(shown.status):
            return
        await asyncio.sleep(_REFRESH_S)
