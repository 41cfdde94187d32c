"""The target cloud against the lab's Azure Resource Manager, importing seeds from a real Azurite."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from uuid import uuid4

import pytest

from deltaferry.azure.arm import ArmClients, ArmSettings
from deltaferry.azure.credentials import StaticToken
from deltaferry.azure.network import nic_name
from deltaferry.azure.seeds import PageBlobSeeds
from deltaferry.azure.target_cloud import AzureTarget
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.units import MIB, SECTOR, seed_blob_size
from deltaferry.ports.target_cloud import DiskImport, ImportedDisk, TargetVmSpec, VmNetwork
from lab.arm.control import ArmControl
from lab.arm.service import ArmService, ImportAccount
from lab.certificates import Certificates, make_certificates

from .conftest import ACCOUNT, RunningAzurite

SUBSCRIPTION = "00000000-0000-0000-0000-0000000000bb"
GROUP = "rg-target"
ACCOUNT_ID = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/rg-project/providers/Microsoft.Storage/storageAccounts/{ACCOUNT}"
NETWORK_ID = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/rg-hub/providers/Microsoft.Network/virtualNetworks/hub"
CAPACITY = MIB + 3 * SECTOR
TAGS = {"deltaferry-replication": "0123456789abcdef", "deltaferry-cycle": "9-x"}
OTHER_TAGS = TAGS | {"deltaferry-replication": "fedcba9876543210"}
SEED = {
    "subscription_id": SUBSCRIPTION,
    "locations": ["lab"],
    "resource_groups": [{"name": GROUP, "location": "lab"}, {"name": "rg-hub", "location": "lab"}],
    "virtual_networks": [
        {
            "resource_group": group,
            "name": name,
            "location": "lab",
            "address_prefixes": ["10.0.0.0/16"],
            "subnets": [{"name": "default", "address_prefix": "10.0.0.0/24"}],
        }
        for group, name in ((GROUP, "vnet"), ("rg-hub", "hub"))
    ],
}


def no_beat() -> None:
    return


@dataclass
class Lab:
    """The target, the lab behind it, and what tests make again and again."""

    target: AzureTarget
    control: ArmControl
    seeds: PageBlobSeeds
    service: ArmService
    ca_file: str

    def clients(self, *, token: str | None = None, retries: int = 0) -> ArmClients:
        used = token or self.service.token
        return ArmClients(
            ArmSettings(
                SUBSCRIPTION, "lab", StaticToken(lambda: used), endpoint=self.service.url, ca_file=self.ca_file,
                poll_interval_s=0.05, retries=retries,
            )
        )  # fmt: skip

    def seed(self, container: str, data: bytes = b"s" * SECTOR, *, footer: bool = True) -> str:
        name = f"{uuid4().hex}.vhd"
        self.seeds.create_seed(container, name, seed_blob_size(CAPACITY))
        self.seeds.account.client.get_blob_client(container, name).upload_page(data, 0, len(data))
        if footer:
            self.seeds.write_footer(container, name, CAPACITY, 0)
        return self.seeds.url(container, name)

    def spec(self, url: str, *, key: int = 2000, boot: bool = True) -> DiskImport:
        return DiskImport(key, f"d-{uuid4().hex[:10]}", url, CAPACITY, boot, 2, "Linux", "Premium_LRS")

    def disk(self, container: str, *, key: int = 2000, boot: bool = True) -> ImportedDisk:
        return self.target.import_disk(GROUP, self.spec(self.seed(container), key=key, boot=boot), TAGS, no_beat)

    def vm(self, container: str, **changes: object) -> TargetVmSpec:
        spec = TargetVmSpec(
            name=f"vm-{uuid4().hex[:8]}", size="Standard_D2s_v5", os_disk=self.disk(container),
            data_disks=(self.disk(container, key=2001, boot=False),), network="vnet", subnet="default", zone=None, license_type=None,
        )  # fmt: skip
        return replace(spec, **changes)  # type: ignore[arg-type]

    def ids(self, kind: str) -> set[str]:
        return {resource.id.rpartition("/")[2] for resource in self.control.resources(kind)}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, certificates: Certificates, azurite: RunningAzurite
) -> Iterator[ArmService]:
    accounts = {ACCOUNT_ID: ImportAccount(azurite.url, ACCOUNT, azurite.key)}
    service = ArmService(
        tmp_path_factory.mktemp("arm"), certificates, accounts, seed=SEED, retry_after_s=0.0, throttling_scale=0.0
    )
    service.spawn()
    service.await_ready()
    yield service
    service.stop()


@pytest.fixture
def lab(service: ArmService, certificates: Certificates, seeds: PageBlobSeeds) -> Iterator[Lab]:
    settings = ArmSettings(
        SUBSCRIPTION, "lab", StaticToken(lambda: service.token), endpoint=service.url, ca_file=str(certificates.ca_file),
        poll_interval_s=0.05, retries=3,
    )  # fmt: skip
    clients = ArmClients(settings)
    yield Lab(AzureTarget(clients, ACCOUNT_ID), service.control, seeds, service, str(certificates.ca_file))
    service.control.clear_faults()
    service.control.set_times(retry_after_s=0.0, operation_s=0.0)
    clients.close()


def test_an_imported_disk_holds_the_seeds_bytes_and_its_exact_size(lab: Lab, container: str) -> None:
    imported = lab.disk(container)
    file = lab.control.disk_file(imported.resource_id)
    assert (imported.disk_key, file.size_bytes) == (2000, 2 * MIB)
    assert file.path.read_bytes() == (b"s" * SECTOR).ljust(2 * MIB, b"\0")
    (resource,) = (one for one in lab.control.resources("disks") if one.id == imported.resource_id)
    assert resource.tags == TAGS


def test_an_import_again_returns_the_disk_without_a_second_operation(lab: Lab, container: str) -> None:
    spec = lab.spec(lab.seed(container))
    first = lab.target.import_disk(GROUP, spec, TAGS, no_beat)
    operations = len(lab.control.operations())
    assert lab.target.import_disk(GROUP, spec, TAGS, no_beat) == first
    assert len(lab.control.operations()) == operations


def test_an_import_whose_answer_was_lost_is_taken_up(lab: Lab, container: str) -> None:
    spec = lab.spec(lab.seed(container))
    lab.control.drop_responses(1, method="PUT", path_contains=spec.name)
    impatient = AzureTarget(lab.clients(), ACCOUNT_ID)
    with pytest.raises(DeltaferryError) as caught:
        impatient.import_disk(GROUP, spec, TAGS, no_beat)
    assert caught.value.kind is ErrorKind.AZURE_UNREACHABLE
    assert impatient.import_disk(GROUP, spec, TAGS, no_beat).resource_id.endswith(spec.name)
    assert [one.action for one in lab.control.operations() if spec.name in one.resource] == ["disks.import"]


def test_a_cancelled_import_goes_on_and_the_next_attempt_waits_for_it(lab: Lab, container: str) -> None:
    class Cancelled(Exception):
        pass

    def cancelling() -> None:
        raise Cancelled

    lab.control.set_times(operation_s=1.0)
    spec = lab.spec(lab.seed(container))
    with pytest.raises(Cancelled):
        lab.target.import_disk(GROUP, spec, TAGS, cancelling)
    beats = []
    lab.target.import_disk(GROUP, spec, TAGS, lambda: beats.append(1))
    assert beats
    assert [one.status for one in lab.control.operations() if spec.name in one.resource] == ["Succeeded"]


def test_a_strangers_disk_is_neither_used_nor_deleted(lab: Lab, container: str) -> None:
    spec = lab.spec(lab.seed(container))
    lab.target.import_disk(GROUP, spec, OTHER_TAGS, no_beat)
    with pytest.raises(DeltaferryError) as caught:
        lab.target.import_disk(GROUP, spec, TAGS, no_beat)
    assert caught.value.kind is ErrorKind.AZURE_CONFLICT
    lab.target.delete_vm(GROUP, "vm-none", [spec.name], TAGS, no_beat)
    assert spec.name in lab.ids("disks")


def test_our_disk_from_another_blob_is_a_conflict(lab: Lab, container: str) -> None:
    spec = lab.spec(lab.seed(container))
    lab.target.import_disk(GROUP, spec, TAGS, no_beat)
    with pytest.raises(DeltaferryError) as caught:
        lab.target.import_disk(GROUP, replace(spec, source_url=lab.seed(container)), TAGS, no_beat)
    assert caught.value.kind is ErrorKind.AZURE_CONFLICT


def test_a_failed_import_says_why_and_the_next_attempt_replaces_it(lab: Lab, container: str) -> None:
    spec = lab.spec(lab.seed(container))
    lab.control.fail_next("disks.import", "InternalExecutionError", "An internal execution error occurred.")
    with pytest.raises(DeltaferryError) as caught:
        lab.target.import_disk(GROUP, spec, TAGS, no_beat)
    assert caught.value.kind is ErrorKind.AZURE_FAILED
    assert "InternalExecutionError" in caught.value.detail and "internal execution error" in caught.value.detail
    imported = lab.target.import_disk(GROUP, spec, TAGS, no_beat)
    assert lab.control.disk_file(imported.resource_id).path.read_bytes()[:SECTOR] == b"s" * SECTOR


def test_a_seed_without_footer_is_refused_as_input(lab: Lab, container: str) -> None:
    with pytest.raises(DeltaferryError) as caught:
        lab.target.import_disk(GROUP, lab.spec(lab.seed(container, footer=False)), TAGS, no_beat)
    assert caught.value.kind is ErrorKind.BAD_INPUT
    assert "VHD" in caught.value.detail


def test_a_quota_is_told_apart(lab: Lab, container: str) -> None:
    vm = lab.vm(container)
    lab.control.set_quota(cores=0, disks=0)
    for attempt in (
        lambda: lab.target.import_disk(GROUP, lab.spec(lab.seed(container)), TAGS, no_beat),
        lambda: lab.target.create_vm(GROUP, vm, TAGS, no_beat),
    ):
        with pytest.raises(DeltaferryError) as caught:
            attempt()
        assert caught.value.kind is ErrorKind.AZURE_QUOTA


def test_a_short_throttling_is_waited_for(lab: Lab, container: str) -> None:
    spec = lab.spec(lab.seed(container))
    lab.control.throttle_next(2, 0.05)
    assert lab.target.import_disk(GROUP, spec, TAGS, no_beat).resource_id.endswith(spec.name)


def test_a_long_throttling_is_handed_on_with_its_retry_after(lab: Lab, container: str) -> None:
    spec = lab.spec(lab.seed(container))
    lab.control.throttle_next(1, 90)
    with pytest.raises(DeltaferryError) as caught:
        lab.target.import_disk(GROUP, spec, TAGS, no_beat)
    assert (caught.value.kind, caught.value.retry_after) == (ErrorKind.AZURE_THROTTLED, timedelta(seconds=90))


def test_a_vm_is_created_with_its_disks_and_runs(lab: Lab, container: str) -> None:
    spec = lab.vm(container)
    created = lab.target.create_vm(GROUP, spec, TAGS, no_beat)
    assert created.running and created.resource_id.endswith(f"/virtualMachines/{spec.name}")
    (vm,) = (one for one in lab.control.resources("virtualmachines") if one.id == created.resource_id)
    assert vm.power_state == "running" and vm.tags == TAGS
    read = lab.clients().compute.virtual_machines.get(GROUP, spec.name).properties
    assert read is not None and read.storage_profile is not None and read.storage_profile.os_disk is not None
    assert read.storage_profile.os_disk.os_type == "Linux" and read.os_profile is None
    attached = {one.id for one in lab.control.resources("disks") if one.disk_state == "Attached"}
    assert {spec.os_disk.resource_id, spec.data_disks[0].resource_id} <= attached
    assert nic_name(spec.name) in lab.ids("networkinterfaces")


def test_creating_a_vm_again_returns_it_and_writes_nothing(lab: Lab, container: str) -> None:
    spec = lab.vm(container)
    first = lab.target.create_vm(GROUP, spec, TAGS, no_beat)
    before = len(lab.control.operations())
    assert lab.target.create_vm(GROUP, spec, TAGS, no_beat) == first
    assert len(lab.control.operations()) == before


def test_a_vm_whose_creation_failed_is_completed_by_the_next_attempt(lab: Lab, container: str) -> None:
    spec = lab.vm(container)
    lab.control.fail_next("virtualmachines.create", "AllocationFailed", "Allocation failed.")
    with pytest.raises(DeltaferryError) as caught:
        lab.target.create_vm(GROUP, spec, TAGS, no_beat)
    assert caught.value.kind is ErrorKind.AZURE_FAILED and "AllocationFailed" in caught.value.detail
    assert lab.target.create_vm(GROUP, spec, TAGS, no_beat).running


def test_a_vm_that_is_off_is_started(lab: Lab, container: str) -> None:
    spec = lab.vm(container)
    lab.target.create_vm(GROUP, spec, TAGS, no_beat)
    lab.clients().compute.virtual_machines.begin_deallocate(GROUP, spec.name, polling_interval=0.05).result()
    assert lab.target.create_vm(GROUP, spec, TAGS, no_beat).running


def test_a_vm_name_taken_by_a_stranger_is_a_conflict_and_nothing_is_made(lab: Lab, container: str) -> None:
    strangers = lab.vm(container)
    lab.target.create_vm(GROUP, strangers, TAGS, no_beat)
    assert lab.target.vm_exists(GROUP, strangers.name, OTHER_TAGS)
    assert not lab.target.vm_exists(GROUP, strangers.name, TAGS)
    assert not lab.target.vm_exists(GROUP, "vm-none", TAGS)
    nics = lab.ids("networkinterfaces")
    with pytest.raises(DeltaferryError) as caught:
        lab.target.create_vm(GROUP, lab.vm(container, name=strangers.name), OTHER_TAGS, no_beat)
    assert caught.value.kind is ErrorKind.AZURE_CONFLICT
    assert lab.ids("networkinterfaces") == nics


def test_deleting_a_vm_leaves_nothing_of_ours_and_can_be_repeated(lab: Lab, container: str) -> None:
    spec = lab.vm(container)
    lab.target.create_vm(GROUP, spec, TAGS, no_beat)
    disks = [disk.resource_id.rpartition("/")[2] for disk in (spec.os_disk, *spec.data_disks)]
    for _ in range(2):
        lab.target.delete_vm(GROUP, spec.name, disks, TAGS, no_beat)
    left = lab.ids("virtualmachines") | lab.ids("networkinterfaces") | lab.ids("disks")
    assert not left & {spec.name, nic_name(spec.name), *disks}


def test_a_strangers_vm_is_not_deleted(lab: Lab, container: str) -> None:
    spec = lab.vm(container)
    lab.target.create_vm(GROUP, spec, TAGS, no_beat)
    lab.target.delete_vm(GROUP, spec.name, [], OTHER_TAGS, no_beat)
    assert spec.name in lab.ids("virtualmachines") and nic_name(spec.name) in lab.ids("networkinterfaces")


def test_a_network_of_another_group_is_named_by_its_id(lab: Lab, container: str) -> None:
    spec = lab.vm(container, network=NETWORK_ID)
    assert lab.target.create_vm(GROUP, spec, TAGS, no_beat).running
    elsewhere = NETWORK_ID.replace(SUBSCRIPTION, "00000000-0000-0000-0000-0000000000cc")
    with pytest.raises(DeltaferryError) as caught:
        lab.target.missing(GROUP, elsewhere, "default")
    assert caught.value.kind is ErrorKind.BAD_INPUT


def test_a_network_is_the_same_by_name_and_by_id_and_another_groups_is_another(lab: Lab) -> None:
    assert lab.target.same_network(VmNetwork("rg-hub", "Hub"), VmNetwork(GROUP, NETWORK_ID))
    assert not lab.target.same_network(VmNetwork(GROUP, "hub"), VmNetwork(GROUP, NETWORK_ID))


def test_what_is_missing_is_said_in_sentences(lab: Lab) -> None:
    assert lab.target.missing(GROUP, "vnet", "default") == ()
    assert lab.target.missing(GROUP, NETWORK_ID, "default") == ()
    assert lab.target.missing(GROUP, "vnet", "nope") == ("Virtual network vnet has no subnet nope.",)
    assert lab.target.missing(GROUP, "nope", "x") == (f"Virtual network nope does not exist in resource group {GROUP}.",)
    assert lab.target.missing("rg-nope", "vnet", "default") == (
        f"Resource group rg-nope does not exist in subscription {SUBSCRIPTION}.",
    )


def test_a_wrong_token_is_a_rejected_log_in(lab: Lab) -> None:
    with pytest.raises(DeltaferryError) as caught:
        AzureTarget(lab.clients(token="wrong"), ACCOUNT_ID).vm_exists(GROUP, "vm", TAGS)
    assert caught.value.kind is ErrorKind.AZURE_LOGIN_REJECTED


def test_an_endpoint_that_does_not_answer_is_unreachable(lab: Lab) -> None:
    lab.control.make_unreachable(60)
    with pytest.raises(DeltaferryError) as caught:
        AzureTarget(lab.clients(), ACCOUNT_ID).vm_exists(GROUP, "vm", TAGS)
    assert caught.value.kind is ErrorKind.AZURE_UNREACHABLE


def test_no_token_is_logged(lab: Lab, container: str, caplog: pytest.LogCaptureFixture) -> None:
    for library in ("", "azure", "urllib3"):  # `configure_logs`, called by another test of this process, quietens the libraries
        caplog.set_level(logging.DEBUG, logger=library)
    lab.disk(container)
    logged = "\n".join(record.getMessage() for record in caplog.records)
    assert "PUT" in logged and lab.service.token not in logged


def test_plain_http_is_refused() -> None:
    with pytest.raises(DeltaferryError) as caught:
        ArmClients(ArmSettings(SUBSCRIPTION, "lab", StaticToken(lambda: "t"), endpoint="http://127.0.0.1:1"))
    assert caught.value.kind is ErrorKind.BAD_CONFIGURATION
