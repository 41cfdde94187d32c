"""`discover`: a site's VMs, as the last inventory has them."""

from typing import Annotated

import typer
from temporalio.client import Client

from console.discovery_views import inventory_view, vm_row
from console.inventories import known_site, selection_of, site_settings
from console.options import ConfigOption, JsonOption
from console.session import Session
from deltaferry.planning.selection import FIELDS, FLAGS

app = typer.Typer()

WhereOption = Annotated[
    str | None,
    typer.Option(
        "--where",
        metavar="EXPR",
        help=f"Only VMs that an expression chooses, of {', '.join((*FIELDS, *FLAGS))}, with = != ~ !~ < <= > >=, and, or, not, ().",
    ),
]
RefreshOption = Annotated[bool, typer.Option("--refresh", help="Read vCenter now instead of taking the last inventory.")]


@app.command(epilog='Example: deltaferry discover lon1 --where "folder=/Production/* and not replicated"')
def discover(
    site: str = typer.Argument(metavar="SITE", help="The site whose VMs to list."),
    refresh: RefreshOption = False,
    where: WhereOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List a site's VMs with what matters for replication, from the last inventory, or from a new one."""
    session = Session(config, as_json=as_json)

    async def work(client: Client) -> None:
        settings = session.required_settings()
        site_settings(settings, site)
        selection = selection_of(where)
        known = await known_site(client, settings, site, session.output, refresh=refresh)
        found = known.inventory.found
        chosen = selection.among(known.candidates()) if selection is not None else found.vms
        data = {
            "site": site,
            "read_at": known.inventory.read_at,
            "age_s": known.age.total_seconds(),
            "listed": len(found.vms),
            "vms": [vm_row(known, vm) for vm in chosen],
            "datastores": found.datastores,
            "unreadable": found.unreadable,
        }
        session.output.result(inventory_view(known, chosen), data)

    session.run(work)
