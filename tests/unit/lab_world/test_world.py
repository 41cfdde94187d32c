"""One world with all its parts, on small disks."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from temporalio.client import Client

from deltaferry.model.extents import Extent
from deltaferry.model.units import MIB, SECTOR
from lab.configuration import ARM_TOKEN, VCENTER_PASSWORD, VCENTER_USER
from lab.guest_journal import WriteKind, lost_writes, read_journal, stop_reason, surviving
from lab.images import DiskImage, build_data_disk
from lab.settings import LabSettings
from lab.virtual_machines import BuiltVm, start_guest, vm_of
from lab.world import World
from tests.unit.lab_world.test_processes import gone
from workers.settings import Reader, parse_settings

_SIZE = 8 * MIB + 37 * SECTOR
_WRITABLE = (Extent(SECTOR, 2 * MIB), Extent(4 * MIB, _SIZE - 4 * MIB))


@dataclass(frozen=True, slots=True)
class Lab:
    world: World
    vm: BuiltVm


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    built: list[BuiltVm] = []

    def vms(images: Path) -> tuple[object, ...]:
        disks = [build_data_disk(images / f"{number}.raw", _SIZE) for number in (1, 2)]
        built.append(vm_of("web-01", [DiskImage(disk.path, disk.size_bytes, _WRITABLE) for disk in disks]))
        return (built[0].spec,)

    settings = LabSettings(vms=vms, search_attributes={"Phase": "Keyword", "NeedsAttention": "Bool"}, with_ui=False)
    with World(tmp_path_factory.mktemp("world") / "lab", settings) as world:
        yield Lab(world, built[0])


def test_the_settings_file_is_what_workers_read_and_holds_no_secret(lab: Lab) -> None:
    text = lab.world.config_file.read_bytes()
    settings = parse_settings(text, "deltaferry.toml")
    site, target = settings.sites["lab"], settings.targets["lab"]
    environment = lab.world.environment
    assert (site.reader, site.target, site.appliance) == (Reader.NBD, "lab", "appliance-1")
    assert site.user.read(environment) == environment[VCENTER_USER]
    assert target.seed.key is not None and target.seed.key.read(environment) == lab.world.account_key("seed")
    secrets = [
        environment[VCENTER_PASSWORD],
        environment[ARM_TOKEN],
        *(lab.world.account_key(store) for store in ("log", "gateway", "seed")),
    ]
    assert not [secret for secret in secrets if secret.encode() in text]
    assert not [secret for secret in secrets if secret in repr(lab.world) + repr(lab.world.arm.process)]


def test_no_secret_is_in_the_arguments_of_any_process(lab: Lab) -> None:
    parts = [lab.world.temporal.process, lab.world.blobs.azurite, lab.world.blobs.front, lab.world.arm.process, lab.world.vcenter]
    commands = b"".join(Path(f"/proc/{part.pid}/cmdline").read_bytes() for part in parts)
    assert b"azurite" in commands
    secrets = [value for name, value in lab.world.environment.items() if name not in (VCENTER_USER, "LAB_KEY_FILE")]
    assert not [secret for secret in secrets if secret.encode() in commands]


async def test_temporal_knows_the_search_attributes_and_forgets_workflows_only_when_its_database_is_lost(lab: Lab) -> None:
    async def ids() -> list[str]:
        client = await Client.connect(lab.world.temporal.address)
        return [workflow.id async for workflow in client.list_workflows("Phase IS NULL AND NeedsAttention IS NULL")]

    client = await Client.connect(lab.world.temporal.address)
    await client.start_workflow("NoWorker", id="w-1", task_queue="nobody")
    lab.world.temporal.restart()
    client = await Client.connect(lab.world.temporal.address)
    assert (await client.get_workflow_handle("w-1").describe()).workflow_type == "NoWorker"
    lab.world.temporal.lose_everything()
    assert await ids() == []


def test_a_guest_writes_inside_its_ranges_until_its_vm_powers_off_and_nothing_it_was_told_is_written_is_lost(lab: Lab) -> None:
    control, journal = lab.world.vcenter_control, lab.world.directory / "journal"
    guest = start_guest(lab.world, lab.vm, journal, bytes_per_second=32 * MIB)
    kinds: set[WriteKind] = set()
    while len(kinds) < 4:
        assert guest.running
        kinds = {entry.kind for entry in read_journal(journal)}
    control.power_off(control.vm("web-01").moref)
    assert guest.wait(30) == 0
    entries = read_journal(journal)
    assert (stop_reason(entries) or "").startswith("the VM stopped")
    for disk in control.vm("web-01").disks:
        image = lab.world.directory / f"{disk.key}.dump"
        control.dump(control.vm("web-01").moref, disk.key, image)
        assert len(surviving(entries, disk.key)) > 3
        assert lost_writes(entries, disk.key, image) == ()
        content = image.read_bytes()
        begun = lab.vm.images[disk.key - 2000].path.read_bytes()
        assert content != begun
        untouched = slice(_WRITABLE[0].end_bytes, _WRITABLE[1].offset_bytes)
        assert (content[:SECTOR], content[untouched]) == (begun[:SECTOR], begun[untouched])


_FOREGROUND = """
import sys
from pathlib import Path
from lab.foreground import run_lab
from lab.images import DiskImage
from lab.settings import LabSettings
from lab.virtual_machines import vm_of
def vms(images):
    (images / "disk.raw").write_bytes(bytes(1 << 20))
    return (vm_of("tiny", [DiskImage(images / "disk.raw", 1 << 20, ())]).spec,)
def announce(text):
    sys.stdout.write(text); sys.stdout.flush()
run_lab(Path(sys.argv[1]), LabSettings(vms=vms, with_ui=False), announce)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_lab_in_the_foreground_says_how_to_use_it_and_leaves_nothing_running(tmp_path: Path, number: signal.Signals) -> None:
    lab = subprocess.Popen(
        [sys.executable, "-c", _FOREGROUND, str(tmp_path / "lab")],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # what runs behind a script ignores it otherwise
    )
    assert lab.stdout is not None
    said = ""
    while "To use it in another shell" not in said:
        line = lab.stdout.readline()
        assert line, said
        said += line
    children = [int(pid) for pid in Path(f"/proc/{lab.pid}/task").rglob("children") for pid in pid.read_text().split()]
    assert len(children) == 5
    os.kill(lab.pid, number)
    assert lab.wait(60) == (-signal.SIGKILL if number is signal.SIGKILL else 0)
    assert all(gone(pid) for pid in children)
    environment = tmp_path / "lab" / "environment.sh"
    assert environment.stat().st_mode & 0o777 == 0o600
    shell = f'. "{environment}"; test -s "$DELTAFERRY_CONFIG" && test -n "$LAB_ARM_TOKEN"'
    assert subprocess.run(["sh", "-c", shell], check=False).returncode == 0
