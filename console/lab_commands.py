"""`lab` and `demo`: the embedded world, alone or with a whole migration in it."""

import sys
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from console.late import late
from console.options import JsonOption
from console.outcomes import CommandError, ExitCode
from console.session import Session
from workflows import names

app = typer.Typer()


class DemoScenario(StrEnum):
    """What the demo shows."""

    MIGRATE = "migrate"
    DR = "dr"


_LABS = Path(".lab")
_LAB_INVENTORY_EVERY = timedelta(minutes=1)
DirectoryOption = Annotated[
    Path | None, typer.Option("--directory", metavar="DIR", help="The lab's folder; otherwise a new one under .lab/.")
]


def _folder(directory: Path | None, kind: str) -> Path:
    """Return the folder of a new lab: none is used twice, since its keys and databases belong together."""
    return directory or _LABS / f"{kind}-{datetime.now().astimezone():%Y%m%d-%H%M%S}"


@app.command(epilog="Example: deltaferry lab --directory .lab/mine")
def lab(directory: DirectoryOption = None, as_json: JsonOption = False) -> None:
    """Run the lab in the foreground: Temporal with its UI, a vCenter, storage accounts and Azure, until Ctrl-C."""
    session = Session(None, as_json=as_json)
    stream = sys.stderr if as_json else sys.stdout
    folder = _folder(directory, "lab")

    def announce(text: str) -> None:
        stream.write(text)
        stream.flush()

    def work() -> None:
        foreground, settings, processes = late("lab.foreground"), late("lab.settings"), late("lab.processes")
        try:
            chosen = settings.LabSettings(search_attributes=names.SEARCH_ATTRIBUTES, inventory_every=_LAB_INVENTORY_EVERY)
            foreground.run_lab(folder, chosen, announce)
        except processes.LabError as error:
            raise CommandError(ExitCode.FAILED, str(error), f"The lab's logs are in {folder / 'logs'}.") from None
        session.output.result(Text(f"Its folder stays: {folder}"), {"directory": folder, "stopped": True})

    session.carry_out(work)


@app.command(epilog="Example: deltaferry demo --scenario dr; deltaferry demo --disk ./server.raw --keep")
def demo(
    disk: Annotated[
        list[Path] | None,
        typer.Option(
            "--disk",
            metavar="PATH",
            help="An image of your own instead of the built one: raw, or VMDK, VHDX, qcow2 with qemu-img installed.",
        ),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the lab and its Temporal UI up afterwards, until Ctrl-C.")] = False,
    directory: DirectoryOption = None,
    scenario: Annotated[
        DemoScenario, typer.Option("--scenario", help="migrate: to Azure for good. dr: a drill, a failover, and the way back.")
    ] = DemoScenario.MIGRATE,
    as_json: JsonOption = False,
) -> None:
    """Replicate a running VM on the lab's real parts, migrate it or fail it over and back, and prove what was lost: nothing, or what is said."""
    session = Session(None, as_json=as_json)
    disks = list(disk or ())

    def work() -> None:
        missing = [str(path) for path in disks if not path.is_file()]
        if missing:
            raise CommandError(ExitCode.USAGE, f"There is no file {', '.join(missing)}.", "Give --disk the path of a disk image.")
        processes = late("lab.processes")
        try:
            run = (
                late("console.demo").run_demo
                if scenario is DemoScenario.MIGRATE
                else late("console.demo_recovery").run_recovery_demo
            )
            code: int = run(disks, keep, as_json, _folder(directory, "demo"))
        except processes.LabError as error:
            raise CommandError(ExitCode.FAILED, str(error)) from None
        raise typer.Exit(code)

    session.carry_out(work)
