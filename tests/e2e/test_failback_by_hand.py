"""Failback on real bytes: after every committed pass the disks at the site are the snapshots of those in Azure, byte by byte.

The activities run here in the test's own process, against the lab's real Azure, stores, vCenter and disks.
"""

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from azure.mgmt.compute import ComputeManagementClient
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.source_power import SourcePower
from deltaferry.blocks.killpoints import VARIABLE, KillPoint
from deltaferry.blocks.nbd import NbdClient
from deltaferry.model.errors import ErrorKind
from deltaferry.model.replication import CycleKind
from deltaferry.model.units import MIB, SECTOR
from deltaferry.ports.access import NbdAddress
from lab.guest_journal import lost_writes, read_journal, surviving
from lab.settings import LOCATION, RESOURCE_GROUP, SITE, SUBSCRIPTION
from tests.e2e.conftest import Lab
from tests.e2e.replicated import Replicated
from tests.e2e.reverse_by_hand import ReverseByHand, refusal_of
from tests.unit.lab_arm.conftest import Credential
from workflows.messages.failback import (
    LossesInput,
    ReleaseFailbackInput,
)
from workflows.messages.step import OnReplication, UnguardInput

_CAPACITIES = (5 * MIB + 3 * SECTOR, 3 * MIB)
_NO_TEMPORAL = cast("Client", None)
"""In the place of the client that these tests do without."""


@pytest.fixture
def secrets(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give this process the environment that a worker has."""
    for name, value in lab.world.environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def failed_over(lab: Lab, secrets: None, request: pytest.FixtureRequest) -> Iterator[ReverseByHand]:
    """A VM that runs in Azure since a failover; at the site it still runs, too."""
    vm = Replicated.create(lab.world, _NO_TEMPORAL, request.node.name, _CAPACITIES)
    hand = ReverseByHand(vm, **getattr(request, "param", {}))
    hand.fail_over()
    lab.world.arm_control.set_limits(snapshots_per_window=100)
    yield hand
    lab.world.arm_control.set_limits()
    hand.close()


@pytest.mark.parametrize("failed_over", [{"again": lambda: True, "chunk_max_bytes": 1}], indirect=True)
@pytest.mark.chaos
def test_after_each_pass_the_site_is_azures_snapshot_even_if_every_step_is_carried_out_twice(failed_over: ReverseByHand) -> None:
    hand, source = failed_over, random.Random(4)
    hand.azure_scribble(source)
    assert hand.prepare_site().powered_off_by_us is False  # it was carried out twice
    first = hand.full()
    hand.assert_site_is(first)
    assert first.compared_bytes == sum(_CAPACITIES)
    assert 0 < sum(plan.covered_bytes for _, plan in first.plans) < sum(_CAPACITIES)
    hand.commit_pass(first)
    hand.azure_scribble(source)
    hand.azure_write(1, 0, bytes(MIB))
    second = hand.delta_back()
    hand.assert_site_is(second)
    hand.commit_pass(second)
    assert hand.our_azure_snapshots() == sorted(name for _, name in second.snapshots)
    assert hand.repeated >= {
        *("prepare_failback", "snapshot_target", "hash_snapshots", "compare_site", "plan_changes", "send_back", "write_back"),
        *("verify_back", "drop_snapshots", "discard_back"),
    }


@pytest.mark.chaos
def test_a_vm_that_runs_is_refused_and_powered_off_only_if_asked(failed_over: ReverseByHand) -> None:
    hand = failed_over
    refusal = refusal_of(lambda: hand.prepare_site(power_off=False))
    assert refusal.type == ErrorKind.OPERATION_REFUSED.value
    assert "running at the site" in refusal.message
    assert hand.prepare_site(power_off=True).powered_off_by_us


def test_while_the_vm_is_marked_our_side_neither_powers_it_on_nor_snapshots_it(failed_over: ReverseByHand) -> None:
    hand, vm = failed_over, failed_over.vm
    hand.prepare_site()
    annotation = hand.world.vcenter_control.vm(vm.name).annotation
    assert "do not power it on" in annotation
    power_on = UnguardInput(hand.replication, (), True)
    refusal = refusal_of(lambda: ActivityEnvironment().run(SourcePower({SITE: hand.site}).unguard_source, power_on))
    assert refusal.type == ErrorKind.OPERATION_REFUSED.value
    refusal = refusal_of(lambda: hand.begin(CycleKind.DELTA))
    assert refusal.type == ErrorKind.OPERATION_REFUSED.value
    hand.do(hand.at_site.release_failback, ReleaseFailbackInput(hand.replication))
    ActivityEnvironment().run(SourcePower({SITE: hand.site}).unguard_source, power_on)
    after = hand.world.vcenter_control.vm(vm.name)
    assert (after.power, after.annotation) == ("poweredOn", "")


def test_a_vm_that_a_failback_brought_home_is_known_by_its_power_or_by_its_disks_and_not_written_to_again(
    failed_over: ReverseByHand,
) -> None:
    hand, control = failed_over, failed_over.world.vcenter_control
    asked = OnReplication(hand.replication)
    hand.prepare_site()
    last = hand.full()
    hand.do(hand.at_site.release_failback, ReleaseFailbackInput(hand.replication, last.number))
    assert hand.do(hand.at_site.find_homecoming, asked).home == "", "it was not powered on"
    assert (hand.prepare_site().home, "do not power it on" in control.vm(hand.vm.name).annotation) == ("", True)
    assert hand.do(hand.at_site.find_homecoming, asked).home == ""
    hand.do(hand.at_site.release_failback, ReleaseFailbackInput(hand.replication, last.number))
    ActivityEnvironment().run(SourcePower({SITE: hand.site}).unguard_source, UnguardInput(hand.replication, (), True))
    assert "is on at the site" in hand.prepare_site(power_off=True).home
    assert control.vm(hand.vm.name).power == "poweredOn"
    hand.vm.write(0, 0, b"h" * SECTOR)
    hand.site.hypervisor.power_off(hand.replication.ref.instance_uuid, lambda: None)
    assert "was on in between" in hand.prepare_site().home
    assert "was on in between" in hand.do(hand.at_site.find_homecoming, asked).home
    assert control.vm(hand.vm.name).annotation == ""
    assert hand.on_site()[0][:SECTOR] == b"h" * SECTOR


@pytest.mark.chaos
def test_a_strangers_snapshot_is_refused_by_its_name(failed_over: ReverseByHand) -> None:
    hand = failed_over
    hand.world.vcenter_control.take_snapshot(hand.vm.source.moref, "nightly backup")
    refusal = refusal_of(hand.prepare_site)
    assert refusal.type == ErrorKind.OPERATION_REFUSED.value
    assert "'nightly backup'" in refusal.message
    assert "do not power it on" not in hand.world.vcenter_control.vm(hand.vm.name).annotation


@pytest.mark.chaos
def test_what_the_source_wrote_after_the_point_is_listed_and_a_reset_is_not_taken_for_nothing(failed_over: ReverseByHand) -> None:
    hand = failed_over
    hand.vm.write(0, 64 * SECTOR, b"x" * 8 * SECTOR)
    hand.prepare_site()
    request = LossesInput(hand.replication, hand.state.bases, given_up_bytes=0)
    boot, data = hand.do(hand.at_site.find_losses, request).disks
    assert boot.written_bytes is not None and boot.written_bytes >= 8 * SECTOR
    assert any(offset <= 64 * SECTOR < offset + length for offset, length in boot.ranges)
    assert (data.written_bytes, data.ranges) == (0, ())
    hand.world.vcenter_control.set_tracking(hand.vm.source.moref, reset=True)
    lost = hand.do(hand.at_site.find_losses, request)
    assert lost.to_confirm
    assert all(disk.written_bytes is None and disk.sentence for disk in lost.disks)


def test_a_second_writer_is_refused_and_the_step_succeeds_when_it_is_gone(failed_over: ReverseByHand) -> None:
    hand = failed_over
    hand.azure_write(0, MIB, b"2" * SECTOR)
    hand.prepare_site()
    run = hand.begin_pass()
    hand.plan_full(run)
    chunks = hand.send_back(run, hand.left_of(run))
    host = hand.world.vcenter_control.vm(hand.vm.name).host
    address = hand.world.endpoints.nbd[host].rpartition(":")
    export = f"writable={hand.vm.source.moref};disk={hand.vm.source.disks[0].key}"
    with NbdClient(NbdAddress(export, host=address[0], port=int(address[2]))):
        refusal = refusal_of(lambda: hand.do(hand.writing.write_back, hand.write_request(run, chunks)))
        assert refusal.type == ErrorKind.DISK_READ_FAILED.value
        assert not refusal.non_retryable
    hand.carry_back(run)
    hand.assert_site_is(run)


@pytest.mark.parametrize("after", [1, pytest.param(3, marks=pytest.mark.chaos)])
@pytest.mark.chaos
def test_a_write_that_was_killed_in_the_middle_is_repeated_and_the_site_is_the_snapshot(
    failed_over: ReverseByHand, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    hand = failed_over
    for number in range(4):
        hand.azure_write(0, number * MIB, bytes([number + 1]) * 64 * 1024)
    hand.prepare_site()
    run = hand.begin_pass()
    hand.plan_full(run)
    chunks = hand.send_back(run, hand.left_of(run))
    with monkeypatch.context() as patched:
        patched.setenv(VARIABLE, f"{KillPoint.MID_WRITE_BACK.value}:{after}")
        refusal = refusal_of(lambda: hand.do(hand.writing.write_back, hand.write_request(run, chunks)))
    assert refusal.type == ErrorKind.INTERRUPTED.value
    hand.carry_back(run)
    hand.assert_site_is(run)


@pytest.mark.chaos
def test_where_somebody_else_wrote_to_the_site_in_between_the_next_step_says_so(failed_over: ReverseByHand) -> None:
    hand = failed_over
    hand.prepare_site()
    hand.commit_pass(hand.full())
    host = hand.world.vcenter_control.vm(hand.vm.name).host
    address = hand.world.endpoints.nbd[host].rpartition(":")
    export = f"writable={hand.vm.source.moref};disk={hand.vm.source.disks[1].key}"
    with NbdClient(NbdAddress(export, host=address[0], port=int(address[2]))) as stranger:
        stranger.write(0, b"s" * SECTOR)
    hand.azure_write(0, 0, b"n" * SECTOR)
    refusal = refusal_of(hand.delta_back)
    assert refusal.type == ErrorKind.SOURCE_MOVED_ON.value
    again = hand.full()
    hand.assert_site_is(again)


@pytest.mark.chaos
def test_a_step_of_an_earlier_pass_comes_too_late(failed_over: ReverseByHand) -> None:
    hand = failed_over
    hand.prepare_site()
    first = hand.full()
    assert (first.compared_bytes, first.sent_bytes) == (sum(_CAPACITIES), 0)  # hashes travelled, and nothing else
    hand.commit_pass(first)
    hand.azure_write(0, 0, b"n" * SECTOR)
    second = hand.delta_back()
    refusal = refusal_of(lambda: hand.do(hand.writing.write_back, hand.write_request(first, ())))
    assert refusal.type == ErrorKind.FENCED.value
    hand.assert_site_is(second)


def test_what_a_busy_guest_wrote_comes_home_to_the_last_sector(failed_over: ReverseByHand) -> None:
    hand, azure = failed_over, failed_over.world.arm_control
    ranges = {number: [(0, disk.capacity_bytes)] for number, disk in enumerate(hand.replication.disks)}
    azure.switch_guest(hand.vm.name, bytes_per_second=8 * MIB, ranges=ranges)
    hand.prepare_site()
    hand.commit_pass(hand.full())
    hand.commit_pass(hand.delta_back())
    goal = azure.guest(hand.vm.name).last_sequence + 5
    while azure.guest(hand.vm.name).last_sequence < goal:
        continue
    hand.do(hand.in_azure.stop_target, hand.on_target)
    last = hand.delta_back()
    hand.assert_site_is(last)
    journal = read_journal(azure.guest(hand.vm.name).journal)
    with tempfile.TemporaryDirectory(dir=hand.world.directory) as folder:
        for number, held in enumerate(hand.on_site()):
            file = Path(folder) / f"{number}.raw"
            file.write_bytes(held)
            assert surviving(journal, number)
            assert lost_writes(journal, number, file) == ()


@pytest.mark.chaos
def test_a_disk_that_was_added_in_azure_is_said_not_to_come_back(failed_over: ReverseByHand) -> None:
    hand, world = failed_over, failed_over.world
    survey = hand.do(hand.in_azure.survey_failed_over, hand.on_target)
    assert [(key, disk.lower()) for key, disk in survey.disks] == [(key, disk.lower()) for key, disk in hand.disks]
    assert (survey.not_replicated, survey.running) == ((), True)
    options = {"base_url": world.endpoints.arm, "connection_verify": str(world.endpoints.ca_file), "polling_interval": 0.1}
    with ComputeManagementClient(Credential(world.arm.token), SUBSCRIPTION, **options) as compute:
        name = f"{hand.vm.name}-extra"
        properties = {"creationData": {"createOption": "Empty"}, "diskSizeGB": 1}
        extra = compute.disks.begin_create_or_update(
            RESOURCE_GROUP, name, {"location": LOCATION, "properties": properties}
        ).result()
        vm = compute.virtual_machines.get(RESOURCE_GROUP, hand.vm.name)
        vm.properties.storage_profile.data_disks.append(
            {"lun": 7, "createOption": "Attach", "managedDisk": {"id": extra.id}, "deleteOption": "Detach"}
        )
        compute.virtual_machines.begin_create_or_update(RESOURCE_GROUP, hand.vm.name, vm).result()
    again = hand.do(hand.in_azure.survey_failed_over, hand.on_target)
    (sentence,) = again.not_replicated
    assert name in sentence and "does not come back" in sentence
    assert again.disks == survey.disks


@pytest.mark.chaos
def test_page_lists_of_many_answers_lose_nothing(failed_over: ReverseByHand) -> None:
    hand, source = failed_over, random.Random(7)
    hand.prepare_site()
    hand.commit_pass(hand.full())
    for number in range(40):
        hand.azure_write(number % 2, number * 17 * SECTOR, source.randbytes(SECTOR))
    hand.world.arm_control.set_limits(snapshots_per_window=100, ranges_per_page=3)
    hand.assert_site_is(hand.delta_back())


@pytest.mark.parametrize(
    "fault", ["snapshot-rate", "snapshot-failed", "signatures-used-up", "signature-expired", "disk-read-busy"]
)
@pytest.mark.chaos
def test_what_azure_refuses_for_the_moment_is_tried_again(failed_over: ReverseByHand, fault: str) -> None:
    hand = failed_over
    hand.prepare_site()
    hand.azure_write(0, 0, b"f" * SECTOR)
    hand.world.arm_control.ask_named(fault)
    for _ in range(3):
        try:
            run = hand.full()
        except ApplicationError as error:
            assert not error.non_retryable, error
            continue
        break
    hand.assert_site_is(run)


@pytest.mark.chaos
def test_too_many_snapshots_are_a_persons_to_mend(failed_over: ReverseByHand) -> None:
    failed_over.world.arm_control.ask_named("snapshot-count")
    refusal = refusal_of(failed_over.begin_pass)
    assert (refusal.type, refusal.non_retryable) == (ErrorKind.AZURE_QUOTA.value, True)
