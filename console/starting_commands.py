"""`enable` and `adopt`: the commands that start replications."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.text import Text
from temporalio.client import Client

from console import client as replicating
from console.discover_commands import RefreshOption, WhereOption
from console.discovery_views import NOT_CHECKED, outcomes_view, plan_view
from console.enabling_many import Which, choose, enable_all, planned, read_lines
from console.following import follow
from console.inventories import known_site, selection_of, site_settings
from console.options import (
    ConfigOption,
    JsonOption,
    PropertiesOption,
    TargetDiskSku,
    TargetLicenseType,
    TargetNetwork,
    TargetOsType,
    TargetResourceGroup,
    TargetSize,
    TargetSubnet,
    TargetTags,
    TargetVmName,
    TargetZone,
    WaitOption,
    target_properties,
    validated,
)
from console.outcomes import CommandError, ExitCode
from console.output import Output
from console.session import Session
from deltaferry.model.states import ReplicationState
from deltaferry.planning.enable_plan import Verdict
from deltaferry.planning.phrases import count_text
from workflows.messages.operator_input import AdoptInput, EnableInput, TargetProperties
from workflows.messages.site import EnableResult
from workflows.messages.step import AdoptResult
from workflows.messages.views import StatusView

app = typer.Typer()

CsvOption = Annotated[
    Path | None,
    typer.Option("--csv", metavar="FILE", help="Many VMs: a list with a column vm, and columns named as in --properties."),
]
DryRunOption = Annotated[
    bool,
    typer.Option("--dry-run", help="Start nothing; print what would be done, how long it would take, and which limits bind."),
]

_INITIAL = frozenset({ReplicationState.INITIAL_QUEUED, ReplicationState.INITIAL_IN_PROGRESS})
_SILENCE_S = 15.0
"""After so long without an answer the person who waits is told what may be missing."""


@app.command(epilog="Example: deltaferry enable web-01 --site lon1 --target-size Standard_D4s_v5 --wait")
def enable(
    vm: str | None = typer.Argument(None, metavar="VM", help="The VM's name, or its instance UUID."),
    site: str = typer.Option(metavar="SITE", help="The site whose vCenter has the VM."),
    target_vm_name: TargetVmName = None,
    target_size: TargetSize = None,
    target_resource_group: TargetResourceGroup = None,
    target_network: TargetNetwork = None,
    target_subnet: TargetSubnet = None,
    target_zone: TargetZone = None,
    target_disk_sku: TargetDiskSku = None,
    target_license_type: TargetLicenseType = None,
    target_os_type: TargetOsType = None,
    target_tag: TargetTags = None,
    properties: PropertiesOption = None,
    auto_repair: bool = typer.Option(
        True,
        "--auto-repair/--no-auto-repair",
        help="Whether a resync that is needed begins by itself in the site's off-hours window, or waits for repair.",
    ),
    policy: str | None = typer.Option(
        None, "--policy", metavar="NAME", help="The replication policy: one that `deltaferry policy create` has made. For one VM."
    ),
    wait: WaitOption = False,
    where: WhereOption = None,
    csv: CsvOption = None,
    dry_run: DryRunOption = False,
    refresh: RefreshOption = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check a VM and start its replication; with --wait, until the initial replication is done. Or many, by --where or --csv."""
    session = Session(config, as_json=as_json)
    if sum(given is not None for given in (vm, where, csv)) != 1:
        raise typer.BadParameter("Say which VMs, in one of three ways: one by VM, many by --where EXPR, or many by --csv FILE.")
    many = vm is None or dry_run
    if many and policy is not None:
        raise typer.BadParameter("--policy is for one VM that is enabled: give many theirs with `deltaferry set-policy`.")
    if many and wait:
        raise typer.BadParameter("--wait is for one VM that is enabled: `deltaferry list` shows how far many of them are.")

    def target() -> TargetProperties:
        return target_properties(
            properties,
            target_tag,
            vm_name=target_vm_name,
            size=target_size,
            resource_group=target_resource_group,
            network=target_network,
            subnet=target_subnet,
            zone=target_zone,
            disk_sku=target_disk_sku,
            license_type=target_license_type,
            os_type=target_os_type,
        )

    async def work(client: Client) -> None:
        if many:
            which = Which(vm, where, csv)
            await _enable_chosen(
                client, session, site, which, target(), auto_repair=auto_repair, dry_run=dry_run, refresh=refresh
            )
            return
        given = {"vm": vm, "site": site, "target": target(), "auto_repair": auto_repair, "policy": policy}
        request = validated(EnableInput, given, "enable")
        result = await _enabled(client, request, session.output)
        if not wait:
            session.output.result(_enabled_view(result), result)
            return
        handle = client.get_workflow_handle(result.workflow_id)
        shown = await follow(client, handle, session.output, _initial_is_over)
        if shown.status.replication_state != ReplicationState.DELTA_SYNC:
            raise _not_reached(shown.status)
        session.output.result(
            Group(_enabled_view(result), Text("The initial replication is done.")), {"enabled": result, "status": shown.status}
        )

    session.run(work)


@app.command(epilog="Example: deltaferry adopt --site lon1 --vm web-01")
def adopt(
    site: str = typer.Option(metavar="SITE", help="The site whose replications are to run again."),
    vm: str | None = typer.Option(None, metavar="VM", help="Only the replication of this VM: name or instance UUID."),
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start replications again from their commit records, after the Temporal database was lost or one was terminated."""
    session = Session(config, as_json=as_json)

    async def work(client: Client) -> None:
        result = await replicating.adopt(client, validated(AdoptInput, {"site": site, "vm": vm}, "adopt"))
        session.output.result(_adopted_view(result), result)

    session.run(work)


async def _enabled(client: Client, request: EnableInput, output: Output) -> EnableResult:
    handle = await replicating.start_enable(client, request)
    waiting = asyncio.ensure_future(handle.result())
    done, _ = await asyncio.wait([waiting], timeout=_SILENCE_S)
    if not done:
        output.note(f"Still waiting for {handle.id}: do the control worker, the site's source worker and the target worker run?")
    result: EnableResult = await waiting
    return result


async def _enable_chosen(
    client: Client,
    session: Session,
    site: str,
    which: Which,
    target: TargetProperties,
    *,
    auto_repair: bool,
    dry_run: bool,
    refresh: bool,
) -> None:
    settings = session.required_settings()
    site_settings(settings, site)
    selection_of(which.where)  # a mistake in what people wrote is told before anything is read
    lines = read_lines(which)
    known = await known_site(client, settings, site, session.output, refresh=refresh)
    choices = choose(known, which, lines, target, auto_repair=auto_repair)
    if dry_run:
        plan = await planned(client, known, choices)
        data = {"site": site, "read_at": known.inventory.read_at, "age_s": known.age.total_seconds(), "plan": plan}
        session.output.result(plan_view(known, plan), {**data, "not_checked": NOT_CHECKED})
        return
    outcomes = await enable_all(client, known, choices, session.output)
    counts = {verdict.name.lower(): sum(item.became is verdict for item in outcomes) for verdict in Verdict}
    session.output.result(outcomes_view(outcomes), {"site": site, **counts, "vms": outcomes})
    if counts["refused"]:
        raise typer.Exit(ExitCode.REFUSED)


def _initial_is_over(view: StatusView) -> bool:
    return view.replication_state not in _INITIAL


def _not_reached(view: StatusView) -> CommandError:
    if not view.health:
        return CommandError(
            ExitCode.FAILED, f"The initial replication was not finished: the replication is now {view.replication_state}."
        )
    error = view.health[0]
    return CommandError(ExitCode.FAILED, f"{view.replication_state}: {error.message}", error.remedy, error.kind)


def _enabled_view(result: EnableResult) -> RenderableType:
    lines = [Text(f"{result.vm_name} is being replicated."), Text(f"Workflow: {result.workflow_id}")]
    lines += [Text(f"Warning [{finding.code}]: {finding.cause} {finding.remedy}", style="yellow") for finding in result.warnings]
    return Group(*lines)


def _adopted_view(result: AdoptResult) -> RenderableType:
    lines = [f"{count_text(len(result.adopted), 'replication')} adopted."]
    lines += [f"  {workflow_id}" for workflow_id in result.adopted]
    lines += [f"Not adopted: {name}: {why}." for name, why in result.skipped]
    return Text("\n".join(lines))
