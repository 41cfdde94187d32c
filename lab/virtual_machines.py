"""The VMs that the lab is started with: their disks, and the guest that writes to them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deltaferry.model.units import MIB, SECTOR
from lab.guest_writer import GuestDiskSettings, GuestSettings
from lab.images import BootContent, DiskImage, build_boot_disk, build_data_disk, import_image
from lab.processes import LabError, ManagedProcess
from lab.settings import DATASTORES, ESXI_HOSTS, NETWORKS
from lab.vcenter.inventory_file import DiskSpec, NicSpec, VmSpec
from lab.world import World

GUEST_BYTES_PER_SECOND = 2 * MIB

_SMALL_BOOT = BootContent(12 * MIB, 12 * MIB, 12 * MIB, with_sources=False)
_SMALL_BOOT_BYTES = 96 * MIB
_SMALL_DATA_BYTES = 48 * MIB + 37 * SECTOR


@dataclass(frozen=True, slots=True)
class BuiltVm:
    """A VM for the inventory, and the images that its disks begin with, in the same order."""

    spec: VmSpec
    images: tuple[DiskImage, ...]


def build_vm(directory: Path, name: str = "web-01", images: Sequence[Path] = ()) -> BuiltVm:
    """Return a running Linux VM with two disks, or with the user's own images in place of the boot disk.

    Raises LabError for an image that cannot be used.
    """
    own = tuple(import_image(image, directory) for image in images)
    boot = own or (build_boot_disk(directory / f"{name}-boot.raw"),)
    return vm_of(name, (*boot, build_data_disk(directory / f"{name}-data.raw")))


def build_small_vm(directory: Path, name: str = "web-01", images: Sequence[Path] = ()) -> BuiltVm:
    """Return what `build_vm` does, with disks that are copied in a few seconds. Raises LabError as it."""
    own = tuple(import_image(image, directory) for image in images)
    boot = own or (build_boot_disk(directory / f"{name}-boot.raw", _SMALL_BOOT_BYTES, _SMALL_BOOT),)
    return vm_of(name, (*boot, build_data_disk(directory / f"{name}-data.raw", _SMALL_DATA_BYTES)))


def vm_of(name: str, images: Sequence[DiskImage]) -> BuiltVm:
    """Return a running Linux VM with these disks."""
    disks = tuple(DiskSpec(image.size_bytes, f"Hard disk {number}", image.path) for number, image in enumerate(images, start=1))
    spec = VmSpec(
        name=name,
        host=ESXI_HOSTS[0].name,
        datastore=DATASTORES[0].name,
        guest_id="debian12_64Guest",
        guest_full_name="Debian GNU/Linux 12 (64-bit)",
        disks=disks,
        nics=(NicSpec(NETWORKS[0]),),
    )
    return BuiltVm(spec, tuple(images))


def start_guest(
    world: World, vm: BuiltVm, journal: Path, bytes_per_second: int = GUEST_BYTES_PER_SECOND, seed: int = 0
) -> ManagedProcess:
    """Start the guest of a running VM; it writes inside what its images allow. Raises LabError if they allow nothing."""
    found = world.vcenter_control.vm(vm.spec.name)
    host, _, port = world.endpoints.nbd[found.host].rpartition(":")
    disks = tuple(
        GuestDiskSettings(disk.key, f"guest={found.moref};disk={disk.key}", image.writable)
        for disk, image in zip(found.disks, vm.images, strict=True)
        if image.writable
    )
    if not disks:
        raise LabError(f"No disk of {vm.spec.name} has room that a guest may write to.")
    return world.guest(GuestSettings(host, int(port), journal, disks, bytes_per_second, seed), name=f"guest-{vm.spec.name}")
