"""`deltaferry worker`: one worker process in the foreground."""

import asyncio
import json
import sys
from typing import Annotated, Literal

import typer

from console.client import connect
from console.late import late
from console.options import ConfigOption, JsonOption
from console.session import Session
from workers.logs import configure_logs

app = typer.Typer()

RoleName = Literal["control", "source", "target"]


@app.command(epilog="Example: deltaferry worker source --config /etc/deltaferry.toml --appliance appliance-2")
def worker(
    role: Annotated[RoleName, typer.Argument(help="control: workflows; source: beside vCenter; target: beside the storage.")],
    appliance: Annotated[
        str | None,
        typer.Option("--appliance", metavar="NAME", help="Serve only the transfers of this scale-out appliance (role source)."),
    ] = None,
    build_id: Annotated[str | None, typer.Option("--build-id", metavar="ID", help="Version of this worker's deployment.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Serve a role's task queues until Ctrl-C or SIGTERM.

    Prints one JSON line on standard output, {"ready": true, "role": …}, when it serves. Logs go to standard error.
    """
    session = Session(config, as_json=as_json)

    def ready() -> None:
        sys.stdout.write(json.dumps({"ready": True, "role": role}) + "\n")
        sys.stdout.flush()

    def work() -> None:
        if appliance is not None and role != "source":
            raise typer.BadParameter("--appliance is for the role source: only its transfers can be scaled out.")
        settings = session.required_settings()
        configure_logs(settings.logs.level, settings.logs.format)
        # Asked first, so that an unreachable server has the exit code of one, and before the slow imports.
        asyncio.run(_reach(session))
        serving = late("workers.serving")
        asyncio.run(serving.serve(settings, serving.Role(role), appliance=appliance, build_id=build_id, ready=ready))

    session.carry_out(work)


async def _reach(session: Session) -> None:
    await connect(session.settings())
