"""`plan`: running recovery plans, looking at runs, and answering them; what is refused ends with exit code 3."""

import asyncio
import getpass
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text
from temporalio.client import Client, WorkflowExecution, WorkflowExecutionStatus, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

from console.client import update
from console.options import ConfigOption, JsonOption, ReasonOption, WaitOption
from console.outcomes import CommandError, ExitCode
from console.output import Output, local_time
from console.plan_files import read_plan, request_of
from console.plan_views import progress_view
from console.session import Session
from deltaferry.model.errors import ErrorKind
from deltaferry.planning.plan_progress import ItemState, PlanCommand
from workflows import names
from workflows.messages.plan import Phase, PlanView
from workflows.messages.plan_input import PlanAbort, PlanCleanUp, PlanDecision, RunWord
from workflows.plans.commands import CLEAN_UP, PlanRequest
from workflows.plans.presenting import skipped_text

app = typer.Typer()
plan = typer.Typer(
    name="plan",
    help="Run recovery plans: groups of VMs in order, with steps before and after them.",
    epilog="Example: deltaferry plan run shop.toml --run test --network drill",
    no_args_is_help=True,
)
app.add_typer(plan)

_ANSWER_WITHIN = timedelta(seconds=20)
_ACCEPT_WITHIN = timedelta(seconds=40)
_REFRESH_S = 1.0
_LISTED = 100
_PREFIX = names.recovery_plan_id("", "").partition("/")[0] + "/"

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="The run's workflow id, or the plan's name for its newest run.")]
ItemArgument = Annotated[str, typer.Argument(metavar="ITEM", help="The item, as `plan status` shows it.")]
ByOption = Annotated[str | None, typer.Option("--by", metavar="NAME", help="Who decides; your user name if not given.")]


@plan.command(epilog="Example: deltaferry plan run shop.toml --run unplanned --point latest-app-consistent")
def run(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The plan: TOML, or JSON in a file that ends with .json.")],
    kind: Annotated[RunWord, typer.Option("--run", metavar="KIND", help="test, planned, unplanned or failback.")],
    network: Annotated[str | None, typer.Option(metavar="NAME", help="Of a test: the isolated virtual network.")] = None,
    subnet: Annotated[str | None, typer.Option(metavar="NAME", help="Of a test: its subnet.")] = None,
    point: Annotated[
        str | None,
        typer.Option(metavar="POINT", help="latest, latest-app-consistent, shared:KEY, or an instant with its time zone."),
    ] = None,
    site: Annotated[str | None, typer.Option(metavar="SITE", help="Where the plan's VM names are looked for.")] = None,
    reason: ReasonOption = "",
    wait: WaitOption = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start a run of a plan; with --wait, show it until it has ended or waits for somebody."""
    session = Session(config, as_json=as_json)

    async def work(client: Client) -> None:
        options = {"run": kind.value, "network": network, "subnet": subnet, "point": point, "reason": reason}
        request = await request_of(client, read_plan(file), options, site)
        number = f"{kind.value}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:4]}"
        handle: WorkflowHandle[Any, Any] = await client.start_workflow(
            names.RECOVERY_PLAN,
            request,
            id=names.recovery_plan_id(request.plan.name, number),
            task_queue=names.CONTROL_QUEUE,
            static_summary=f"{request.run.kind} of {request.plan.name}",
        )
        if not wait:
            sentence = f"The {request.run.kind} of {request.plan.name} has begun: {handle.id}"
            session.output.result(Text(sentence), {"workflow_id": handle.id, "plan": request.plan.name, "kind": request.run.kind})
            return
        view = await _followed(handle, session.output)
        session.output.result(progress_view(view), {"workflow_id": handle.id, "progress": view})
        if any(item.state == ItemState.FAILED for item in view.items) or view.aborted:
            raise typer.Exit(ExitCode.FAILED)

    session.run(work)


@plan.command("list", epilog="Example: deltaferry plan list --all")
def list_runs(
    all_runs: Annotated[bool, typer.Option("--all", help="Those that have ended as well.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the runs of recovery plans, newest first."""
    session = Session(config, as_json=as_json)

    async def work(client: Client) -> None:
        found = await _runs(client, ended_too=all_runs)
        table = Table("run", "is", "began", "ended")
        for one in found:
            table.add_row(one.id, _status(one), local_time(one.start_time), local_time(one.close_time))
        rows = [
            {"workflow_id": one.id, "status": _status(one), "began_at": one.start_time, "ended_at": one.close_time}
            for one in found
        ]
        session.output.result(table, {"runs": rows})

    session.run(work)


@plan.command(epilog="Example: deltaferry plan status shop")
def status(
    reference: RunArgument,
    output: Annotated[str | None, typer.Option(metavar="ITEM", help="Print the end of this item's output instead.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how far a run is, what it waits for, and what can be sent."""
    session = Session(config, as_json=as_json)

    async def work(client: Client) -> None:
        handle = await _find(client, reference)
        if output is not None:
            text: str = await handle.query("output", output, result_type=str, rpc_timeout=_ANSWER_WITHIN)
            session.output.result(Text(text), {"workflow_id": handle.id, "item": output, "output": text})
            return
        view = await _progress(handle)
        session.output.result(progress_view(view), {"workflow_id": handle.id, "progress": view})

    session.run(work)


@plan.command(epilog='Example: deltaferry plan confirm shop "database/after/check the data" --reason complete')
def confirm(
    reference: RunArgument,
    item: ItemArgument,
    by: ByOption = None,
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say that a manual action is done: the plan goes on."""
    _send(Session(config, as_json=as_json), reference, PlanCommand.CONFIRM, PlanDecision(item, reason, by or _user()))


@plan.command(epilog='Example: deltaferry plan reject shop "database/after/check the data" --reason "rows are missing"')
def reject(
    reference: RunArgument,
    item: ItemArgument,
    by: ByOption = None,
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say that a manual action cannot be done: the plan stops there."""
    _send(Session(config, as_json=as_json), reference, PlanCommand.REJECT, PlanDecision(item, reason, by or _user()))


@plan.command(epilog='Example: deltaferry plan retry shop "database/before/stop jobs"')
def retry(
    reference: RunArgument,
    item: ItemArgument,
    by: ByOption = None,
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Try a failed item again."""
    _send(Session(config, as_json=as_json), reference, PlanCommand.RETRY, PlanDecision(item, reason, by or _user()))


@plan.command(epilog='Example: deltaferry plan skip shop "database/before/stop jobs" --reason "they do not run today"')
def skip(
    reference: RunArgument,
    item: ItemArgument,
    by: ByOption = None,
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Go on without a failed item."""
    _send(Session(config, as_json=as_json), reference, PlanCommand.SKIP, PlanDecision(item, reason, by or _user()))


@plan.command(epilog='Example: deltaferry plan abort shop --reason "the site is back"')
def abort(
    reference: RunArgument,
    by: ByOption = None,
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Begin nothing more; what runs is waited for."""
    _send(Session(config, as_json=as_json), reference, PlanCommand.ABORT, PlanAbort(reason, by or _user()))


@plan.command("clean-up", epilog="Example: deltaferry plan clean-up shop")
def clean_up(
    reference: RunArgument,
    leave: Annotated[bool, typer.Option("--leave", help="End the run, and leave what could not be deleted.")] = False,
    by: ByOption = None,
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete what a test of the plan has made, and end the run."""
    _send(Session(config, as_json=as_json), reference, CLEAN_UP, PlanCleanUp(leave, reason, by or _user()))


def _send(session: Session, reference: str, verb: str, request: PlanRequest) -> None:
    async def work(client: Client) -> None:
        handle = await _find(client, reference)
        sentence = await update(handle, verb, request, within=_ACCEPT_WITHIN)
        session.output.result(Text(sentence), {"workflow_id": handle.id, "operation": str(verb), "result": sentence})

    session.run(work)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no such user, as in some containers
        return ""


async def _find(client: Client, reference: str) -> WorkflowHandle[Any, Any]:
    """Return the handle of a run: by workflow id, or a plan's newest run, one that goes on before one that has ended."""
    if reference.startswith(_PREFIX):
        handle: WorkflowHandle[Any, Any] = client.get_workflow_handle(reference)
        try:
            await handle.describe()
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
            raise _missing(reference) from error
        return handle
    prefix = names.recovery_plan_id(reference, "")
    for ended_too in (False, True):
        for one in await _runs(client, ended_too=ended_too):
            if one.id.startswith(prefix):
                return client.get_workflow_handle(one.id)
    raise _missing(reference)


def _missing(reference: str) -> CommandError:
    return CommandError(
        ExitCode.NOT_FOUND,
        f"There is no run {reference} of a recovery plan, and no run of a plan of that name.",
        "`deltaferry plan list --all` shows those there are.",
        ErrorKind.BAD_INPUT,
    )


async def _runs(client: Client, *, ended_too: bool) -> list[WorkflowExecution]:
    query = f"WorkflowType = '{names.RECOVERY_PLAN}'" + ("" if ended_too else " AND ExecutionStatus = 'Running'")
    found = [
        one
        async for one in client.list_workflows(query, limit=_LISTED)
        if one.status is not WorkflowExecutionStatus.CONTINUED_AS_NEW
    ]
    return sorted(found, key=lambda one: one.start_time, reverse=True)


def _status(one: WorkflowExecution) -> str:
    return one.status.name.lower().replace("_", " ") if one.status is not None else "unknown"


async def _progress(handle: WorkflowHandle[Any, Any]) -> PlanView:
    view: PlanView = await handle.query("progress", result_type=PlanView, rpc_timeout=_ANSWER_WITHIN)
    return view


async def _followed(handle: WorkflowHandle[Any, Any], output: Output) -> PlanView:
    """Say what the run does, until it has ended or only somebody can make it go on."""
    said = ""
    while True:
        view = await _progress(handle)
        line = f"{view.plan}: {view.done} of {view.total} done{skipped_text(view)}; {view.activity}"
        if line != said:
            said = line
            output.note(line)
        runs_by_itself = any(item.state == ItemState.RUNNING and not item.accepts for item in view.items)
        waits = CLEAN_UP in view.allowed or any(item.accepts for item in view.items)
        if view.phase == Phase.ENDED or (waits and not runs_by_itself):
            return view
        await asyncio.sleep(_REFRESH_S)
