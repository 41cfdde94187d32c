"""`deltaferry replay`: whether the checked-out code still decides as a recorded history did, and what was decided in it."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from console.client import connect
from console.histories import FoundHistory, from_archive, from_file, from_server
from console.options import ConfigOption, JsonOption, RunOption, SiteOption
from console.outcomes import ExitCode
from console.output import local_time
from console.replay import ReplayOutcome
from console.replay import replay as replayed
from console.session import Session
from deltaferry.planning.phrases import count_text, duration_text

app = typer.Typer()


@app.command(
    epilog="Example: deltaferry replay --file history.json --explain  ·  deltaferry replay --archive web-01  ·  deltaferry replay vm/lon1/4213f5a0-…"
)
def replay(
    workflow: Annotated[
        str | None,
        typer.Argument(metavar="[WORKFLOW]", help="Id of a workflow on the Temporal server, or the VM of a running replication."),
    ] = None,
    file: Annotated[
        list[Path] | None,
        typer.Option(
            "--file", metavar="PATH", help="A history as the Temporal UI or CLI downloads it; may be given several times."
        ),
    ] = None,
    archive: Annotated[
        str | None,
        typer.Option(
            "--archive",
            metavar="VM",
            help="The archived runs of this replication in the gateway store: VM, workflow id or replication id.",
        ),
    ] = None,
    run: RunOption = None,
    site: SiteOption = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show what happened and what was decided, with the reasons.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Replay histories against this code, offline: from the Temporal server, from the archive, or from files.

    Ends with 1 if the code would decide otherwise than a history did.
    """
    session = Session(config, as_json=as_json)
    if sum(source is not None for source in (workflow, file or None, archive)) != 1:
        raise typer.BadParameter("Give exactly one of WORKFLOW, --file and --archive.")

    async def histories() -> list[FoundHistory]:
        if file:
            return [from_file(path) for path in file]
        if archive is not None:
            settings = session.required_settings()
            return await asyncio.to_thread(from_archive, settings, archive, run)
        assert workflow is not None, "one of the three is given"
        return [await from_server(await connect(session.settings()), workflow, site, run)]

    async def outcomes() -> list[ReplayOutcome]:
        return [await replayed(found, explain=explain) for found in await histories()]

    def work() -> None:
        results = asyncio.run(outcomes())
        failed = [outcome for outcome in results if not outcome.deterministic]
        if not failed:
            session.output.result(_view(results), {"deterministic": True, "histories": results})
            return
        session.output.result(_view(results), {"deterministic": False, "histories": results})
        raise typer.Exit(ExitCode.FAILED)

    session.carry_out(work)


def _view(results: list[ReplayOutcome]) -> RenderableType:
    parts: list[RenderableType] = []
    for outcome in results:
        parts.append(
            Text(f"{outcome.workflow_id} ({outcome.workflow_type}, run {outcome.run_id}), from {outcome.origin}", style="bold")
        )
        made_by = f", made by {outcome.build}" if outcome.build else ""
        verdict = (
            Text("OK", style="green") if outcome.deterministic else Text(f"NOT the same decisions: {outcome.error}", style="red")
        )
        parts.append(Text.assemble(f"  {count_text(outcome.events, 'event')}{made_by}: ", verdict))
        if outcome.timeline:
            parts.append(_timeline(outcome))
        if outcome.cycles:
            parts.append(_cycles(outcome))
    return Group(*parts)


def _timeline(outcome: ReplayOutcome) -> RenderableType:
    table = Table("event", "at", "what", "why", box=None, pad_edge=False)
    for entry in outcome.timeline:
        table.add_row(str(entry.event_id), local_time(entry.at), Text(entry.what), Text(entry.summary))
    return table


def _cycles(outcome: ReplayOutcome) -> RenderableType:
    table = Table("cycle", "kind", "began", "took", "decided", box=None, pad_edge=False)
    for cycle in outcome.cycles:
        decided = cycle.decision if cycle.committed else f"failed: {cycle.failure}. {cycle.decision}"
        number = cycle.cycle_key.partition("-")[0]
        table.add_row(number, cycle.kind.value, local_time(cycle.started_at), duration_text(cycle.duration), Text(decided))
    return table
