"""`group`: replication groups, whose VMs share recovery points; made, changed and looked at."""

import asyncio
from datetime import timedelta
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle, WorkflowQueryFailedError
from temporalio.service import RPCError, RPCStatusCode

from console import client as replicating
from console.group_views import group_table, points_table
from console.options import ConfigOption, JsonOption, ReasonOption, VmArgument, read_duration, validated
from console.outcomes import CommandError, ExitCode
from console.output import local_time
from console.session import Session
from deltaferry.model.errors import ErrorKind
from deltaferry.planning.replication_group import WARNING
from workflows import names
from workflows.messages.group import GroupResult, GroupView
from workflows.messages.group_input import GroupChange, GroupInput, GroupMemberInput
from workflows.messages.operator_input import Reason

app = typer.Typer()
group = typer.Typer(
    name="group",
    help="Make and look at replication groups, whose VMs share recovery points.",
    epilog="Example: deltaferry group create shop web-01 db-01 --site lon1",
    no_args_is_help=True,
)
app.add_typer(group)

_ANSWER_WITHIN = timedelta(seconds=20)
_ACCEPT_WITHIN = timedelta(seconds=90)
"""A replication may take a minute to say whether it joins."""
_POLL_S = 0.2
_PREFIX = names.group_id("", "").partition("/")[0] + "/"

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The group's name, or its workflow id.")]
GroupSiteOption = Annotated[
    str | None, typer.Option("--site", metavar="SITE", help="The group's site; needed where several sites have such a group.")
]


@group.command(epilog='Example: deltaferry group create shop web-01 db-01 --site lon1 --interval 1h --reason "one application"')
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The group's name.")],
    vms: Annotated[list[str], typer.Argument(metavar="VM…", help="Its VMs: two or more that replicate from one site.")],
    site: Annotated[str | None, typer.Option("--site", metavar="SITE", help="Where the VMs are looked for.")] = None,
    interval: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Between two shared points; the site's shortest interval if not given.")
    ] = None,
    wait: Annotated[
        str, typer.Option(metavar="DURATION", help="How long all members are waited for, at most 1h; then they go alone.")
    ] = "15m",
    max_spread: Annotated[
        str, typer.Option(metavar="DURATION", help="How far apart the snapshots may be taken, at most 5m.")
    ] = "10s",
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a group; its first shared point is taken at once."""
    session = Session(config, as_json=as_json)

    async def work(client: Client) -> None:
        members = [(await replicating.find(client, vm, site)).id for vm in vms]
        where = members[0].split("/")[1]
        durations = {"interval": interval, "wait": wait, "max_spread": max_spread}
        given = {key: read_duration(value) for key, value in durations.items() if value is not None}
        request = validated(GroupInput, {"name": name, "site": where, "members": members, "reason": reason, **given}, "group")
        handle: WorkflowHandle[Any, Any] = await client.start_workflow(
            names.REPLICATION_GROUP,
            request,
            id=names.group_id(where, name),
            task_queue=names.CONTROL_QUEUE,
            result_type=GroupResult,
            static_summary=f"replication group {name}",
        )
        view = await _made(handle)
        session.output.result(
            Group(Text(WARNING, style="yellow"), group_table(view)),
            {"workflow_id": handle.id, "group": view, "warning": WARNING},
        )

    session.run(work)


@group.command("list", epilog="Example: deltaferry group list")
def list_groups(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List the replication groups of all sites."""
    session = Session(config, as_json=as_json)

    async def work(client: Client) -> None:
        views = [(one, await _status(client.get_workflow_handle(one))) for one in await _groups(client)]
        table = Table("group", "site", "members", "last shared point", "now", box=None, pad_edge=False)
        for _, view in views:
            last = local_time(view.points[0].taken_at) if view.points else "none"
            table.add_row(view.name, view.site, ", ".join(member.vm for member in view.members), last, view.activity)
        session.output.result(table, {"groups": [{"workflow_id": one, "group": view} for one, view in views]})

    session.run(work)


@group.command(epilog="Example: deltaferry group show shop")
def show(name: NameArgument, site: GroupSiteOption = None, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show a group: members, what it does, its shared points, and what kept others from being shared."""
    session = Session(config, as_json=as_json)

    async def work(client: Client) -> None:
        handle = await _find(client, name, site)
        view = await _status(handle)
        session.output.result(group_table(view), {"workflow_id": handle.id, "group": view})

    session.run(work)


@group.command(epilog="Example: deltaferry group points shop")
def points(name: NameArgument, site: GroupSiteOption = None, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List the shared points, newest first: each can be the --point of a test or failover of every member."""
    session = Session(config, as_json=as_json)

    async def work(client: Client) -> None:
        handle = await _find(client, name, site)
        view = await _status(handle)
        rows = [
            {
                "point": f"shared:{one.key}",
                "taken_at": one.taken_at,
                "spread_s": one.spread.total_seconds(),
                "members": one.members,
            }
            for one in view.points
        ]
        session.output.result(points_table(view.points), {"workflow_id": handle.id, "points": rows})

    session.run(work)


@group.command(epilog='Example: deltaferry group add shop web-02 --reason "a second front end"')
def add(
    name: NameArgument,
    vm: VmArgument,
    site: GroupSiteOption = None,
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a VM into a group."""
    _change(Session(config, as_json=as_json), name, vm, site, "add_member", reason)


@group.command(epilog='Example: deltaferry group remove shop web-02 --reason "it is switched off"')
def remove(
    name: NameArgument,
    vm: VmArgument,
    site: GroupSiteOption = None,
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a VM out of a group; it goes on replicating on its own."""
    _change(Session(config, as_json=as_json), name, vm, site, "remove_member", reason)


@group.command(epilog='Example: deltaferry group change shop --interval 2h --reason "the database is slow at night"')
def change(
    name: NameArgument,
    interval: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help='Between two shared points; "site" for the site\'s shortest interval again.'),
    ] = None,
    wait: Annotated[str | None, typer.Option(metavar="DURATION", help="How long all members are waited for, at most 1h.")] = None,
    max_spread: Annotated[
        str | None, typer.Option(metavar="DURATION", help="How far apart the snapshots may be taken, at most 5m.")
    ] = None,
    site: GroupSiteOption = None,
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change a group's settings while it runs; a point that is being taken keeps to those that it began with."""
    session = Session(config, as_json=as_json)

    async def work(client: Client) -> None:
        durations = {"interval": None if interval == "site" else interval, "wait": wait, "max_spread": max_spread}
        given = {key: read_duration(value) for key, value in durations.items() if value is not None}
        request = validated(GroupChange, {"site_interval": interval == "site", "reason": reason, **given}, "change_group")
        handle = await _find(client, name, site)
        sentence = await replicating.update(handle, "change_group", request, within=_ACCEPT_WITHIN)
        view = await _status(handle)
        session.output.result(
            Group(Text(sentence), group_table(view)),
            {"workflow_id": handle.id, "operation": "change_group", "result": sentence, "group": view},
        )

    session.run(work)


@group.command("take-point", epilog='Example: deltaferry group take-point shop --reason "before the release"')
def take_point(
    name: NameArgument,
    site: GroupSiteOption = None,
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a shared point as soon as all members are idle."""
    _send(Session(config, as_json=as_json), name, site, "take_point", reason)


@group.command(epilog='Example: deltaferry group dissolve shop --reason "the application is gone"')
def dissolve(
    name: NameArgument,
    site: GroupSiteOption = None,
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a group; its VMs go on replicating, each on its own."""
    _send(Session(config, as_json=as_json), name, site, "dissolve", reason)


def _change(session: Session, name: str, vm: str, site: str | None, verb: str, reason: str) -> None:
    async def work(client: Client) -> None:
        handle = await _find(client, name, site)
        of_site = handle.id.split("/")[1]
        known = {member.vm: member.replication for member in (await _status(handle)).members}
        member = known.get(vm) or (await replicating.find(client, vm, of_site)).id  # one that is gone is taken out by its name
        sentence = await replicating.update(handle, verb, GroupMemberInput(member, reason), within=_ACCEPT_WITHIN)
        session.output.result(Text(sentence), {"workflow_id": handle.id, "member": member, "result": sentence})

    session.run(work)


def _send(session: Session, name: str, site: str | None, verb: str, reason: str) -> None:
    async def work(client: Client) -> None:
        handle = await _find(client, name, site)
        sentence = await replicating.update(handle, verb, Reason(reason), within=_ACCEPT_WITHIN)
        session.output.result(Text(sentence), {"workflow_id": handle.id, "operation": verb, "result": sentence})

    session.run(work)


async def _made(handle: WorkflowHandle[Any, Any]) -> GroupView:
    """Wait until the members have joined; raises WorkflowFailureError, with every reason, where the group was refused."""
    while True:
        described = await handle.describe()
        if described.status is not WorkflowExecutionStatus.RUNNING:
            await handle.result()
        try:
            view = await _status(handle)
        except WorkflowQueryFailedError:  # it has ended since it was described
            continue
        if view.members:
            return view
        await asyncio.sleep(_POLL_S)


async def _status(handle: WorkflowHandle[Any, Any]) -> GroupView:
    view: GroupView = await handle.query("status", result_type=GroupView, rpc_timeout=_ANSWER_WITHIN)
    return view


async def _groups(client: Client) -> list[str]:
    query = f"WorkflowType = '{names.REPLICATION_GROUP}' AND ExecutionStatus = 'Running'"
    return sorted([one.id async for one in client.list_workflows(query)])


async def _find(client: Client, name: str, site: str | None) -> WorkflowHandle[Any, Any]:
    """Return the handle of a group that runs. Raises CommandError."""
    if name.startswith(_PREFIX) or site is not None:
        workflow_id = name if name.startswith(_PREFIX) else names.group_id(site or "", name)
        handle: WorkflowHandle[Any, Any] = client.get_workflow_handle(workflow_id)
        try:
            runs = (await handle.describe()).status is WorkflowExecutionStatus.RUNNING
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
            runs = False
        found = [workflow_id] if runs else []
    else:
        found = [one for one in await _groups(client) if one.endswith(f"/{name}")]
    if len(found) > 1:
        raise CommandError(ExitCode.USAGE, f"Several sites have a group {name}: {', '.join(found)}.", "Give --site.")
    if not found:
        raise CommandError(
            ExitCode.NOT_FOUND, f"There is no replication group {name}.", "`deltaferry group list` shows those there are.", ErrorKind.BAD_INPUT
        )  # fmt: skip
    return client.get_workflow_handle(found[0])
