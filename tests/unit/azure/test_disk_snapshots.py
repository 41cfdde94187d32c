"""Incremental snapshots of managed disks, and the VM that has them, against the lab's Azure Resource Manager."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from deltaferry.azure.arm import ArmClients, ArmSettings
from deltaferry.azure.target_cloud import AzureTarget
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.extents import Extent
from deltaferry.model.units import MIB, SECTOR
from tests.unit.lab_arm.conftest import ACCOUNT_ID, GROUP, SUBSCRIPTION, Azure, Credential, azure, running_azure

__all__ = ["azure", "running_azure"]  # the fixtures

OURS = {"deltaferry-installation": "tests", "deltaferry-replication": "0" * 16}
THEIRS = {"deltaferry-installation": "tests", "deltaferry-replication": "1" * 16}
HOUR = timedelta(hours=1)


def no_beat() -> None:
    pass


@pytest.fixture
def target(azure: Azure) -> Iterator[AzureTarget]:
    clients = ArmClients(
        ArmSettings(
            SUBSCRIPTION,
            "lab",
            Credential(azure.arm.token),
            endpoint=azure.arm.url,
            ca_file=str(azure.certificates.ca_file),
            poll_interval_s=0.02,
            retries=0,
        )
    )
    yield AzureTarget(clients, ACCOUNT_ID)
    clients.close()


@pytest.fixture
def disk(azure: Azure) -> str:
    azure.control.set_limits(snapshots_per_window=100)
    return azure.empty_disk(azure.name("disk"))


def refused(step: object, *arguments: object) -> DeltaferryError:
    with pytest.raises(DeltaferryError) as caught:
        step(*arguments)  # type: ignore[operator]
    return caught.value


def test_one_name_is_one_snapshot_however_often_it_is_asked_for(azure: Azure, target: AzureTarget, disk: str) -> None:
    name = azure.name("snap")
    first = target.take_disk_snapshot(GROUP, name, disk, OURS, no_beat)
    azure.control.write(disk, 0, b"x" * SECTOR)
    assert target.take_disk_snapshot(GROUP, name, disk, OURS, no_beat) == first
    assert (first.name, first.disk_id.lower()) == (name, disk.lower())
    with target.open_disk_snapshots(GROUP, [name], HOUR, no_beat) as access:
        assert list(target.pages(access[name], None, Extent(0, MIB))) == []


@pytest.mark.parametrize("fault", ["snapshot-reply-lost", "snapshot-failed"])
def test_a_snapshot_whose_creation_went_wrong_is_there_after_the_next_attempt(
    azure: Azure, target: AzureTarget, disk: str, fault: str
) -> None:
    name = azure.name("snap")
    azure.control.ask_named(fault)
    error = refused(target.take_disk_snapshot, GROUP, name, disk, OURS, no_beat)
    assert error.record.retryable
    assert target.take_disk_snapshot(GROUP, name, disk, OURS, no_beat).name == name


def test_a_name_that_somebody_else_has_or_that_is_of_another_disk_is_a_conflict(
    azure: Azure, target: AzureTarget, disk: str
) -> None:
    name = azure.name("snap")
    target.take_disk_snapshot(GROUP, name, disk, OURS, no_beat)
    other = azure.empty_disk(azure.name("disk"))
    assert refused(target.take_disk_snapshot, GROUP, name, disk, THEIRS, no_beat).kind is ErrorKind.AZURE_CONFLICT
    assert refused(target.take_disk_snapshot, GROUP, name, other, OURS, no_beat).kind is ErrorKind.AZURE_CONFLICT


def test_the_limits_are_told_apart_by_who_can_mend_them(azure: Azure, target: AzureTarget, disk: str) -> None:
    azure.control.ask_named("snapshot-rate")
    rate = refused(target.take_disk_snapshot, GROUP, azure.name("snap"), disk, OURS, no_beat)
    azure.control.ask_named("snapshot-count")
    count = refused(target.take_disk_snapshot, GROUP, azure.name("snap"), disk, OURS, no_beat)
    assert (rate.kind, count.kind) == (ErrorKind.AZURE_THROTTLED, ErrorKind.AZURE_QUOTA)


def test_only_what_is_ours_is_listed_oldest_first_and_deleted_with_its_signatures(
    azure: Azure, target: AzureTarget, disk: str
) -> None:
    ours = [azure.name("snap") for _ in range(2)]
    for name in ours:
        target.take_disk_snapshot(GROUP, name, disk, OURS | {"of": "this test" + disk}, no_beat)
    theirs = azure.name("snap")
    target.take_disk_snapshot(GROUP, theirs, disk, THEIRS, no_beat)
    tags = OURS | {"of": "this test" + disk}
    assert [found.name for found in target.list_disk_snapshots(GROUP, tags, no_beat)] == ours
    azure.compute.snapshots.begin_grant_access(GROUP, ours[0], {"access": "Read", "durationInSeconds": 600}).result()
    for name in (*ours, *ours, theirs):
        target.delete_disk_snapshot(GROUP, name, OURS, no_beat)
    assert target.list_disk_snapshots(GROUP, tags, no_beat) == ()
    assert [found.name for found in target.list_disk_snapshots(GROUP, THEIRS, no_beat) if found.name == theirs] == [theirs]
    assert target.list_disk_snapshots("no-such-group", OURS, no_beat) == ()


def test_a_signature_ends_with_the_context_also_where_it_fails(azure: Azure, target: AzureTarget, disk: str) -> None:
    name = azure.name("snap")
    target.take_disk_snapshot(GROUP, name, disk, OURS, no_beat)
    with pytest.raises(RuntimeError), target.open_disk_snapshots(GROUP, [name], HOUR, no_beat) as access:
        kept = access[name]
        assert list(target.pages(kept, None, Extent(0, MIB))) == []
        raise RuntimeError
    error = refused(lambda: list(target.pages(kept, None, Extent(0, MIB))))
    assert error.kind is ErrorKind.STORE_ACCESS_DENIED
    assert kept.place.query not in error.detail
    assert azure.compute.snapshots.get(GROUP, name).properties.disk_state == "Unattached"


def test_two_snapshots_of_a_disk_differ_by_what_was_written_in_between(azure: Azure, target: AzureTarget, disk: str) -> None:
    names = [azure.name("snap") for _ in range(2)]
    azure.control.write(disk, 0, b"a" * 4 * SECTOR)
    target.take_disk_snapshot(GROUP, names[0], disk, OURS, no_beat)
    azure.control.write(disk, MIB, b"b" * SECTOR)
    azure.control.discard(disk, 0, 2 * SECTOR)
    target.take_disk_snapshot(GROUP, names[1], disk, OURS, no_beat)
    with target.open_disk_snapshots(GROUP, names, HOUR, no_beat) as access:
        found = list(target.pages(access[names[1]], access[names[0]], Extent(0, 2 * MIB)))
    assert [(page.extent, page.cleared) for page in found] == [(Extent(0, 2 * SECTOR), True), (Extent(MIB, SECTOR), False)]


def test_snapshots_that_have_nothing_in_common_are_told_from_a_failure_that_may_pass(
    azure: Azure, target: AzureTarget, disk: str
) -> None:
    names = [azure.name("snap") for _ in range(3)]
    for name, of in zip(names, (disk, disk, azure.empty_disk(azure.name("disk"))), strict=True):
        target.take_disk_snapshot(GROUP, name, of, OURS, no_beat)
    with target.open_disk_snapshots(GROUP, names, HOUR, no_beat) as access:
        older, newer, other = (access[name] for name in names)
        for new, old in ((newer, other), (older, newer)):
            error = refused(lambda new=new, old=old: list(target.pages(new, old, Extent(0, MIB))))
            assert error.kind is ErrorKind.AZURE_NOT_FOUND


def test_a_vm_is_described_with_its_disks_stopped_and_started_only_if_it_is_ours(azure: Azure, target: AzureTarget) -> None:
    name = azure.name("vm")
    data = azure.empty_disk(f"{name}-data-2001", tags=OURS)
    azure.vm(name, data=(data,))
    azure.compute.virtual_machines.begin_update(GROUP, name, {"tags": OURS}).result()
    found = target.read_target_vm(GROUP, name, OURS, no_beat)
    assert found.running
    assert [(one.is_os, one.lun, one.owned) for one in found.disks] == [(True, None, False), (False, 0, True)]
    assert found.disks[1].resource_id.lower() == data.lower()
    for _ in range(2):
        target.deallocate(GROUP, name, OURS, no_beat)
    assert azure.power(name) == {"PowerState/deallocated"}
    assert not target.read_target_vm(GROUP, name, OURS, no_beat).running
    for _ in range(2):
        target.start(GROUP, name, OURS, no_beat)
    assert azure.power(name) == {"PowerState/running"}
    for step in (target.deallocate, target.start, target.read_target_vm):
        assert refused(step, GROUP, name, THEIRS, no_beat).kind is ErrorKind.AZURE_CONFLICT
        assert refused(step, GROUP, "nobody", OURS, no_beat).kind is ErrorKind.AZURE_NOT_FOUND
