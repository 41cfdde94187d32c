"""`list`, `status` and `watch`: the commands that only look."""

import typer
from temporalio.client import Client

from console import client as replicating
from console.following import follow, look
from console.options import ConfigOption, JsonOption, SiteFilter, SiteOption, VmArgument
from console.session import Session
from console.views import replication_view, replications_table

app = typer.Typer()


@app.command("list", epilog="Example: deltaferry list --site lon1")
def list_replications(
    site: SiteFilter = None,
    state: str | None = typer.Option(
        None, "--state", metavar="STATE", help='Only replications in this state, e.g. "Delta sync".'
    ),
    ended_too: bool = typer.Option(False, "--all", help="Those that have ended too, as long as the Temporal server keeps them."),
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the replications with their states."""
    session = Session(config, as_json=as_json)

    async def work(client: Client) -> None:
        rows = [row async for row in replicating.replications(client, site=site, ended_too=ended_too)]
        rows = sorted(
            (row for row in rows if state in (None, row.replication_state)), key=lambda row: (row.site, row.vm, row.started_at)
        )
        session.output.result(replications_table(rows), {"replications": rows})

    session.run(work)


@app.command(epilog="Example: deltaferry status web-01 --site lon1 --json")
def status(vm: VmArgument, site: SiteOption = None, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show a replication: states, progress, disks, last cycles, health, and what can be sent now."""
    session = Session(config, as_json=as_json)

    async def work(client: Client) -> None:
        shown = await look(client, await replicating.find(client, vm, site))
        session.output.result(replication_view(shown), shown)

    session.run(work)


@app.command(epilog="Example: deltaferry watch web-01")
def watch(vm: VmArgument, site: SiteOption = None, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show a replication live, refreshed each second, until it ends or Ctrl-C."""
    session = Session(config, as_json=as_json)

    async def work(client: Client) -> None:
        shown = await follow(client, await replicating.find(client, vm, site), session.output, lambda _: False)
        session.output.result(replication_view(shown), shown)

    session.run(work)
