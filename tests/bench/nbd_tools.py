"""Stage 1 from `nbdkit file` against `nbdcopy` between two nbdkits, which neither hashes, compresses nor encrypts."""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from deltaferry.blocks.plan import Plan
from deltaferry.ports.access import NbdAddress
from lab.processes import ManagedProcess, ProcessSpec
from tests.bench.image import Image, make_image
from tests.bench.machine import measured
from tests.bench.report import Bench, Measure, NotMeasured, median_seconds, pairs, speed_ratio
from tests.bench.rig import Rig, RigDisk, unpaced_plane
from tests.bench.stages import whole_plan

_PACKAGES = {"nbdkit": "nbdkit", "nbdcopy": "libnbd-bin"}
_READY_WITHIN_S = 10.0
_DISK_KEY = 2000


def measure_nbd_tools(bench: Bench) -> Iterator[Measure]:
    """Measure it. Raises NotMeasured where nbdkit or nbdcopy is not installed."""
    missing = [package for tool, package in _PACKAGES.items() if shutil.which(tool) is None]
    if missing:
        raise NotMeasured(f"apt install {' '.join(missing)}")
    image = make_image(bench.directory, bench.image_bytes)
    with ExitStack() as stack:
        rig = stack.enter_context(Rig(bench.directory, image))
        copy = rig.directory / "copy.raw"
        shutil.copyfile(image.path, copy)
        Image(copy, image.size_bytes).warm()
        source = _nbdkit(stack, rig.directory, "source", image.path)
        target = _nbdkit(stack, rig.directory, "target", copy)
        disks = (_disk(whole_plan(image.size_bytes), source),)
        plane = unpaced_plane()
        ours, theirs = pairs(
            bench.pairs,
            lambda: measured(lambda: rig.send(plane, disks, rig.log(kept=False))),
            lambda: measured(lambda: _nbdcopy(source, target)),
        )
        yield Measure(
            *("nbdcopy_ratio", speed_ratio(ours, theirs), "", 0.5, True, image.size_bytes / median_seconds(theirs) / 1e9),
            f"speed of stage 1 from nbdkit to the sink against nbdcopy; {image.size_bytes / median_seconds(ours) / 1e9:.2f} GB/s; "
            "baseline: nbdcopy's GB/s",
        )


def _disk(plan: Plan, socket: Path) -> RigDisk:
    return RigDisk(_DISK_KEY, NbdAddress(unix_path=str(socket), export=""), plan)


def _nbdkit(stack: ExitStack, directory: Path, name: str, file: Path) -> Path:
    """Start nbdkit on a file and return its socket once it serves."""
    socket = directory / f"{name}.sock"
    command = ("nbdkit", "--foreground", "--exit-with-parent", "--unix", str(socket), "file", str(file))
    process = stack.enter_context(ManagedProcess(ProcessSpec(f"nbdkit-{name}", command, directory, {})))
    _until(socket.exists, lambda: process.running)
    return socket


def _until(reached: Callable[[], bool], running: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _READY_WITHIN_S
    while not reached():
        if not running() or time.monotonic() > deadline:
            raise RuntimeError("nbdkit did not begin to serve")
        time.sleep(0.01)


def _nbdcopy(source: Path, target: Path) -> None:
    addresses = (f"nbd+unix:///?socket={socket}" for socket in (source, target))
    subprocess.run(["nbdcopy", *addresses], check=True)
