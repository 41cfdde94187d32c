"""A real Azurite in its own process, tied to this one by its parent-death signal."""

import base64
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import pytest

from deltaferry.azure.accounts import StorageAccount
from deltaferry.azure.credentials import AccountKey
from deltaferry.azure.object_store import BlobObjectStore
from deltaferry.azure.seeds import PageBlobSeeds
from deltaferry.model.replication import Store
from lab.blob_service import BlobService, new_account_key
from lab.certificates import make_certificates
from lab.control_client import BlobControl
from lab.processes import ManagedProcess, ProcessSpec, Readiness, free_ports
from lab.tools import azurite_command

ACCOUNT = "dfunittests"


@dataclass(frozen=True)
class RunningAzurite:
    """Where an Azurite serves, and its one account."""

    url: str
    key: str = field(repr=False)
    process: ManagedProcess = field(repr=False)
    ca_file: str | None = None

    def account(self, *, key: str | None = None, retries: int = 0) -> StorageAccount:
        used = key or self.key
        return StorageAccount(self.url, AccountKey(lambda: used), ca_file=self.ca_file, retries=retries)


def start_azurite(folder: Path, *arguments: str, scheme: str = "http", ca_file: str | None = None) -> RunningAzurite:
    """Start an Azurite with its data below `folder`."""
    (port,) = free_ports(1)
    key = base64.b64encode(os.urandom(64)).decode("ascii")
    command = (
        *azurite_command(), "--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder / "data"),
        "--silent", "--skipApiVersionCheck", "--disableTelemetry", *arguments,
    )  # fmt: skip
    process = ManagedProcess(
        ProcessSpec(
            name="azurite",
            command=command,
            log_directory=folder,
            environment={"AZURITE_ACCOUNTS": f"{ACCOUNT}:{key}"},
            readiness=Readiness.PORTS,
            ports=(port,),
            working_directory=folder,
        )
    )
    process.start()
    return RunningAzurite(f"{scheme}://127.0.0.1:{port}/{ACCOUNT}", key, process, ca_file)


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAzurite]:
    running = start_azurite(tmp_path_factory.mktemp("azurite"))
    yield running
    running.process.stop()


@pytest.fixture(scope="session")
def account(azurite: RunningAzurite) -> Iterator[StorageAccount]:
    account = azurite.account()
    yield account
    account.close()


@pytest.fixture
def objects(account: StorageAccount) -> BlobObjectStore:
    return BlobObjectStore(account, Store.LOG)


@pytest.fixture
def seeds(account: StorageAccount) -> PageBlobSeeds:
    return PageBlobSeeds(account)


@pytest.fixture
def container(objects: BlobObjectStore) -> Iterator[str]:
    name = f"df-test-{uuid4().hex[:16]}"
    objects.create_container(name)
    yield name
    objects.delete_container(name)


@dataclass(frozen=True)
class MendedAccount:
    """An account behind the front that mends what Azurite gets wrong: copies of page blobs, and differences of snapshots."""

    account: StorageAccount
    """Repeats nothing: a fault that was ordered is seen."""
    patient: StorageAccount
    """Repeats what fails, as a worker's does: a busy machine may cut a connection that was idle for long."""
    control: BlobControl


@pytest.fixture(scope="session")
def mended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MendedAccount]:
    directory = tmp_path_factory.mktemp("mended")
    certificates = make_certificates(directory / "certificates")
    key = new_account_key()
    service = BlobService(directory / "stores", directory, certificates, {ACCOUNT: key})
    service.spawn()
    try:
        service.await_ready()
        impatient, patient = (
            StorageAccount(service.url(ACCOUNT), AccountKey(lambda: key), ca_file=str(certificates.ca_file), retries=retries)
            for retries in (0, 3)
        )
        yield MendedAccount(impatient, patient, service.control)
        impatient.close()
        patient.close()
    finally:
        service.stop()
