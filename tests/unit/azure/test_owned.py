"""What of ours lies in a resource group, from the lab's Azure Resource Manager."""

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from azure.mgmt.compute.models import (
    CreationData,
    Disk,
    DiskCreateOption,
    DiskProperties,
    GrantAccessData,
    HardwareProfile,
    ManagedDiskParameters,
    NetworkInterfaceReference,
    NetworkProfile,
    OSDisk,
    Snapshot,
    StorageProfile,
    VirtualMachine,
    VirtualMachineProperties,
)
from azure.mgmt.compute.models import SnapshotProperties as Properties
from azure.mgmt.core.polling.arm_polling import ARMPolling

from deltaferry.azure.arm import ArmClients, ArmSettings
from deltaferry.azure.credentials import StaticToken
from deltaferry.azure.network import Networks
from deltaferry.azure.owned import list_owned
from deltaferry.model.audit import ResourceKind, SeenResource
from deltaferry.model.naming import INSTALLATION_TAG, JOB_TAG, REPLICATION_TAG, Owner
from lab.arm.service import ArmService
from lab.certificates import make_certificates

SUBSCRIPTION = "00000000-0000-0000-0000-0000000000bb"
GROUP = "rg-target"
SEED = {
    "subscription_id": SUBSCRIPTION,
    "locations": ["lab"],
    "resource_groups": [{"name": GROUP, "location": "lab"}],
    "virtual_networks": [
        {
            "resource_group": GROUP,
            "name": "vnet",
            "location": "lab",
            "address_prefixes": ["10.0.0.0/16"],
            "subnets": [{"name": "default", "address_prefix": "10.0.0.0/24"}],
        }
    ],
}


def no_beat() -> None:
    return


class Group:
    """A resource group, what is put into it, and what is found in it."""

    def __init__(self, arm: ArmClients) -> None:
        self.arm = arm
        self.rid = uuid.uuid4().hex[:16]

    def tags(self, installation: str) -> dict[str, str]:
        return {INSTALLATION_TAG: installation, REPLICATION_TAG: self.rid, "owner": "web"}

    def disk(self, name: str, tags: dict[str, str], os_type: str | None = None) -> str:
        creation = CreationData(create_option=DiskCreateOption.EMPTY)
        properties = DiskProperties(creation_data=creation, disk_size_gb=1, os_type=os_type)
        disk = Disk(location="lab", tags=tags, properties=properties)
        made: Any = self.run(lambda polling: self.arm.compute.disks.begin_create_or_update(GROUP, name, disk, polling=polling))
        return str(made.id)

    def run(self, begin: Callable[[ARMPolling], Any]) -> Any:
        return self.arm.run("preparing a test", begin, no_beat)

    def found(self, installation: str = "lab") -> list[SeenResource]:
        listed = list_owned(self.arm, GROUP, installation, no_beat)
        return [resource for resource in listed if resource.owner.replication_id == self.rid]


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ArmClients]:
    certificates = make_certificates(tmp_path_factory.mktemp("tls"))
    service = ArmService(tmp_path_factory.mktemp("arm"), certificates, {}, seed=SEED, retry_after_s=0.0, throttling_scale=0.0)
    service.spawn()
    service.await_ready()
    clients = ArmClients(
        ArmSettings(
            SUBSCRIPTION,
            "lab",
            StaticToken(lambda: service.token),
            endpoint=service.url,
            ca_file=str(certificates.ca_file),
            poll_interval_s=0.05,
        )
    )
    yield clients
    clients.close()
    service.stop()


@pytest.fixture
def group(arm: ArmClients) -> Group:
    return Group(arm)


def test_a_disk_of_ours_is_listed_with_its_owner_and_age(group: Group) -> None:
    disk_id = group.disk(f"ours-{group.rid}", group.tags("lab"))
    (disk,) = group.found()
    assert (disk.kind, disk.resource_id.lower(), disk.owner) == (ResourceKind.DISK, disk_id.lower(), Owner("lab", group.rid))
    assert (disk.in_use, disk.open_access) == (False, False)
    assert disk.created_at is not None and timedelta(0) <= datetime.now(UTC) - disk.created_at < timedelta(minutes=10)


def test_what_is_another_installations_or_nobodys_is_not_listed(group: Group) -> None:
    group.disk(f"theirs-{group.rid}", group.tags("other"))
    group.disk(f"nobodys-{group.rid}", {REPLICATION_TAG: group.rid})
    assert group.found() == []
    assert [resource.owner for resource in group.found("other")] == [Owner("other", group.rid)]


def test_the_case_of_a_tags_name_does_not_count(group: Group) -> None:
    group.disk(f"case-{group.rid}", {name.title(): value for name, value in group.tags("lab").items()})
    assert len(group.found()) == 1


def test_access_that_was_granted_shows_until_it_is_revoked(group: Group) -> None:
    name = f"sas-{group.rid}"
    group.disk(name, group.tags("lab"))
    disks = group.arm.compute.disks
    access = GrantAccessData(access="Read", duration_in_seconds=600)
    group.run(lambda polling: disks.begin_grant_access(GROUP, name, access, polling=polling))
    assert [resource.open_access for resource in group.found()] == [True]
    group.run(lambda polling: disks.begin_revoke_access(GROUP, name, polling=polling))
    assert [resource.open_access for resource in group.found()] == [False]


def test_disk_snapshots_and_network_interfaces_are_listed(group: Group) -> None:
    disk_id = group.disk(f"source-{group.rid}", {})
    data = CreationData(create_option=DiskCreateOption.COPY, source_resource_id=disk_id)
    snapshot = Snapshot(location="lab", tags=group.tags("lab"), properties=Properties(creation_data=data, incremental=True))
    snapshots = group.arm.compute.snapshots
    group.run(lambda polling: snapshots.begin_create_or_update(GROUP, f"snap-{group.rid}", snapshot, polling=polling))
    Networks(group.arm).create_nic(GROUP, f"vm-{group.rid}", "vnet", "default", group.tags("lab"), no_beat)
    kinds = {resource.kind: resource.in_use for resource in group.found()}
    assert kinds == {ResourceKind.DISK_SNAPSHOT: False, ResourceKind.NETWORK_INTERFACE: False}


def test_a_vm_is_listed_with_the_job_that_made_it(group: Group) -> None:
    tags = {**group.tags("lab"), JOB_TAG: "test-3"}
    nic = Networks(group.arm).create_nic(GROUP, f"test-{group.rid}", "vnet", "default", {}, no_beat)
    disk = ManagedDiskParameters(id=group.disk(f"os-{group.rid}", {}, "Linux"))
    properties = VirtualMachineProperties(
        hardware_profile=HardwareProfile(vm_size="Standard_D2s_v5"),
        storage_profile=StorageProfile(os_disk=OSDisk(os_type="Linux", create_option="Attach", managed_disk=disk)),
        network_profile=NetworkProfile(network_interfaces=[NetworkInterfaceReference(id=nic)]),
    )
    machine = VirtualMachine(location="lab", tags=tags, properties=properties)
    vms = group.arm.compute.virtual_machines
    group.run(lambda polling: vms.begin_create_or_update(GROUP, f"test-{group.rid}", machine, polling=polling))
    (vm,) = group.found()
    assert (vm.kind, vm.job, vm.in_use) == (ResourceKind.VIRTUAL_MACHINE, "test-3", True)
    assert vm.resource_id.lower().endswith(f"/virtualmachines/test-{group.rid}")


def test_a_resource_group_that_does_not_exist_has_nothing(arm: ArmClients) -> None:
    assert list_owned(arm, "rg-none", "lab", no_beat) == ()


def test_a_list_of_several_pages_is_read_to_its_end(group: Group) -> None:
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: group.disk(f"page-{number}-{group.rid}", group.tags("lab")), range(51)))
    assert len(group.found()) == 51
