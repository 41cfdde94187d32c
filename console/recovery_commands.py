"""Trying a VM out, failing over and coming back: the verbs of disaster recovery, and the recovery points."""

from collections.abc import Callable
from datetime import timedelta
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text
from temporalio.client import Client

from console import client as replicating
from console.options import (
    ConfigOption,
    JsonOption,
    ReasonOption,
    ShutdownTimeout,
    SiteOption,
    VmArgument,
    read_duration,
    validated,
)
from console.outcomes import CommandError, ExitCode
from console.output import local_time
from console.session import Session
from deltaferry.planning.dr_states import DrOperation
from deltaferry.planning.phrases import size_text
from workflows.messages.operator_input import (
    AlternateLocation,
    ChangePointOptions,
    CleanUpOptions,
    FailoverOptions,
    MigrateOptions,
    PolicyOptions,
    Reason,
    ReprotectOptions,
    TestOptions,
)
from workflows.messages.point_views import PointList

app = typer.Typer()

_POINTS = "latest, latest-app-consistent, a cycle key, shared:KEY as `group points` lists it, or an instant such as 2026-11-22T12:00:00Z"
PointOption = Annotated[str, typer.Option("--point", metavar="POINT", help=f"Which recovery point: {_POINTS}.")]


def _send(session: Session, vm: str, site: str | None, operation: DrOperation, argument: Callable[[], object]) -> None:
    async def work(client: Client) -> None:
        value = argument()
        handle = await replicating.find(client, vm, site)
        sentence = await replicating.send(handle, operation, value)
        session.output.result(Text(sentence), {"workflow_id": handle.id, "operation": operation, "result": sentence})

    session.run(work)


@app.command(epilog="Example: deltaferry points web-01")
def points(vm: VmArgument, site: SiteOption = None, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List the newest recovery points, and how many there are; what the points of a test or failover are chosen from."""
    session = Session(config, as_json=as_json)

    async def work(client: Client) -> None:
        handle = await replicating.find(client, vm, site)
        listed = (await replicating.status(handle)).points
        if listed is None:
            raise CommandError(
                ExitCode.REFUSED, f"{vm} has no recovery point yet.", "Wait for the first committed cycle, and ask again."
            )
        session.output.result(points_table(listed), {"workflow_id": handle.id, "points": listed})

    session.run(work)


@app.command("test", epilog="Example: deltaferry test web-01 --network drill")
def test_migrate(
    vm: VmArgument,
    network: Annotated[str, typer.Option("--network", metavar="NAME", help="An isolated virtual network for the test's VM.")],
    subnet: Annotated[str | None, typer.Option("--subnet", metavar="NAME", help="Its subnet.")] = None,
    point: PointOption = "latest",
    site: SiteOption = None,
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a VM from a recovery point in an isolated network, while replication goes on; clean-up deletes it again."""
    options = TestOptions(network=network, subnet=subnet, point=point, reason=reason)
    _send(Session(config, as_json=as_json), vm, site, DrOperation.TEST_MIGRATE, lambda: options)


@app.command("clean-up", epilog='Example: deltaferry clean-up web-01 --reason "all came up"')
def clean_up(
    vm: VmArgument,
    test: Annotated[int | None, typer.Option("--test", metavar="NUMBER", help="Only this test; all if not given.")] = None,
    site: SiteOption = None,
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete what tests have made in Azure: VM, network interface, disks, copies."""
    _send(Session(config, as_json=as_json), vm, site, DrOperation.CLEAN_UP, lambda: CleanUpOptions(test, reason))


@app.command(epilog="Example: deltaferry failover web-01 --point latest-app-consistent")
def failover(
    vm: VmArgument,
    point: PointOption = "latest",
    planned: Annotated[
        bool, typer.Option("--planned", help="Shut the source down and bring over what it wrote last: nothing is lost.")
    ] = False,
    leave_source: Annotated[
        bool, typer.Option("--leave-source", help="Unplanned: do not try to shut the source VM down first.")
    ] = False,
    shutdown_timeout: ShutdownTimeout = None,
    allow_power_off: Annotated[
        bool, typer.Option("--allow-power-off", help="Planned: power the source off hard if it has not shut down in time.")
    ] = False,
    site: SiteOption = None,
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start the VM in Azure: from a recovery point, whatever the site is like, or as planned without any loss."""

    def options() -> object:
        if not planned:
            return FailoverOptions(point=point, shut_down_source=not leave_source, reason=reason)
        if point != "latest" or leave_source:
            raise CommandError(
                ExitCode.USAGE,
                "A planned failover takes the point that its final delta makes, of a source that is shut down.",
                "Leave out --point and --leave-source, or leave out --planned.",
            )
        return MigrateOptions(
            shutdown_timeout=shutdown_timeout or timedelta(minutes=10), allow_power_off=allow_power_off, reason=reason
        )

    operation = DrOperation.PLANNED_FAILOVER if planned else DrOperation.FAILOVER
    _send(Session(config, as_json=as_json), vm, site, operation, options)


@app.command("change-point", epilog="Example: deltaferry change-point web-01 --point 2026-11-22T12:00:00Z")
def change_point(
    vm: VmArgument,
    point: Annotated[str, typer.Option("--point", metavar="POINT", help=f"Which recovery point: {_POINTS}.")],
    site: SiteOption = None,
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Replace a failed-over VM by one from another recovery point; what it has written in Azure is lost."""
    _send(Session(config, as_json=as_json), vm, site, DrOperation.CHANGE_POINT, lambda: ChangePointOptions(point, reason))


@app.command(epilog="Example: deltaferry commit web-01")
def commit(
    vm: VmArgument, site: SiteOption = None, reason: ReasonOption = "", config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Make a failover final: the other recovery points are deleted."""
    _send(Session(config, as_json=as_json), vm, site, DrOperation.COMMIT, lambda: Reason(reason))


@app.command("cancel-failover", epilog="Example: deltaferry cancel-failover web-01")
def cancel_failover(
    vm: VmArgument, site: SiteOption = None, reason: ReasonOption = "", config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Delete the failed-over VM, start the source again if Deltaferry stopped it, and replicate from where it was."""
    _send(Session(config, as_json=as_json), vm, site, DrOperation.CANCEL, lambda: Reason(reason))


@app.command(epilog="Example: deltaferry reprotect web-01")
def reprotect(
    vm: VmArgument,
    confirm_losses: Annotated[
        bool, typer.Option("--confirm-losses", help="What the source wrote after the point may be overwritten.")
    ] = False,
    power_off_source: Annotated[
        bool, typer.Option("--power-off-source", help="Power the source VM off where it runs: its disks are written to.")
    ] = False,
    datastore: Annotated[
        str | None, typer.Option("--datastore", metavar="NAME", help="Make a new VM at another place: its datastore.")
    ] = None,
    host: Annotated[str | None, typer.Option("--host", metavar="NAME", help="The new VM's ESXi host.")] = None,
    cluster: Annotated[str | None, typer.Option("--cluster", metavar="NAME", help="Or its cluster.")] = None,
    resource_pool: Annotated[
        str | None, typer.Option("--resource-pool", metavar="NAME", help="A resource pool of that host or cluster.")
    ] = None,
    folder: Annotated[
        str | None, typer.Option("--folder", metavar="PATH", help="The new VM's folder, such as /prod/web.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="The new VM's name, if not that of the old one.")
    ] = None,
    network: Annotated[
        list[str] | None,
        typer.Option("--network", metavar="OLD=NEW", help="Put adapters that were on OLD on the network NEW; may be repeated."),
    ] = None,
    site: SiteOption = None,
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Replicate a failed-over VM back to its site, to the VM that it came from or to a new one, and then by deltas."""

    def options() -> ReprotectOptions:
        place = {
            "datastore": datastore,
            "host": host,
            "cluster": cluster,
            "resource_pool": resource_pool,
            "folder": folder,
            "name": name,
            "networks": _mapping(network or []),
        }
        given = {field: value for field, value in place.items() if value}
        if given and datastore is None:
            raise CommandError(
                ExitCode.USAGE, "Another place for the VM needs a datastore.", "Give --datastore, with --host or --cluster."
            )
        location = validated(AlternateLocation, given, "location") if given else None
        return ReprotectOptions(confirm_losses, power_off_source, reason, location)

    _send(Session(config, as_json=as_json), vm, site, DrOperation.REPROTECT, options)


def _mapping(pairs: list[str]) -> dict[str, str]:
    """Return `OLD=NEW` pairs as a mapping. Raises CommandError."""
    read: dict[str, str] = {}
    for pair in pairs:
        old, separator, new = pair.partition("=")
        if not (separator and old and new) or old in read:
            raise CommandError(
                ExitCode.USAGE,
                f"--network {pair} cannot be used.",
                'Write each network that the VM was on once: --network "VM Network=prod".',
            )
        read[old] = new
    return read


@app.command(epilog="Example: deltaferry failback web-01")
def failback(
    vm: VmArgument, site: SiteOption = None, reason: ReasonOption = "", config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Stop the VM in Azure, bring its last changes home, and start it at its site."""
    _send(Session(config, as_json=as_json), vm, site, DrOperation.FAILBACK, lambda: Reason(reason))


@app.command("commit-failback", epilog="Example: deltaferry commit-failback web-01")
def commit_failback(
    vm: VmArgument, site: SiteOption = None, reason: ReasonOption = "", config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Delete the VM in Azure, and replicate the one at the site to Azure again."""
    _send(Session(config, as_json=as_json), vm, site, DrOperation.COMMIT_FAILBACK, lambda: Reason(reason))


@app.command("set-policy", epilog="Example: deltaferry set-policy web-01 gold --rpo 4h --retention 24h")
def set_policy(
    vm: VmArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The policy's name.")],
    rpo: Annotated[str, typer.Option("--rpo", metavar="DURATION", help="RPO threshold, e.g. 4h.")],
    retention: Annotated[str, typer.Option("--retention", metavar="DURATION", help="How long points are kept.")] = "24h",
    app_consistent: Annotated[
        str | None, typer.Option("--app-consistent", metavar="DURATION", help="How often a snapshot is quiesced, 1h to 12h.")
    ] = None,
    site: SiteOption = None,
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change a replication's policy: RPO threshold, retention of recovery points, app-consistent frequency."""

    def options() -> PolicyOptions:
        given: dict[str, object] = {"name": name, "rpo_threshold": rpo, "retention": retention, "reason": reason}
        if app_consistent is not None:
            given["app_consistent_every"] = app_consistent
        durations = {key: read_duration(value) for key, value in given.items() if key not in ("name", "reason")}
        return validated(PolicyOptions, {**given, **durations}, "policy")

    _send(Session(config, as_json=as_json), vm, site, DrOperation.UPDATE_POLICY, options)


def points_table(listed: PointList) -> RenderableType:
    """Return the newest points, of what kind each is, and why where that is less than was asked for."""
    table = Table("taken", "kind", "cycle", "changed", "in use", "note", box=None, pad_edge=False)
    for point in listed.newest:
        changed = size_text(point.changed_bytes) if point.changed_bytes is not None else "unknown"
        in_use = ", ".join(point.pinned_by)
        table.add_row(local_time(point.taken_at), point.kind.value, point.cycle_key, changed, in_use, point.note)
    older = listed.total - len(listed.newest)
    if older > 0:
        table.caption = f"and {older} older ones, down to {local_time(listed.oldest_at)}"
    return table
