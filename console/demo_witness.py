"""Who knows what the demo's disks have to hold at any step: the guests' journals, and the images that their disks began with."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from console.demo_lab import VM
from console.demo_stages import Proof, difference, settle
from deltaferry.model.replication import ReplicationRef
from deltaferry.model.units import MIB
from lab.guest_journal import read_journal, stop_reason
from lab.guest_replay import RecordedDisk, Recording
from lab.oracle import dump_point, target_disks
from lab.settings import SITE, TARGET
from lab.virtual_machines import BuiltVm, start_guest
from lab.world import World
from workflows.messages.point_views import PointView

_BYTES_PER_SECOND = MIB
_AZURE_SEED = 2
_INSTALLATION = "lab"


class Witness:
    """Compares real disks, of the site, of the replica and of Azure, with what the guest that wrote last says.

    `replication_id` has to be set before a point is looked at. Used by one thread at a time.
    """

    def __init__(self, world: World, vm: BuiltVm) -> None:
        self.replication_id = ""
        self._world, self._vm = world, vm
        source = world.vcenter_control.vm(VM)
        self._instance_uuid, self._moref = source.instance_uuid, source.moref
        self._keys = [disk.key for disk in source.disks]
        self._sizes = [disk.capacity_bytes for disk in source.disks]
        self._folder = world.directory / "reference"
        self._folder.mkdir()
        self._kept = 0
        self._before = tuple(image.path for image in vm.images)
        """What the disks hold, by the journals alone, when the next guest begins."""
        self._azure_vm = ""

    # --- the guests ---

    def start_guest(self, seed: int) -> None:
        """Let the VM at the site write, and note in a journal what."""
        journal = self._world.directory / f"{VM}-{seed}.journal"
        self._recording = self._of(journal, self._keys, seed)
        start_guest(self._world, self._vm, journal, _BYTES_PER_SECOND, seed)

    def switch_azure_guest(self, *, on: bool) -> None:
        """Let the VM in Azure write, or no more; return when it has stopped."""
        ranges = {
            number: [(extent.offset_bytes, extent.length_bytes) for extent in image.writable]
            for number, image in enumerate(self._vm.images)
        }
        self._world.arm_control.switch_guest(
            self._azure_vm, on=on, bytes_per_second=_BYTES_PER_SECOND, seed=_AZURE_SEED, ranges=ranges
        )

    def azure_writes(self) -> int:
        """Return how many writes the VM in Azure has made."""
        return self._world.arm_control.guest(self._azure_vm).last_sequence

    def written_after(self, instant: datetime) -> int:
        """Return how many writes the guest has made since an instant."""
        return self._recording.written_after(instant.timestamp())

    def journal_reaches(self, instant: datetime) -> bool:
        """Return whether the journal tells by now all that was written before an instant."""
        return self._recording.reaches(instant.timestamp())

    def guest_stopped(self) -> bool:
        """Return whether the guest's journal has ended."""
        return stop_reason(read_journal(self._recording.journal)) is not None

    def move_to_azure(self, vm_id: str) -> None:
        """From now on the VM in Azure is the one that writes."""
        self._azure_vm = vm_id
        journal = self._world.arm_control.guest(vm_id).journal
        self._recording = self._of(journal, list(range(len(self._sizes))), _AZURE_SEED)

    def move_home(self, seed: int) -> None:
        """From now on the VM at the site writes again."""
        self.switch_azure_guest(on=False)
        self.start_guest(seed)

    # --- the proofs ---

    def point(self, point: PointView) -> Proof:
        """Prove a recovery point: its disks in the seed account."""
        ref = ReplicationRef(_INSTALLATION, SITE, TARGET, self._instance_uuid, self.replication_id)
        with self._scratch() as folder:
            held = dump_point(self._world, ref, point.cycle_key, dict(zip(self._keys, self._sizes, strict=True)), folder / "seed")
            images, same = settle(self._recording.images(folder, point.taken_at.timestamp()), held, self._sizes)
            return Proof(same, difference(images, held, self._sizes), 0)

    def made(self, vm_id: str, point: PointView) -> Proof:
        """Prove a VM that was made from a point while the source writes on."""
        with self._scratch() as folder:
            held = self._in_azure(vm_id)
            images, same = settle(self._recording.images(folder, point.taken_at.timestamp()), held, self._sizes)
            return Proof(same, difference(images, held, self._sizes), 0)

    def made_instead(self, vm_id: str, point: PointView | None) -> Proof:
        """Prove a VM in Azure that takes the source's place: as at a point, or as at the source's end."""
        with self._scratch() as folder:
            held, replaced = self._in_azure(vm_id), self._dumps(folder)
            instant = None if point is None else point.taken_at.timestamp()
            images, same = settle(self._recording.images(folder / "point", instant), held, self._sizes)
            end, _ = settle(self._recording.images(folder / "end"), replaced, self._sizes)
            lost, expected = difference(replaced, held, self._sizes), difference(end, images, self._sizes)
            self._keep(images)
            return Proof(same, lost, expected)

    def in_azure(self) -> Proof:
        """Prove the disks of the VM in Azure, whose guest is off."""
        with self._scratch() as folder:
            held = self._in_azure(self._azure_vm)
            images, same = settle(self._recording.images(folder), held, self._sizes)
            return Proof(same, difference(images, held, self._sizes), 0)

    def at_home(self) -> Proof:
        """Prove that the disks at the site take the place of those in Azure, whose guest is off."""
        with self._scratch() as folder:
            held, replaced = self._dumps(folder), self._in_azure(self._azure_vm)
            images, same = settle(self._recording.images(folder / "end"), held, self._sizes)
            lost = difference(replaced, held, self._sizes)
            self._keep(images)
            return Proof(same, lost, 0)

    # --- disks ---

    def _of(self, journal: Path, keys: list[int], seed: int) -> Recording:
        disks = tuple(
            RecordedDisk(key, image.writable, before)
            for key, image, before in zip(keys, self._vm.images, self._before, strict=True)
        )
        return Recording(disks, journal, seed)

    def _keep(self, images: Sequence[Path]) -> None:
        """Let the next guest begin with these images."""
        self._kept += 1
        folder = self._folder / f"kept-{self._kept}"
        folder.mkdir()
        self._before = tuple(image.rename(folder / image.name) for image in images)

    def _in_azure(self, vm_id: str) -> list[Path]:
        return [file for _, file, _ in target_disks(self._world, vm_id)]

    def _dumps(self, folder: Path) -> list[Path]:
        """Read the disks at the site."""
        dumps = []
        for key in self._keys:
            dumps.append(folder / f"site-{key}.raw")
            self._world.vcenter_control.dump(self._moref, key, dumps[-1])
        return dumps

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            yield Path(folder)
