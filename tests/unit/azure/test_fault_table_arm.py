"""Every row of Azure Resource Manager's fault table, provoked by its name in the lab and met through azure-mgmt."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from deltaferry.azure.arm import ArmClients, ArmSettings
from deltaferry.azure.credentials import StaticToken
from deltaferry.azure.fault_table import ARM_FAULTS, ServiceFault
from deltaferry.azure.target_cloud import AzureTarget
from deltaferry.model.errors import CATALOGUE, DeltaferryError, ErrorKind
from deltaferry.model.faults import FaultClass
from lab.arm import named_faults
from tests.unit.azure import test_target_cloud as target_cloud
from tests.unit.azure.test_target_cloud import ACCOUNT_ID, GROUP, SUBSCRIPTION, TAGS, Lab, no_beat

certificates = target_cloud.certificates
service = target_cloud.service
lab = target_cloud.lab

OF_A_VM = ("cores-quota", "size-not-available", "allocation-failed", "in-use")
"""Rows that the creation of a VM meets; the others are met by the import of a disk."""


def names(row: ServiceFault) -> str:
    return row.name


@pytest.fixture
def target(lab: Lab) -> Iterator[AzureTarget]:
    """The target without retries inside one call, so that each attempt is one."""
    clients = lab.clients()
    yield AzureTarget(clients, ACCOUNT_ID)
    lab.control.clear_faults()
    clients.close()


@pytest.mark.parametrize("row", ARM_FAULTS, ids=names)
def test_a_fault_becomes_its_kind_and_the_next_attempt_makes_the_one_resource(
    lab: Lab, target: AzureTarget, container: str, row: ServiceFault
) -> None:
    if row.name in OF_A_VM:
        spec = lab.vm(container)

        def attempt() -> object:
            return target.create_vm(GROUP, spec, TAGS, no_beat)

        name, kind = spec.name, "virtualmachines"
    else:
        disk = lab.spec(lab.seed(container))

        def attempt() -> object:
            return target.import_disk(GROUP, disk, TAGS, no_beat)

        name, kind = disk.name, "disks"

    lab.control.ask_named(row.name)
    with pytest.raises(DeltaferryError) as caught:
        attempt()
    assert caught.value.kind is (row.kind or ErrorKind.AZURE_UNREACHABLE)
    asked = named_faults.ARM_FAULTS[row.name]
    if isinstance(asked, named_faults.Throttled):
        assert caught.value.retry_after == timedelta(seconds=asked.retry_after_s), "the service's own pause is handed on"
    lab.control.clear_faults()
    attempt()
    assert len([made for made in lab.ids(kind) if made == name]) == 1
    assert row.answer is not FaultClass.SETTLED or len(begun(lab, name)) == 1, "no second operation was begun"


def begun(lab: Lab, name: str) -> list[str]:
    return [operation.action for operation in lab.control.operations() if operation.resource.endswith(f"/{name.lower()}")]


def test_a_token_that_was_refused_is_read_again_by_the_next_attempt(lab: Lab, container: str) -> None:
    tokens = ["stale", lab.service.token]
    settings = ArmSettings(
        SUBSCRIPTION, "lab", StaticToken(lambda: tokens.pop(0) if len(tokens) > 1 else tokens[0]),
        endpoint=lab.service.url, ca_file=lab.ca_file, poll_interval_s=0.05, retries=0,
    )  # fmt: skip
    clients = ArmClients(settings)
    target = AzureTarget(clients, ACCOUNT_ID)
    spec = lab.spec(lab.seed(container))
    with pytest.raises(DeltaferryError) as caught:
        target.import_disk(GROUP, spec, TAGS, no_beat)
    assert caught.value.kind is ErrorKind.AZURE_LOGIN_REJECTED
    assert CATALOGUE[caught.value.kind].retryable
    assert target.import_disk(GROUP, spec, TAGS, no_beat).disk_key == spec.disk_key
    clients.close()
