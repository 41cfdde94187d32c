"""The lab's ARM in its own process, the real blob endpoint beside it, and the real SDKs against both."""

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from azure.core.credentials import AccessToken
from azure.mgmt.compute import ComputeManagementClient
from azure.mgmt.network import NetworkManagementClient
from azure.storage.blob import BlobClient, BlobServiceClient

from lab.arm.control import ArmControl
from lab.arm.service import ArmService, ImportAccount
from lab.arm.vhd import build_footer
from lab.blob_service import BlobService, new_account_key
from lab.certificates import Certificates, make_certificates

SUBSCRIPTION = "00000000-0000-0000-0000-0000000000aa"
GROUP = "rg-Target"
MIB = 1 << 20
ACCOUNT_ID = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/rg-project/providers/Microsoft.Storage/storageAccounts/dfseed"
SEED = {
    "subscription_id": SUBSCRIPTION,
    "locations": ["lab", "far"],
    "resource_groups": [{"name": GROUP, "location": "lab"}],
    "virtual_networks": [
        {
            "resource_group": GROUP,
            "name": "vnet",
            "location": "lab",
            "address_prefixes": ["10.0.0.0/16"],
            "subnets": [{"name": "default", "address_prefix": "10.0.0.0/24"}, {"name": "tiny", "address_prefix": "10.0.9.0/29"}],
        }
    ],
}


class Credential:
    def __init__(self, token: str) -> None:
        self.token = token

    def get_token(self, *scopes: str, **_: object) -> AccessToken:
        return AccessToken(self.token, int(time.time()) + 3600)


@dataclass(frozen=True)
class Azure:
    """Both SDK clients, the control client, and what tests make of them again and again."""

    arm: ArmService
    certificates: Certificates
    seeds: BlobServiceClient
    compute: ComputeManagementClient
    network: NetworkManagementClient

    group = GROUP
    account_id = ACCOUNT_ID
    subscription = SUBSCRIPTION

    @property
    def control(self) -> ArmControl:
        return self.arm.control

    def name(self, prefix: str) -> str:
        return f"{prefix}-{uuid.uuid4().hex[:8]}"

    def client_options(self, **options: object) -> dict[str, object]:
        return {
            "base_url": self.arm.url,
            "connection_verify": str(self.certificates.ca_file),
            "polling_interval": 0.02,
            **options,
        }

    def page_blob(self, size_bytes: int, pages: dict[int, bytes], *, footer: bytes | None = None) -> BlobClient:
        blob = self.seeds.get_blob_client("seeds", f"{uuid.uuid4()}.vhd")
        blob.create_page_blob(size_bytes + 512)
        for offset, data in pages.items():
            blob.upload_page(data, offset, len(data))
        blob.upload_page(build_footer(size_bytes, uuid.uuid4()) if footer is None else footer, size_bytes, 512)
        return blob

    def import_request(self, url: str, *, boot: bool = True, **more: object) -> dict[str, object]:
        properties: dict[str, object] = {
            "creationData": {"createOption": "Import", "sourceUri": url, "storageAccountId": ACCOUNT_ID}
        }
        if boot:
            properties |= {"osType": "Linux", "hyperVGeneration": "V2"}
        return {"location": "lab", "properties": properties, **more}

    def empty_disk(self, name: str, *, boot: bool = False, **more: object) -> str:
        properties: dict[str, object] = {"creationData": {"createOption": "Empty"}, "diskSizeGB": 1}
        if boot:
            properties |= {"osType": "Linux", "hyperVGeneration": "V2"}
        return (
            self.compute.disks.begin_create_or_update(GROUP, name, {"location": "lab", "properties": properties, **more})
            .result()
            .id
        )

    def nic_request(self, subnet: str = "default", **address: object) -> dict[str, object]:
        subnet_id = self.network.subnets.get(GROUP, "vnet", subnet).id
        return {
            "location": "lab",
            "properties": {"ipConfigurations": [{"name": "ipconfig1", "properties": {"subnet": {"id": subnet_id}, **address}}]},
        }

    def nic(self, name: str) -> str:
        return self.network.network_interfaces.begin_create_or_update(GROUP, name, self.nic_request()).result().id

    def vm_request(
        self, os_disk: str, nic: str, *, data: tuple[str, ...] = (), size: str = "Standard_D2s_v5", delete: str = "Detach"
    ) -> dict[str, object]:
        return {
            "location": "lab",
            "properties": {
                "hardwareProfile": {"vmSize": size},
                "storageProfile": {
                    "osDisk": {
                        "osType": "Linux",
                        "createOption": "Attach",
                        "managedDisk": {"id": os_disk},
                        "deleteOption": delete,
                    },
                    "dataDisks": [
                        {"lun": lun, "createOption": "Attach", "managedDisk": {"id": disk}, "deleteOption": delete}
                        for lun, disk in enumerate(data)
                    ],
                },
                "networkProfile": {"networkInterfaces": [{"id": nic, "properties": {"primary": True, "deleteOption": delete}}]},
            },
        }

    def vm(self, name: str, **options: object) -> str:
        request = self.vm_request(self.empty_disk(f"{name}-os", boot=True), self.nic(f"{name}-nic"), **options)
        return self.compute.virtual_machines.begin_create_or_update(GROUP, name, request).result().id

    def power(self, name: str) -> set[str]:
        view = self.compute.virtual_machines.instance_view(GROUP, name)
        return {status.code for status in view.statuses if status.code.startswith("PowerState/")}


@pytest.fixture(scope="session")
def running_azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azure]:
    directory = tmp_path_factory.mktemp("arm")
    certificates = make_certificates(directory / "certificates")
    key = new_account_key()
    blobs = BlobService(directory / "blobs", directory, certificates, {"dfseed": key})
    arm = ArmService(
        directory / "arm",
        certificates,
        {ACCOUNT_ID: ImportAccount(blobs.url("dfseed"), "dfseed", key)},
        seed=SEED,
        retry_after_s=0,
        throttling_scale=0,
    )
    blobs.spawn()
    arm.spawn()
    try:
        arm.await_ready()
        blobs.await_ready()
        seeds = BlobServiceClient(blobs.url("dfseed"), credential=key, connection_verify=str(certificates.ca_file))
        seeds.create_container("seeds")
        options = {"base_url": arm.url, "connection_verify": str(certificates.ca_file), "polling_interval": 0.02}
        credential = Credential(arm.token)
        compute = ComputeManagementClient(credential, SUBSCRIPTION, **options)
        network = NetworkManagementClient(credential, SUBSCRIPTION, **options)
        with seeds, compute, network:
            yield Azure(arm, certificates, seeds, compute, network)
    finally:
        arm.stop()
        blobs.stop()


@pytest.fixture
def azure(running_azure: Azure) -> Iterator[Azure]:
    yield running_azure
    running_azure.control.clear_faults()
    running_azure.control.set_times(retry_after_s=0, operation_s=0)
    running_azure.control.set_throttling_scale(0)
    running_azure.control.set_limits()
