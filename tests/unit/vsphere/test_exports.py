"""Exporting a snapshot's disks: the address in the lab, and nbdkit's life cycle in production."""

import json
import os
import shutil
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.vm import Firmware, PowerState, Snapshot, SnapshotDisk, SourceVm
from deltaferry.vsphere.exports import PlainNbdExports, VddkExports, VddkSettings, certificate_thumbprint
from deltaferry.vsphere.nbdkit import serving
from deltaferry.vsphere.session import Endpoint
from lab.certificates import Certificates, make_certificates

PASSWORD = "p&ss;\"'^\\%<wörd>£ with blanks"

VM = SourceVm(
    instance_uuid="5003aaaa-0000-0000-0000-000000000001",
    moref="vm-16",
    name="web 01",
    power=PowerState.ON,
    host="esxi-1.lab",
    hardware_version=19,
    firmware=Firmware.BIOS,
    guest_id="otherLinux64Guest",
    guest_full_name="Other Linux (64-bit)",
    memory_mib=1024,
    cpus=1,
    tools_running=True,
    cbt_supported=True,
    cbt_enabled=True,
    consolidation_needed=False,
    disks=(),
    nics=(),
    snapshots=(),
    claim=None,
)
SNAPSHOT = Snapshot(
    moref="snapshot-22",
    name="df/lab/0123456789abcdef/1-x",
    description="",
    has_children=False,
    created_at="2026-01-01T00:00:00+00:00",
    disks=(SnapshotDisk(key=2000, uuid="6000", capacity_bytes=1024, file_name="[ds1] web 01/web 01.vmdk", change_id=None),),
)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def endpoint(certificates: Certificates) -> Iterator[Endpoint]:
    """A TLS server on loopback that shows the certificate and says nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.certificate_file, certificates.key_file)
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(connection, server_side=True) as secured:
                    secured.recv(1)
            except OSError:
                connection.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield Endpoint("127.0.0.1", "administrator@vsphere.local", server.getsockname()[1], certificates.ca_file)
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()


@pytest.fixture
def nbdkit(tmp_path: Path) -> Path:
    """The stand-in as an executable file in a folder of its own."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "nbdkit"
    script = Path(__file__).with_name("nbdkit_stand_in.py").read_text()
    program.write_text(f"#!{sys.executable}\n{script}")
    program.chmod(0o755)
    return program


@pytest.fixture
def exports(tmp_path: Path, endpoint: Endpoint, nbdkit: Path) -> VddkExports:
    libdir = tmp_path / "vddk"
    libdir.mkdir()
    return VddkExports(endpoint, lambda: PASSWORD, VddkSettings(libdir, tmp_path / "w", str(nbdkit)))


def test_the_lab_reads_a_disk_from_the_host_that_runs_the_vm() -> None:
    exports = PlainNbdExports({"esxi-1.lab": ("127.0.0.1", 1234), "esxi-2.lab": ("127.0.0.1", 5678)})
    with exports.open(VM, SNAPSHOT, 2000) as address:
        assert (address.host, address.port, address.unix_path) == ("127.0.0.1", 1234, None)
        assert address.export == "snapshot=snapshot-22;disk=2000"


def test_the_lab_reads_a_powered_off_vms_disk_as_it_is_where_there_is_no_snapshot() -> None:
    with PlainNbdExports({"esxi-1.lab": ("127.0.0.1", 1234)}).open(VM, replace(SNAPSHOT, moref=""), 2000) as address:
        assert address.export == "present=vm-16;disk=2000"


def test_the_lab_gives_a_powered_off_vms_disk_to_its_one_writer() -> None:
    with PlainNbdExports({"esxi-1.lab": ("127.0.0.1", 1234)}).open_writable(VM, replace(SNAPSHOT, moref=""), 2000) as address:
        assert address.export == "writable=vm-16;disk=2000"


def test_nbdkit_opens_a_disk_for_writing_only_where_it_is_asked_to(exports: VddkExports, nbdkit: Path) -> None:
    with exports.open_writable(VM, replace(SNAPSHOT, moref=""), 2000):
        pass
    arguments = json.loads((nbdkit.parent / "record.json").read_text())["arguments"]
    assert "--readonly" not in arguments
    assert arguments[:2] == ["--exit-with-parent", "--foreground"]
    assert not any(argument.startswith("snapshot=") for argument in arguments)
    assert {"transports=file:nbdssl", "vm=moref=vm-16"} <= set(arguments)


def test_a_host_without_an_address_is_a_configuration_error_that_names_it() -> None:
    with pytest.raises(DeltaferryError) as caught, PlainNbdExports({}).open(VM, SNAPSHOT, 2000):
        pass
    assert caught.value.kind is ErrorKind.BAD_CONFIGURATION
    assert "esxi-1.lab" in caught.value.detail


def test_a_disk_that_the_snapshot_does_not_have_is_refused(exports: VddkExports) -> None:
    for disk_exports in (PlainNbdExports({"esxi-1.lab": ("127.0.0.1", 1)}), exports):
        with pytest.raises(DeltaferryError) as caught, disk_exports.open(VM, SNAPSHOT, 2001):
            pass
        assert caught.value.kind is ErrorKind.DISK_READ_FAILED


def test_nbdkit_serves_while_the_disk_is_open_and_closes_vddk_afterwards(
    exports: VddkExports, nbdkit: Path, tmp_path: Path
) -> None:
    with exports.open(VM, SNAPSHOT, 2000) as address:
        assert address.unix_path is not None
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(address.unix_path)
        assert not (nbdkit.parent / "closed").exists()
    assert (nbdkit.parent / "closed").exists()
    assert list((tmp_path / "w").iterdir()) == []


def test_nbdkit_is_ended_when_the_reader_fails(exports: VddkExports, nbdkit: Path) -> None:
    with pytest.raises(RuntimeError, match="reader"), exports.open(VM, SNAPSHOT, 2000):
        raise RuntimeError("the reader failed")
    assert (nbdkit.parent / "closed").exists()


def test_nbdkit_gets_its_parameters_and_the_password_by_descriptor_alone(
    exports: VddkExports, nbdkit: Path, endpoint: Endpoint, tmp_path: Path
) -> None:
    with exports.open(VM, SNAPSHOT, 2000):
        pass
    record = json.loads((nbdkit.parent / "record.json").read_text())
    assert record["password"] == PASSWORD
    assert PASSWORD not in " ".join([*record["arguments"], *record["environment"]])
    arguments = record["arguments"]
    assert arguments[:4] == ["--exit-with-parent", "--readonly", "--foreground", "--unix"]
    assert arguments[5] == "vddk"
    assert {
        f"libdir={tmp_path / 'vddk'}",
        "server=127.0.0.1",
        f"port={endpoint.port}",
        "user=administrator@vsphere.local",
        "vm=moref=vm-16",
        "snapshot=snapshot-22",
        "transports=file:nbdssl",
        "file=[ds1] web 01/web 01.vmdk",
        f"thumbprint={certificate_thumbprint(endpoint)}",
    } <= set(arguments)


def test_without_a_snapshot_vddk_opens_the_present_backing(exports: VddkExports, nbdkit: Path) -> None:
    with exports.open(VM, replace(SNAPSHOT, moref=""), 2000):
        pass
    arguments = json.loads((nbdkit.parent / "record.json").read_text())["arguments"]
    assert not [argument for argument in arguments if argument.startswith("snapshot=")]
    assert {"--readonly", "vm=moref=vm-16", "file=[ds1] web 01/web 01.vmdk"} <= set(arguments)


def test_the_thumbprint_is_never_taken_from_a_certificate_that_is_not_trusted(endpoint: Endpoint, tmp_path: Path) -> None:
    stranger = make_certificates(tmp_path / "other")
    with pytest.raises(DeltaferryError) as caught:
        certificate_thumbprint(Endpoint(endpoint.host, endpoint.user, endpoint.port, stranger.ca_file))
    assert caught.value.kind is ErrorKind.VSPHERE_UNREACHABLE
    assert "CA file" in caught.value.detail


def test_missing_pieces_are_configuration_errors_that_say_what_to_install(
    exports: VddkExports, nbdkit: Path, endpoint: Endpoint, tmp_path: Path
) -> None:
    def refusal(disk_exports: VddkExports) -> str:
        with pytest.raises(DeltaferryError) as caught, disk_exports.open(VM, SNAPSHOT, 2000):
            pass
        assert caught.value.kind is ErrorKind.BAD_CONFIGURATION
        return caught.value.detail

    absent = VddkSettings(tmp_path, tmp_path / "w", str(tmp_path / "absent"))
    assert "install nbdkit" in refusal(VddkExports(endpoint, lambda: PASSWORD, absent))
    no_libdir = VddkSettings(tmp_path / "absent", tmp_path / "w", str(nbdkit))
    assert "unpack VMware's download" in refusal(VddkExports(endpoint, lambda: PASSWORD, no_libdir))
    (nbdkit.parent / "no-plugin").touch()
    assert "no vddk plugin" in refusal(exports)
    (nbdkit.parent / "no-plugin").unlink()
    deep = VddkSettings(tmp_path, tmp_path / ("d" * 100), str(nbdkit))
    assert "too long" in refusal(VddkExports(endpoint, lambda: PASSWORD, deep))


def test_what_nbdkit_says_before_it_ends_is_shown(exports: VddkExports, nbdkit: Path) -> None:
    (nbdkit.parent / "broken").touch()
    with pytest.raises(DeltaferryError) as caught, exports.open(VM, SNAPSHOT, 2000):
        pass
    assert caught.value.kind is ErrorKind.DISK_READ_FAILED
    assert "the host refused the connection" in caught.value.detail
    assert PASSWORD not in str(caught.value)


@pytest.mark.skipif(shutil.which("nbdkit") is None, reason="nbdkit is not installed")
def test_the_real_nbdkit_takes_the_arguments_before_the_plugin(tmp_path: Path) -> None:
    content = tmp_path / "disk"
    content.write_bytes(os.urandom(4096))
    with serving(str(shutil.which("nbdkit")), tmp_path, "a file", "secret", lambda _: ("file", str(content))) as path:
        assert path.is_socket()
