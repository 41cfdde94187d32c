"""Making a snapshot's disks readable over NBD: by VDDK in production, by the lab's own servers in the lab.

VDDK is the user's own download. Source of its parameters: nbdkit-vddk-plugin(1). `transports=` is always given: without
it VDDK probes SAN and may crash. `snapshot=` is given for every snapshot: without it Windows guests fail with error 13.
A powered-off VM's disks as they are, a `Snapshot` without moref, have none to give: VDDK then opens the present backing
with what it stands on, and locks it, so that the VM cannot be powered on meanwhile (decision 14).
"""

import hashlib
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.vm import Snapshot, SnapshotDisk, SourceVm
from deltaferry.ports.access import NbdAddress
from deltaferry.vsphere.errors import vsphere_errors
from deltaferry.vsphere.nbdkit import serving
from deltaferry.vsphere.session import Endpoint, verified_context

TRANSPORTS = "file:nbdssl"
"""Never plain `nbd`: VDDK would fall back to it without a word."""

_PROBE_S = 30.0


class PlainNbdExports:
    """The `DiskExports` for hosts that serve every snapshot's disks on one NBD port without TLS.

    `hosts` says where each ESXi host's NBD server listens, by the host's name in vCenter. It may only be used where the
    worker's configuration says `plaintext = true`; the settings check that.
    """

    def __init__(self, hosts: Mapping[str, tuple[str, int]]) -> None:
        self._hosts = dict(hosts)

    @contextmanager
    def open(self, vm: SourceVm, snapshot: Snapshot, disk_key: int) -> Iterator[NbdAddress]:
        """Give the address of one disk, on the host that has the VM. Raises BAD_CONFIGURATION, DISK_READ_FAILED."""
        _disk_of(snapshot, disk_key)
        yield self._address(vm, f"snapshot={snapshot.moref}" if snapshot.moref else f"present={vm.moref}", disk_key)

    @contextmanager
    def open_writable(self, vm: SourceVm, present: Snapshot, disk_key: int) -> Iterator[NbdAddress]:
        """Give the address of one disk of a powered-off VM for its one writer. Raises BAD_CONFIGURATION, DISK_READ_FAILED."""
        _disk_of(present, disk_key)
        yield self._address(vm, f"writable={vm.moref}", disk_key)

    def _address(self, vm: SourceVm, state: str, disk_key: int) -> NbdAddress:
        if vm.host not in self._hosts:
            known = ", ".join(sorted(self._hosts)) or "none"
            raise DeltaferryError(
                ErrorKind.BAD_CONFIGURATION,
                f"no NBD address is configured for ESXi host {vm.host!r}, which runs {vm.name}; known: {known}",
            )
        host, port = self._hosts[vm.host]
        return NbdAddress(export=f"{state};disk={disk_key}", host=host, port=port)


@dataclass(frozen=True, slots=True)
class VddkSettings:
    """What the exports need besides the endpoint."""

    libdir: Path
    """The unpacked VDDK: the folder that holds `lib64`."""
    work_directory: Path
    """Where sockets and nbdkit's logs are kept while a disk is open; a short path."""
    nbdkit: str = "nbdkit"
    """The program, by name or path."""


class VddkExports:
    """The `DiskExports` of a production site.

    nbdkit gets the password by file descriptor, dies with the thread that opened the disk, and is stopped by SIGTERM, so
    that VDDK closes its connection and the ESXi host frees its buffers. Safe for use by several threads at once.
    """

    def __init__(self, endpoint: Endpoint, password: Callable[[], str], settings: VddkSettings) -> None:
        self._endpoint = endpoint
        self._password = password
        self._settings = settings
        self._checked = False

    def __repr__(self) -> str:
        """Name the endpoint, nothing secret."""
        return f"<VddkExports {self._endpoint.host}>"

    @contextmanager
    def open(self, vm: SourceVm, snapshot: Snapshot, disk_key: int) -> Iterator[NbdAddress]:
        """Export one disk of a snapshot, or of a powered-off VM as it is, until the context ends.

        Raises BAD_CONFIGURATION where nbdkit, its vddk plugin or VDDK is missing, VSPHERE_UNREACHABLE, DISK_READ_FAILED.
        """
        with self._serve(vm, snapshot, disk_key, writable=False) as address:
            yield address

    @contextmanager
    def open_writable(self, vm: SourceVm, present: Snapshot, disk_key: int) -> Iterator[NbdAddress]:
        """Export one disk of a powered-off VM for its one writer: VDDK opens it exclusively. Raises as `open` does."""
        with self._serve(vm, present, disk_key, writable=True) as address:
            yield address

    @contextmanager
    def _serve(self, vm: SourceVm, snapshot: Snapshot, disk_key: int, *, writable: bool) -> Iterator[NbdAddress]:
        disk = _disk_of(snapshot, disk_key)
        program = self._check_installation()
        thumbprint = certificate_thumbprint(self._endpoint)

        def plugin(password: str) -> tuple[str, ...]:
            return (
                "vddk",
                f"libdir={self._settings.libdir}",
                f"server={self._endpoint.host}",
                f"port={self._endpoint.port}",
                f"user={self._endpoint.user}",
                f"password={password}",
                f"thumbprint={thumbprint}",
                f"vm=moref={vm.moref}",
                *((f"snapshot={snapshot.moref}",) if snapshot.moref else ()),
                f"transports={TRANSPORTS}",
                f"file={disk.file_name}",
            )

        self._settings.work_directory.mkdir(parents=True, exist_ok=True)
        what = f"disk {disk_key} of {vm.name}"
        with (
            tempfile.TemporaryDirectory(prefix="nbd-", dir=self._settings.work_directory) as folder,
            serving(program, Path(folder), what, self._password(), plugin, writable=writable) as path,
        ):
            yield NbdAddress(export="", unix_path=str(path))

    def _check_installation(self) -> str:
        """Return nbdkit's path, after looking once for everything that has to be installed. Raises BAD_CONFIGURATION."""
        program = shutil.which(self._settings.nbdkit)
        if program is None:
            raise _not_installed(f"{self._settings.nbdkit} is not installed on this worker; install nbdkit with its vddk plugin")
        if self._checked:
            return program
        probe = subprocess.run(
            (program, "--dump-plugin", "vddk"), stdin=subprocess.DEVNULL, capture_output=True, timeout=_PROBE_S, check=False
        )
        if probe.returncode != 0:
            raise _not_installed(f"{program} has no vddk plugin on this worker; install it (nbdkit-vddk-plugin)")
        if not self._settings.libdir.is_dir():
            raise _not_installed(f"there is no VDDK in {self._settings.libdir}; unpack VMware's download there (setting libdir)")
        self._checked = True
        return program


def certificate_thumbprint(endpoint: Endpoint) -> str:
    """Return the SHA-1 thumbprint that VDDK pins, of a certificate that was verified first. Raises VSPHERE_UNREACHABLE."""
    with vsphere_errors(f"reading the certificate of {endpoint.host}"):
        address = (endpoint.host, endpoint.port)
        with (
            socket.create_connection(address, timeout=endpoint.timeout_s) as plain,
            verified_context(endpoint).wrap_socket(plain, server_hostname=endpoint.host) as secured,
        ):
            certificate = secured.getpeercert(binary_form=True) or b""
    digest = hashlib.sha1(certificate, usedforsecurity=False).digest()
    return digest.hex(":").upper()


def _disk_of(snapshot: Snapshot, disk_key: int) -> SnapshotDisk:
    disk = next((disk for disk in snapshot.disks if disk.key == disk_key), None)
    if disk is None:
        raise DeltaferryError(ErrorKind.DISK_READ_FAILED, f"snapshot {snapshot.name} has no disk {disk_key}")
    return disk


def _not_installed(sentence: str) -> DeltaferryError:
    return DeltaferryError(ErrorKind.BAD_CONFIGURATION, sentence)
