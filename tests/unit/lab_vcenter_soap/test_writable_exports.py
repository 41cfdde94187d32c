"""Writing to a powered-off VM's disks over NBD, as nbdkit with VDDK does."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
from pyVmomi import vim

from lab.vcenter.out_of_band import OutOfBandWrites
from tests.unit.lab_vcenter_disk.wire import OptionError, RequestError, WireClient
from tests.unit.lab_vcenter_soap.running import MIB, Lab

SECTOR = 512
WRITE, FLUSH, TRIM, WRITE_ZEROES = 1, 3, 4, 6
FUA = 1
MULTI_CONN, SEND_FLUSH, SEND_FUA, SEND_TRIM, SEND_ZEROES = 1 << 8, 1 << 2, 1 << 3, 1 << 5, 1 << 6
POLICY, UNKNOWN, EPERM, EIO, EINVAL, ENOSPC = 2, 6, 1, 5, 22, 28
HOST = "esxi-1.lab"


@pytest.fixture
def off(fresh_lab: Lab) -> Iterator[Lab]:
    """The lab about a VM that is off and tracked."""
    vm = fresh_lab.vm()
    fresh_lab.track(vm)
    fresh_lab.run(vm.PowerOffVM_Task())
    yield fresh_lab
    fresh_lab.control.set_nbd(HOST, volatile_writes=False)
    fresh_lab.control.clear_nbd(HOST)


def opened(lab: Lab, kind: str, key: int = 2000) -> WireClient:
    name = f"{kind}={lab.state().moref};disk={key}"
    client = WireClient("127.0.0.1", lab.nbd[lab.state().host])
    client.negotiate_structured(name)
    client.go(name)
    return client


def refused(lab: Lab, kind: str) -> int:
    name = f"{kind}={lab.state().moref};disk=2000"
    with WireClient("127.0.0.1", lab.nbd[lab.state().host]) as client, pytest.raises(OptionError) as refusal:
        client.go(name)
    return refusal.value.code


def until_free(lab: Lab) -> None:
    """Wait until the server noticed that a connection is closed."""
    while lab.control.state().hosts[0].connections:
        continue


def present(lab: Lab, offset: int, length: int) -> bytes:
    with opened(lab, "present") as client:
        data = client.read(offset, length)
    until_free(lab)
    return data


def device(vm: Any, key: int = 2000) -> Any:
    return next(one for one in vm.config.hardware.device if one.key == key)


def test_a_writer_writes_and_reads_back_what_stays(off: Lab) -> None:
    data = os.urandom(64 * 1024)
    with opened(off, "writable") as writer:
        assert writer.flags & (MULTI_CONN | SEND_TRIM) == 0
        assert writer.flags & (SEND_FLUSH | SEND_FUA | SEND_ZEROES) == SEND_FLUSH | SEND_FUA | SEND_ZEROES
        writer.write(MIB, data)
        writer.call(WRITE_ZEROES, MIB, SECTOR)
        writer.call(FLUSH, 0, 0)
        assert writer.read(MIB, len(data)) == bytes(SECTOR) + data[SECTOR:]
        with pytest.raises(RequestError) as refusal:
            writer.call(TRIM, MIB, SECTOR)
        assert int(str(refusal.value)) == EINVAL
    until_free(off)
    assert present(off, MIB, len(data)) == bytes(SECTOR) + data[SECTOR:]


def test_a_writer_is_alone(off: Lab) -> None:
    with opened(off, "writable"):
        assert refused(off, "writable") == POLICY
        assert refused(off, "present") == POLICY
        with opened(off, "writable", 2001):
            pass
    until_free(off)
    with opened(off, "present"), opened(off, "present"):
        assert refused(off, "writable") == POLICY
    until_free(off)
    opened(off, "writable").__exit__()


def test_a_running_vm_has_no_writer(lab: Lab) -> None:
    assert refused(lab, "writable") == UNKNOWN


def test_a_vm_with_a_writer_is_neither_powered_on_nor_snapshotted(off: Lab) -> None:
    vm = off.vm()
    with opened(off, "writable"):
        with pytest.raises(vim.fault.GenericVmConfigFault) as fault:
            off.run(vm.PowerOnVM_Task())
        keys = [message.key for message in fault.value.faultMessage]
        assert keys[:2] == ["msg.fileio.lock", "msg.disk.noBackEnd"]
        assert device(vm).backing.fileName.rpartition("/")[2] in fault.value.faultMessage[1].arg[0].value
        with pytest.raises(vim.fault.FileLocked):
            off.snapshot(vm, "locked")
        assert vm.runtime.powerState == "poweredOff"
    until_free(off)
    off.run(vm.PowerOnVM_Task())


@pytest.mark.parametrize("seen", list(OutOfBandWrites))
def test_change_tracking_may_miss_what_a_writer_wrote(off: Lab, seen: OutOfBandWrites) -> None:
    vm = off.vm()
    off.control.set_tracking(vm._moId, out_of_band=seen)
    before = device(vm).backing
    with opened(off, "writable") as writer:
        writer.write(MIB, b"w" * SECTOR)
    until_free(off)
    after = device(vm).backing
    assert after.contentId != before.contentId
    assert (after.changeId.split("/")[0] == before.changeId.split("/")[0]) is (seen is not OutOfBandWrites.RESET)
    if seen is OutOfBandWrites.RESET:
        with pytest.raises(vim.fault.FileFault):
            vm.QueryChangedDiskAreas(None, 2000, 0, before.changeId)
        return
    areas = vm.QueryChangedDiskAreas(None, 2000, 0, before.changeId).changedArea
    assert bool(areas) is (seen is OutOfBandWrites.TRACKED)


def test_what_was_not_flushed_is_lost_with_the_host_and_what_was_is_not(off: Lab) -> None:
    off.control.set_nbd(HOST, volatile_writes=True)
    with opened(off, "writable") as writer:
        writer.write(0, b"1" * SECTOR)
        writer.call(FLUSH, 0, 0)
        writer.write(0, b"2" * 2 * SECTOR)
        writer.call(WRITE, 4 * SECTOR, SECTOR, b"3" * SECTOR, flags=FUA)
        writer.write(8 * SECTOR, b"4" * SECTOR)
        assert off.control.crash_nbd(HOST) == 3
        with pytest.raises((EOFError, OSError)):
            writer.read(0, SECTOR)
    assert present(off, 0, 9 * SECTOR) == b"1" * SECTOR + bytes(3 * SECTOR) + b"3" * SECTOR + bytes(4 * SECTOR)


def test_a_cut_writer_does_not_learn_that_its_write_was_carried_out(off: Lab) -> None:
    off.control.set_nbd(HOST, cut_after_written_bytes=2 * SECTOR)
    with opened(off, "writable") as writer:
        writer.write(0, b"a" * SECTOR)
        with pytest.raises((EOFError, OSError)):
            writer.write(SECTOR, b"b" * SECTOR)
    until_free(off)
    assert present(off, 0, 2 * SECTOR) == b"a" * SECTOR + b"b" * SECTOR


def test_writes_fail_where_and_as_they_are_told_to(off: Lab) -> None:
    off.control.set_nbd(HOST, fail_offset=MIB, fail_length=SECTOR, fail_times=1, fail_writes=True, fail_export="writable=")
    with opened(off, "writable") as writer:
        with pytest.raises(RequestError) as refusal:
            writer.write(MIB, bytes(SECTOR))
        assert int(str(refusal.value)) == EIO
        assert writer.read(MIB, SECTOR) == bytes(SECTOR)
        writer.write(MIB, bytes(SECTOR))
        off.control.fill_datastore("ds1", 0)
        with pytest.raises(RequestError) as refusal:
            writer.write(MIB, bytes(SECTOR))
        assert int(str(refusal.value)) == ENOSPC
        off.control.fill_datastore("ds1", None)
    until_free(off)


def test_a_reader_cannot_write(off: Lab) -> None:
    with opened(off, "present") as reader, pytest.raises(RequestError) as refusal:
        reader.write(0, bytes(SECTOR))
    assert int(str(refusal.value)) == EPERM
    until_free(off)


@pytest.mark.parametrize(("name", "code"), [("write-error", EIO), ("write-no-space", ENOSPC)])
def test_a_writer_meets_the_fault_that_was_asked_for_once(off: Lab, name: str, code: int) -> None:
    off.control.ask_named(name, host=HOST)
    with opened(off, "writable") as writer:
        assert writer.read(0, SECTOR) == bytes(SECTOR)
        with pytest.raises(RequestError) as refusal:
            writer.write(0, bytes(SECTOR))
        assert int(str(refusal.value)) == code
        writer.write(0, bytes(SECTOR))
    until_free(off)


def test_power_on_meets_the_fault_that_was_asked_for_once(off: Lab) -> None:
    off.control.ask_named("power-on-locked", vm=off.vm()._moId)
    with pytest.raises(vim.fault.GenericVmConfigFault):
        off.run(off.vm().PowerOnVM_Task())
    off.run(off.vm().PowerOnVM_Task())
