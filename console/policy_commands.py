"""`policy`: named replication policies, made at any time and given to replications by name."""

from datetime import timedelta
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text
from temporalio.client import Client, WithStartWorkflowOperation, WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.service import RPCError, RPCStatusCode

from console.client import between_two_runs, update
from console.options import ConfigOption, JsonOption, ReasonOption, read_duration, validated
from console.outcomes import CommandError, ExitCode
from console.session import Session
from deltaferry.model.errors import ErrorKind
from deltaferry.model.policy import ReplicationPolicy
from deltaferry.planning.phrases import duration_text
from deltaferry.planning.policy import ANY_SITE, cautions
from workflows import names
from workflows.messages.operator_input import PolicyOptions
from workflows.messages.policy_input import PolicyName

app = typer.Typer()
policy = typer.Typer(
    name="policy",
    help="Make and look at named replication policies.",
    epilog="Example: deltaferry policy create gold --rpo 4h",
    no_args_is_help=True,
)
app.add_typer(policy)

_ANSWER_WITHIN = timedelta(seconds=20)
_ACCEPT_WITHIN = timedelta(seconds=40)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The policy's name.")]


@policy.command(epilog="Example: deltaferry policy create gold --rpo 4h --retention 3d")
def create(
    name: NameArgument,
    rpo: Annotated[str, typer.Option(metavar="DURATION", help="How old the latest recovery point may be, e.g. 4h.")],
    retention: Annotated[str, typer.Option(metavar="DURATION", help="How long points are kept, at most 15d.")] = "24h",
    app_consistent: Annotated[
        str | None, typer.Option(metavar="DURATION", help="How often a snapshot is quiesced, 1h to 12h; never if not given.")
    ] = None,
    failback_interval: Annotated[
        str, typer.Option(metavar="DURATION", help="Between two reverse deltas after a failover.")
    ] = "1h",
    failback_rpo: Annotated[
        str | None, typer.Option(metavar="DURATION", help="How old the copy at the site may be after a failover.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Change the policy of that name, whole.")] = False,
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a named policy, with its failback policy; replications that were given one before keep theirs."""
    session = Session(config, as_json=as_json)

    async def work(client: Client) -> None:
        durations = {
            "rpo_threshold": rpo,
            "retention": retention,
            "app_consistent_every": app_consistent,
            "failback_interval": failback_interval,
            "failback_rpo_threshold": failback_rpo,
        }
        given = {key: read_duration(value) for key, value in durations.items() if value is not None}
        options = validated(PolicyOptions, {"name": name, "reason": reason, **given}, "policy")
        verb = "change_policy" if replace else "create_policy"
        async for attempt in between_two_runs():
            with attempt:
                sentence: str = await client.execute_update_with_start_workflow(
                    verb, options, start_workflow_operation=_book(), result_type=str, rpc_timeout=_ACCEPT_WITHIN
                )
        told = cautions(options.policy(), ANY_SITE)
        session.output.result(
            Group(Text(sentence), *(Text(caution, style="yellow") for caution in told)),
            {"policy": options.policy(), "result": sentence, "cautions": told},
        )

    session.run(work)


@policy.command("list", epilog="Example: deltaferry policy list")
def list_policies(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List the named policies."""
    session = Session(config, as_json=as_json)

    async def work(client: Client) -> None:
        found = await _policies(client)
        session.output.result(_table(found), {"policies": found})

    session.run(work)


@policy.command(epilog="Example: deltaferry policy show gold")
def show(name: NameArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show one policy, and what it costs."""
    session = Session(config, as_json=as_json)

    async def work(client: Client) -> None:
        found = {one.name: one for one in await _policies(client)}
        if name not in found:
            raise _missing(name, sorted(found))
        told = cautions(found[name], ANY_SITE)
        session.output.result(
            Group(_table([found[name]]), *(Text(caution) for caution in told)), {"policy": found[name], "cautions": told}
        )

    session.run(work)


@policy.command(epilog='Example: deltaferry policy delete gold --reason "replaced by silver"')
def delete(name: NameArgument, reason: ReasonOption = "", config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Delete a named policy; replications that were given it keep it."""
    session = Session(config, as_json=as_json)

    async def work(client: Client) -> None:
        known = sorted(one.name for one in await _policies(client))
        if name not in known:
            raise _missing(name, known)
        handle: WorkflowHandle[Any, Any] = client.get_workflow_handle(names.POLICIES_ID)
        sentence = await update(handle, "delete_policy", PolicyName(name, reason), within=_ACCEPT_WITHIN)
        session.output.result(Text(sentence), {"name": name, "result": sentence})

    session.run(work)


def _book() -> WithStartWorkflowOperation[Any, Any]:
    return WithStartWorkflowOperation(
        names.POLICY_BOOK,
        id=names.POLICIES_ID,
        task_queue=names.CONTROL_QUEUE,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
    )


async def _policies(client: Client) -> list[ReplicationPolicy]:
    """Return the named policies; none where nobody has made one yet."""
    try:
        found: list[ReplicationPolicy] = await client.get_workflow_handle(names.POLICIES_ID).query(
            "policies", result_type=list[ReplicationPolicy], rpc_timeout=_ANSWER_WITHIN
        )
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        return []
    return found


def _missing(name: str, known: list[str]) -> CommandError:
    return CommandError(
        ExitCode.NOT_FOUND,
        f"There is no policy {name}. Those there are: {', '.join(known) or 'none'}.",
        "`deltaferry policy create` makes one.",
        ErrorKind.BAD_INPUT,
    )


def _table(found: list[ReplicationPolicy]) -> Table:
    table = Table("policy", "RPO threshold", "points kept", "app-consistent", "reverse delta every", "failback RPO")
    for one in found:
        table.add_row(
            one.name,
            duration_text(one.rpo_threshold),
            duration_text(one.retention),
            _every(one.app_consistent_every),
            duration_text(one.failback.interval),
            _every(one.failback.rpo_threshold),
        )
    return table


def _every(value: timedelta | None) -> str:
    return duration_text(value) if value is not None else "never"
