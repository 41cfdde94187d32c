"""Every row of the vSphere fault table, provoked by its name in the lab's vCenter and met through pyVmomi and NBD."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from deltaferry.blocks.nbd import NbdClient
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.faults import FaultClass, FaultRow
from deltaferry.model.units import MIB
from deltaferry.model.vm import Claim, PowerState, Snapshot
from deltaferry.planning.quiescing import order_for
from deltaferry.ports.access import NbdAddress
from deltaferry.vsphere.call_faults import QUIESCE_RULES
from deltaferry.vsphere.client import VSphere
from deltaferry.vsphere.exports import PlainNbdExports
from deltaferry.vsphere.fault_rule import FaultRule
from deltaferry.vsphere.fault_table import GENERAL_RULES, RULES
from deltaferry.vsphere.reading_faults import READING_FAULTS, ReadingFault
from lab.vcenter.named_faults import NBD_FAULTS, SOAP_FAULTS
from tests.unit.fault_classes import TRIED_AGAIN, disagreement

from .lab_vcenter import OTHER_USER, LabVcenter

PREFIX = "df/lab/0123456789abcdef/"
NAME = f"{PREFIX}1-00000000-0000-4000-8000-000000000001"
CLAIM = Claim("lab", "0123456789abcdef")
ROWS: tuple[FaultRow, ...] = (*RULES, *READING_FAULTS)


def beat() -> None:
    """Nothing to heartbeat to."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What a row is provoked on."""

    vsphere: VSphere
    lab: LabVcenter
    vm: str

    def snapshots(self) -> list[str]:
        return [snapshot.name for snapshot in self.vsphere.read_vm(self.vm).snapshots]


@pytest.fixture
def bench(vsphere: VSphere, lab: LabVcenter, vm: str) -> Iterator[Bench]:
    yield Bench(vsphere, lab, vm)
    lab.clear_faults()


def names(row: FaultRow) -> str:
    return row.name


# --- the table itself


def test_every_row_has_a_lab_fault_of_its_name_and_every_lab_fault_a_row() -> None:
    assert {row.name for row in RULES} == SOAP_FAULTS.keys()
    assert {row.name for row in READING_FAULTS} == NBD_FAULTS.keys()
    assert len({row.name for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=names)
def test_the_class_of_a_row_is_what_the_system_does_with_its_kind(row: FaultRow) -> None:
    assert disagreement(row) is None
    assert row.meaning.endswith(".") and row.advice.endswith(".")


def test_a_class_that_disagrees_is_found() -> None:
    wrong = FaultRow(name="x", meaning="x", answer=FaultClass.RETRY, kind=ErrorKind.CBT_CORRUPT)
    outage = FaultRow(name="x", meaning="x", answer=FaultClass.RESYNC, kind=ErrorKind.VSPHERE_UNREACHABLE)
    assert disagreement(wrong) and disagreement(outage)


def test_the_last_row_speaks_of_every_fault() -> None:
    assert GENERAL_RULES[-1].name == "other-fault"


# --- each row, provoked

Step = Callable[[Bench], object]


def take(bench: Bench) -> Snapshot:
    return bench.vsphere.take_snapshot(bench.vm, NAME, "", beat)


def take_quiesced(bench: Bench) -> Snapshot:
    return bench.vsphere.take_snapshot(bench.vm, NAME, "", beat, order_for("Linux"))


def query(bench: Bench, *, tracked: bool = True, other_disk: bool = False) -> Step:
    """Return a step that asks for the changes of a disk of a VM with or without tracking, or of a disk that it lacks."""
    if tracked:
        bench.vsphere.set_change_tracking(bench.vm, True, f"{PREFIX}0-marker", beat)
    taken = take(bench)
    disk = taken.disks[0]
    change_id = disk.change_id or "52 00 00 00 00 00 00 00-00 00 00 00 00 00 00 00/1"
    key = 9999 if other_disk else disk.key
    return lambda b: list(b.vsphere.changed_areas(b.vm, taken.moref, key, MIB, change_id))


def leave_deltas(bench: Bench) -> Step:
    taken = take(bench)
    bench.lab.order("consolidation_stuck", bench.vm)
    bench.vsphere.remove_snapshot(bench.vm, taken.moref, beat)
    assert bench.vsphere.read_vm(bench.vm).consolidation_needed
    return lambda b: b.vsphere.consolidate(b.vm, beat)


def step_for(row: FaultRule, bench: Bench) -> Step:
    """Return the step that meets a row's fault, with everything before it done."""
    if row in QUIESCE_RULES:
        return take_quiesced
    match row.method:
        case "QueryChangedDiskAreas":
            return query(bench, tracked=row.name != "key-of-untracked-disk", other_disk=row.name == "key-of-no-disk")
        case "ConsolidateVMDisks_Task":
            return leave_deltas(bench)
        case "ReconfigVM_Task":
            return lambda b: b.vsphere.write_claim(b.vm, CLAIM, expected=None)
        case "ShutdownGuest":
            return lambda b: b.vsphere.shut_down_guest(b.vm)
        case "PowerOffVM_Task":
            return lambda b: b.vsphere.power_off(b.vm, beat)
    return take


PROVOKED = [row for row in RULES if row.name not in ("invalid-login", "reply-lost", "timed-out")]


@pytest.mark.parametrize("row", PROVOKED, ids=names)
def test_a_fault_becomes_its_kind_and_what_its_class_says_happens(bench: Bench, row: FaultRule) -> None:
    step = step_for(row, bench)
    on_any_object = row.answer is FaultClass.RE_LOGIN
    bench.lab.ask_named(row.name, "" if on_any_object else bench.vm)
    if row.answer in (FaultClass.RE_LOGIN, FaultClass.SETTLED):
        step(bench)
    else:
        with pytest.raises(DeltaferryError) as caught:
            step(bench)
        assert caught.value.kind is row.kind
        assert caught.value.retry_after is None
    assert bench.lab.pending_faults() == 0, "the fault was not met"
    if row.answer in TRIED_AGAIN:
        step(bench)
    if step is take:
        take(bench)
        assert bench.snapshots() == [NAME], "an attempt after the fault makes the one snapshot"


def test_an_expired_session_logs_in_again_and_the_call_succeeds(bench: Bench) -> None:
    bench.vsphere.read_vm(bench.vm)
    sent = bench.lab.calls("Login")
    bench.lab.ask_named("not-authenticated")
    assert bench.vsphere.read_vm(bench.vm).instance_uuid == bench.vm
    assert bench.lab.calls("Login") == sent + 1


def test_a_session_that_is_refused_even_when_it_is_new_is_an_error_that_may_pass(bench: Bench) -> None:
    bench.lab.fault("NotAuthenticated", "CurrentTime", count=2)
    bench.lab.fault("NotAuthenticated", "RetrievePropertiesEx", count=2)
    with pytest.raises(DeltaferryError) as caught:
        bench.vsphere.read_vm(bench.vm)
    row = next(row for row in RULES if row.name == "not-authenticated")
    assert caught.value.kind is row.kind
    assert bench.vsphere.read_vm(bench.vm).instance_uuid == bench.vm


def test_a_refused_log_in_waits_for_the_operator_and_is_tried_again_with_a_new_password(lab: LabVcenter) -> None:
    passwords = ["wrong"]
    with VSphere(lab.endpoint(OTHER_USER), lambda: passwords[-1]) as client:
        lab.ask_named("invalid-login")
        with pytest.raises(DeltaferryError) as caught:
            client.find_vms("web-01")
        assert caught.value.kind is ErrorKind.VSPHERE_LOGIN_REJECTED
        passwords.append("second")
        assert len(client.find_vms("web-01")) == 1


@pytest.mark.parametrize(
    ("name", "kind"), [("reply-lost", ErrorKind.VSPHERE_UNREACHABLE), ("timed-out", ErrorKind.VSPHERE_FAULT)]
)
def test_a_snapshot_that_was_made_although_its_attempt_failed_is_found_by_the_next(
    bench: Bench, name: str, kind: ErrorKind
) -> None:
    bench.vsphere.read_vm(bench.vm)
    sent = bench.lab.calls("CreateSnapshotEx_Task")
    bench.lab.ask_named(name, bench.vm)
    with pytest.raises(DeltaferryError) as caught:
        take(bench)
    assert caught.value.kind is kind
    taken = take(bench)
    assert bench.snapshots() == [taken.name]
    assert bench.lab.calls("CreateSnapshotEx_Task") == sent + 1, "no second snapshot was asked for"


def test_after_a_host_was_lost_the_next_attempt_goes_to_the_host_that_runs_the_vm_now(bench: Bench) -> None:
    exports = PlainNbdExports({"esxi-1.lab": ("host-one", 1), "esxi-2.lab": ("host-two", 2)})
    bench.lab.ask_named("host-not-connected", bench.vm)
    with pytest.raises(DeltaferryError) as caught:
        take(bench)
    assert caught.value.kind is ErrorKind.HOST_GONE
    bench.lab.move(bench.vm, "esxi-2.lab")
    taken = take(bench)
    with exports.open(bench.vsphere.read_vm(bench.vm), taken, taken.disks[0].key) as address:
        assert (address.host, address.port) == ("host-two", 2)


def test_allocated_areas_that_cannot_be_told_are_an_error_of_their_own_so_that_the_disk_is_read_whole(bench: Bench) -> None:
    bench.vsphere.set_change_tracking(bench.vm, True, f"{PREFIX}0-marker", beat)
    taken = take(bench)
    for name in ("cbt-no-epoch", "not-supported", "cbt-corrupt"):
        bench.lab.ask_named(name, bench.vm)
        with pytest.raises(DeltaferryError) as caught:
            list(bench.vsphere.changed_areas(bench.vm, taken.moref, taken.disks[0].key, MIB, "*"))
        assert caught.value.kind is ErrorKind.CBT_NO_EPOCH


# --- reading disks


def read_first_mib(bench: Bench, snapshot: Snapshot, key: int) -> bytes:
    """Read as an attempt does: the VM's host is asked for first, then one connection is made."""
    vm = bench.vsphere.read_vm(bench.vm)
    with PlainNbdExports(bench.lab.nbd_addresses()).open(vm, snapshot, key) as address:
        return read(address)


def read(address: NbdAddress) -> bytes:
    buffer = bytearray(MIB)
    with NbdClient(address, timeout_s=10) as client:
        client.read_into(0, memoryview(buffer))
    return bytes(buffer)


@pytest.fixture
def reading(bench: Bench) -> Iterator[Snapshot]:
    yield take(bench)
    bench.lab.clear_nbd()


@pytest.mark.parametrize("row", READING_FAULTS, ids=names)
def test_a_fault_of_reading_becomes_its_kind_and_the_next_attempt_reads(
    bench: Bench, reading: Snapshot, row: ReadingFault
) -> None:
    key = reading.disks[0].key
    bench.lab.ask_named(row.name, host="esxi-1.lab")
    with pytest.raises(DeltaferryError) as caught:
        read_first_mib(bench, reading, key)
    assert caught.value.kind is row.kind is ErrorKind.DISK_READ_FAILED
    bench.lab.clear_nbd()
    assert len(read_first_mib(bench, reading, key)) == MIB


def test_a_vm_that_moved_while_it_was_read_is_read_from_its_new_host(bench: Bench, reading: Snapshot) -> None:
    key = reading.disks[0].key
    before = read_first_mib(bench, reading, key)
    old = bench.vsphere.read_vm(bench.vm)
    bench.lab.move(bench.vm, "esxi-2.lab")
    with PlainNbdExports(bench.lab.nbd_addresses()).open(old, reading, key) as address, pytest.raises(DeltaferryError) as caught:
        read(address)
    assert caught.value.kind is ErrorKind.DISK_READ_FAILED
    assert read_first_mib(bench, reading, key) == before


def test_a_vm_that_is_off_already_counts_as_powered_off(bench: Bench) -> None:
    bench.lab.ask_named("already-off", bench.vm)
    bench.vsphere.power_off(bench.vm, beat)
    assert bench.vsphere.power_state(bench.vm) is PowerState.OFF
