"""The lab's disks hold real file systems, and a guest that stays inside its ranges does them no harm."""

import os
import shutil
import ssl
import struct
import subprocess
from pathlib import Path

import pytest
from pyfatfs.PyFatFS import PyFatFS

from deltaferry.model.extents import Extent
from deltaferry.model.units import MIB, SECTOR
from lab import filesystems
from lab.certificates import make_certificates, server_names
from lab.images import PARTITION_START, BootContent, build_boot_disk, build_data_disk, image_format, import_image, marked_ranges
from lab.processes import LabError
from lab.tools import FRONT_DIRECTORY, azurite_installed, ensure_azurite

SMALL = BootContent(random_bytes=3 * MIB, compressible_bytes=2 * MIB, preallocated_bytes=6 * MIB, with_sources=False)
_TOOLS = "/usr/sbin:/sbin:" + os.environ.get("PATH", "")
E2FSCK = shutil.which("e2fsck", path=_TOOLS)


def overwrite_all(path: Path, ranges: tuple[Extent, ...]) -> None:
    with path.open("r+b") as image:
        for extent in ranges:
            os.pwrite(image.fileno(), b"\xa5" * extent.length_bytes, extent.offset_bytes)


def partition(path: Path) -> tuple[int, int, int]:
    sector = path.read_bytes()[:SECTOR]
    assert sector[510:] == b"\x55\xaa"
    kind, start, count = struct.unpack("<4xB3xII", sector[446:462])
    return kind, start, count


@pytest.mark.skipif(E2FSCK is None, reason="e2fsprogs is not installed")
def test_an_ext4_boot_disk_stays_whole_when_all_preallocated_ranges_are_overwritten(tmp_path: Path) -> None:
    built = build_boot_disk(tmp_path / "boot.raw", 64 * MIB, SMALL)
    assert partition(built.path) == (filesystems.LINUX, PARTITION_START // SECTOR, 63 * MIB // SECTOR)
    assert sum(extent.length_bytes for extent in built.writable) == 6 * MIB // 3 // SECTOR * SECTOR * 3
    overwrite_all(built.path, built.writable)
    part = tmp_path / "part.raw"
    part.write_bytes(built.path.read_bytes()[PARTITION_START:])
    assert E2FSCK is not None
    assert subprocess.run([E2FSCK, "-fn", str(part)], capture_output=True, check=False).returncode == 0
    debugfs = shutil.which("debugfs", path=_TOOLS)
    assert debugfs is not None
    log = subprocess.run([debugfs, "-R", "cat /documents/service.log", str(part)], capture_output=True, check=True).stdout
    assert len(log) == 2 * MIB and log.startswith(b"2026-")
    hot = subprocess.run([debugfs, "-R", "cat /guest/hot.dat", str(part)], capture_output=True, check=True).stdout
    assert set(hot) == {0xA5}
    assert not (tmp_path / "boot.tree").exists()


def test_without_mkfs_the_boot_disk_is_fat32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(filesystems, "_SYSTEM_TOOLS", "")
    built = build_boot_disk(tmp_path / "boot.raw", 300 * MIB, SMALL)
    assert partition(built.path)[0] == filesystems.FAT32_LBA
    overwrite_all(built.path, built.writable)
    files = PyFatFS(str(built.path), offset=PARTITION_START)
    assert files.readbytes("documents/service.log").startswith(b"2026-")
    assert set(files.readbytes("guest/hot.dat")) == {0xA5}
    files.close()


def test_the_data_disk_has_an_odd_size_holes_zeros_and_a_written_last_sector(tmp_path: Path) -> None:
    built = build_data_disk(tmp_path / "data.raw", 40 * MIB + 37 * SECTOR)
    content = built.path.read_bytes()
    assert len(content) == built.size_bytes == 40 * MIB + 37 * SECTOR
    assert content[-SECTOR:] != bytes(SECTOR)
    assert content[8 * MIB : 12 * MIB] == bytes(4 * MIB)
    assert content[:MIB] != content[12 * MIB : 13 * MIB]
    with built.path.open("rb") as image:
        assert os.lseek(image.fileno(), 8 * MIB, os.SEEK_DATA) > 8 * MIB
        assert os.lseek(image.fileno(), 20 * MIB, os.SEEK_DATA) == 20 * MIB


def test_a_users_raw_image_is_used_as_it_is_and_padded_to_whole_sectors(tmp_path: Path) -> None:
    whole = tmp_path / "whole.img"
    whole.write_bytes(b"x" * 1024)
    assert import_image(whole, tmp_path).path == whole
    short = tmp_path / "short.img"
    short.write_bytes(b"x" * 1000)
    imported = import_image(short, tmp_path)
    assert imported.path.read_bytes() == b"x" * 1000 + bytes(24)
    assert (imported.size_bytes, imported.writable, short.stat().st_size) == (1024, (), 1000)


@pytest.mark.parametrize(
    ("head", "kind"),
    [(b"QFI\xfb", "qcow2"), (b"vhdxfile", "vhdx"), (b"KDMV", "vmdk"), (b"# Disk DescriptorFile\n", "vmdk"), (b"conectix", "vpc")],
)
def test_other_images_need_qemu_img(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: bytes, kind: str) -> None:
    image = tmp_path / "disk"
    image.write_bytes(head + bytes(2048))
    assert image_format(image) == kind
    monkeypatch.setenv("PATH", "")
    with pytest.raises(LabError, match="needs qemu-img, which is not installed"):
        import_image(image, tmp_path)


def test_markers_are_found_wherever_a_file_system_put_them(tmp_path: Path) -> None:
    marker = bytes(range(16))
    sector = marker + bytes(SECTOR - 16)
    image = tmp_path / "image"
    image.write_bytes(bytes(SECTOR * 3) + sector * 4 + bytes(SECTOR) + sector + bytes(SECTOR))
    assert marked_ranges(image, marker) == (Extent(3 * SECTOR, 4 * SECTOR), Extent(8 * SECTOR, SECTOR))


def test_certificates_are_made_once_and_name_every_part(tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    before = made.certificate_file.read_bytes()
    assert make_certificates(tmp_path) == made and made.certificate_file.read_bytes() == before
    assert made.key_file.stat().st_mode & 0o777 == 0o600
    context = ssl.create_default_context(cafile=made.ca_file)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(made.certificate_file, made.key_file)
    for name in ("127.0.0.1", *server_names()):
        _handshake(context, server, name)
    with pytest.raises(ssl.SSLCertVerificationError):
        _handshake(context, server, "elsewhere.lab")


def _handshake(client_context: ssl.SSLContext, server_context: ssl.SSLContext, name: str) -> None:
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname=name)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    waiting = {client, server}
    while waiting:
        for side in tuple(waiting):
            try:
                side.do_handshake()
                waiting.discard(side)
            except ssl.SSLWantReadError:
                continue


def test_an_installation_that_was_interrupted_or_is_of_another_lock_does_not_count(tmp_path: Path) -> None:
    assert azurite_installed() and not ensure_azurite()
    (tmp_path / "node_modules").mkdir()
    lock = (FRONT_DIRECTORY / "package-lock.json").read_text()
    (tmp_path / "package-lock.json").write_text(lock)
    assert not azurite_installed(tmp_path)
    installed = (FRONT_DIRECTORY / "node_modules" / ".package-lock.json").read_text()
    (tmp_path / "node_modules" / ".package-lock.json").write_text(installed)
    assert azurite_installed(tmp_path)
    (tmp_path / "package-lock.json").write_text(lock.replace('"integrity": "sha512-', '"integrity": "sha512-A', 1))
    assert not azurite_installed(tmp_path)
