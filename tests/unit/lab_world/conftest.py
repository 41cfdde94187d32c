"""One blob service for all tests of the front."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from azure.storage.blob import BlobServiceClient

from lab.blob_service import BlobService, new_account_key
from lab.certificates import Certificates, make_certificates


@dataclass(frozen=True, slots=True)
class Storage:
    service: BlobService
    keys: dict[str, str]
    certificates: Certificates

    def client(self, account: str, **options: object) -> BlobServiceClient:
        return BlobServiceClient(
            self.service.url(account),
            credential=self.keys[account],
            connection_verify=str(self.certificates.ca_file),
            retry_total=0,
            **options,
        )


@pytest.fixture(scope="session")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    directory: Path = tmp_path_factory.mktemp("blob")
    certificates = make_certificates(directory / "certificates")
    keys = {name: new_account_key() for name in ("dflog", "dfseed")}
    service = BlobService(directory / "stores", directory, certificates, keys)
    service.spawn()
    try:
        service.await_ready()
        yield Storage(service, keys, certificates)
    finally:
        service.stop()
