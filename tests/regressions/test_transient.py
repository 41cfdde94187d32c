"""What passes by itself costs an attempt and nothing else: B9, B10 and complaint 15."""

import functools
import random
import time
import uuid
from collections.abc import Callable
from typing import TypeVar

import pytest
from temporalio.exceptions import ApplicationError

from deltaferry.model.errors import ErrorKind
from deltaferry.model.naming import COMMIT_RECORD, gateway_container
from deltaferry.model.replication import CycleKind
from deltaferry.model.units import BLOCK, GRANULE, MIB, SECTOR
from lab.vcenter.faults import FaultName, FaultRequest
from tests.e2e.accidents import overwrite
from tests.e2e.by_hand import ByHand
from tests.regressions.whole_cycles import carry_delta, changed, copy_everything, finish
from workflows.messages.step import BeginCycleInput

_WITHIN_S = 30.0
_POLL_S = 0.02

PASSING = (
    FaultRequest(FaultName.METHOD, method="RetrievePropertiesEx", fault="HostCommunication"),
    FaultRequest(FaultName.METHOD, method="QueryChangedDiskAreas", fault="SystemError"),
    FaultRequest(FaultName.METHOD, method="QueryChangedDiskAreas", fault="FileLocked"),
    FaultRequest(FaultName.METHOD, method="CreateSnapshotEx_Task", fault="HostCommunication"),
    FaultRequest(FaultName.METHOD, method="CreateSnapshotEx_Task", fault="Timedout", as_task_error=True),
    FaultRequest(FaultName.METHOD, method="CreateSnapshotEx_Task", fault="TaskInProgress"),
    FaultRequest(FaultName.METHOD, method="WaitForUpdatesEx", fault="SystemError"),
    FaultRequest(FaultName.METHOD, method="RemoveSnapshot_Task", fault="HostCommunication"),
    FaultRequest(FaultName.METHOD, method="RemoveSnapshot_Task", fault="FileLocked", as_task_error=True),
    FaultRequest(FaultName.DROP_REPLY, method="CreateSnapshotEx_Task"),
    FaultRequest(FaultName.DROP_REPLY, method="RemoveSnapshot_Task"),
    FaultRequest(FaultName.HTTP_ERROR, method="QueryChangedDiskAreas", status=503),
)
"""Each is met once by a step that begins a cycle, or by the one that gives its snapshot back."""


def snapshots_read(hand: ByHand) -> list[str]:
    """Return the open connections through which hosts serve snapshots, as `snapshot=…;disk=…`."""
    hosts = hand.world.vcenter_control.state().hosts
    return [connection.export for host in hosts for connection in host.connections if connection.uses_nfc_budget]


@pytest.mark.parametrize("cut", [False, True], ids=["ended", "cut in its middle"])
def test_b9_no_reader_is_left_on_an_esxi_host(by_hand: Callable[..., ByHand], dice: random.Random, cut: bool) -> None:
    """migratekit, vJailbreak and os-migrate kill their reader: its sessions linger and use the host's NFC memory up."""
    hand = by_hand("b9", 8 * MIB)
    hand.prepare()
    hand.vm.write(0, 0, dice.randbytes(4096))
    key, begun = hand.begin(CycleKind.INITIAL)
    request = hand.transfer_request(key, begun, hand.unsent(begun))
    if cut:
        hand.cut(hand.transfers.transfer, request, "PutBlob", "log", 0)
    else:
        hand.do(hand.transfers.transfer, request)
    until = time.monotonic() + _WITHIN_S
    while snapshots_read(hand) and time.monotonic() < until:
        time.sleep(_POLL_S)
    assert snapshots_read(hand) == []
    hand.release()


def test_b10_a_record_that_cannot_be_written_is_an_error_and_takes_no_commit_back(
    by_hand: Callable[..., ByHand], dice: random.Random
) -> None:
    """migratekit, openstack.go: an error while its state is written is ignored, and the rest of the clean-up is left out."""
    hand = by_hand("b10", MIB)
    hand.prepare()
    copy_everything(hand)
    hand.vm.write(0, 0, dice.randbytes(4096))
    key, begun = hand.begin(CycleKind.DELTA)
    frozen = hand.snapshot_bytes(begun)
    sent, left = hand.send(key, begun, hand.unsent(begun))
    assert not left
    point = hand.seal(key, begun, hand.apply(key, sent, CycleKind.DELTA))
    record = hand.vm.blobs("gateway").get_blob_client(gateway_container(hand.replication.ref), COMMIT_RECORD)
    last = record.download_blob().readall()
    lease = record.acquire_lease()
    before = set(hand.picture())
    with pytest.raises(ApplicationError):
        finish(hand, begun, point, frozen)
    assert record.download_blob().readall() == last
    assert before <= set(hand.picture()), "nothing is deleted before the record is written"
    lease.release()

    hand.state.cycles_committed -= 1
    finish(hand, begun, point, frozen)
    assert record.download_blob().readall() != last
    record.close()
    assert changed(carry_delta(hand)) == {base.disk_key: 0 for base in hand.state.bases}


R = TypeVar("R")


def tried_again(step: Callable[[], R], what: object) -> R:
    """Carry out a step as Temporal does that tries it again: once more, where it failed in a way that may pass."""
    try:
        return step()
    except ApplicationError as error:
        assert not error.non_retryable, f"{what} ended the step: {error.type}: {error}"
    return step()


def test_complaint_15_a_fault_of_vcenter_costs_one_attempt(by_hand: Callable[..., ByHand], dice: random.Random) -> None:
    """vJailbreak #1803, #1204 and #1961, CDI #4069: a passing error of vCenter ends hours of work.

    Here the step fails in a way that is retried, its next attempt succeeds, and there is one snapshot while it is held.
    """
    hand = by_hand("c15", MIB)
    control, source = hand.world.vcenter_control, hand.vm.source
    hand.prepare()
    copy_everything(hand)
    for fault in PASSING:
        hand.vm.write(0, 0, dice.randbytes(SECTOR))
        control.ask(fault)
        hand.state.cycles_minted += 1
        key = f"{hand.state.cycles_minted}-{uuid.uuid4()}"
        request = BeginCycleInput(hand.replication, key, CycleKind.DELTA, hand.state.bases, hand.state.dirty)
        begun = tried_again(functools.partial(hand.do, hand.snapshots.begin_cycle, request), fault)
        (held,) = control.vm(source.name).snapshots
        assert (held.moref, held.name.endswith(key)) == (begun.snapshot, True), fault
        tried_again(hand.release, fault)
        assert control.vm(source.name).snapshots == (), fault
        assert control.call("GET", "/faults")["faults"] == [], f"{fault} was met"
    assert changed(carry_delta(hand)) == {source.disks[0].key: GRANULE}


def test_complaint_15_a_read_that_breaks_off_is_taken_up_where_it_was(by_hand: Callable[..., ByHand]) -> None:
    """The same, for the disk's data: what is stored is not read again."""
    hand = by_hand("c15-read", 6 * BLOCK)
    overwrite(hand.vm, 0, 0, 5 * BLOCK)
    hand.prepare()
    for host in hand.world.vcenter_control.state().hosts:
        hand.world.vcenter_control.set_nbd(host.name, cut_after_bytes=3 * BLOCK)
    key, begun = hand.begin(CycleKind.INITIAL)
    frozen = hand.snapshot_bytes(begun)
    request = hand.transfer_request(key, begun, hand.unsent(begun))
    with pytest.raises(ApplicationError) as caught:
        hand.do(hand.transfers.transfer, request)
    assert (caught.value.type, caught.value.non_retryable) == (ErrorKind.DISK_READ_FAILED.value, False)
    (chunk,) = hand.do(hand.transfers.transfer, request).chunks
    assert chunk.segments_found >= 1
    assert chunk.bytes_read < begun.disks[0].plan.data_bytes
    hand.mark_dirty(begun)
    finish(hand, begun, hand.seal(key, begun, hand.apply(key, (chunk,), CycleKind.INITIAL)), frozen)
