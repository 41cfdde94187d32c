"""`deltaferry lab` and `make lab`: the lab by itself, in the foreground, with what is needed to use it."""

import shlex
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType

from lab.configuration import VCENTER_PASSWORD, VCENTER_USER
from lab.settings import LabSettings, no_vms
from lab.vcenter.inventory_file import VmSpec
from lab.virtual_machines import BuiltVm, build_vm, start_guest
from lab.world import World


def run_lab(directory: Path, settings: LabSettings | None = None, announce: Callable[[str], object] = sys.stdout.write) -> None:
    """Start a lab, say how to use it, and stop it at Ctrl-C or SIGTERM; call it in the main thread. Raises LabError.

    Settings without VMs get one busy VM, `web-01`.
    """
    chosen = settings or LabSettings()
    built: list[BuiltVm] = []

    def one_vm(images: Path) -> tuple[VmSpec, ...]:
        built.append(build_vm(images))
        return tuple(vm.spec for vm in built)

    if chosen.vms is no_vms:
        chosen = replace(chosen, vms=one_vm)
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        announce("Starting the lab …\n")
        with World(directory, chosen) as world:
            environment_file = write_environment(world)
            for vm in built:
                start_guest(world, vm, world.directory / f"{vm.spec.name}.journal")
            announce(_description(world, environment_file))
            threading.Event().wait()
    except KeyboardInterrupt:
        announce("The lab has stopped.\n")
    finally:
        signal.signal(signal.SIGTERM, previous)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def write_environment(world: World) -> Path:
    """Write the variables that the lab's settings file refers to as a file for the shell; only its owner may read it."""
    file = world.directory / "environment.sh"
    variables = {**world.environment, "DELTAFERRY_CONFIG": str(world.config_file)}
    file.touch(mode=0o600)
    file.write_text("".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()))
    return file


def _description(world: World, environment_file: Path) -> str:
    where = world.endpoints
    rows = [
        ("Temporal", where.temporal),
        ("Temporal UI", world.temporal.ui_url or "off"),
        ("vCenter", where.vcenter),
        ("  user", world.environment[VCENTER_USER]),
        ("  password", world.environment[VCENTER_PASSWORD]),
        *((f"NBD of {host}", address) for host, address in where.nbd.items()),
        ("Azure Resource Manager", where.arm),
        *((f"{store} store", url) for store, url in where.accounts.items()),
        ("CA certificate", str(where.ca_file)),
        ("settings", str(world.config_file)),
        ("logs", str(world.directory / "logs")),
    ]
    table = "".join(f"  {name:<24}{value}\n" for name, value in rows)
    return f"The lab runs. Ctrl-C stops it.\n\n{table}\nTo use it in another shell:  . {environment_file}\n"
