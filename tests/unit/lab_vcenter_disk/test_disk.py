"""Rules of a lab disk that single cases show."""

import re
import threading

import pytest

from lab.vcenter.disk import VirtualDisk
from lab.vcenter.disk_present import PresentDisk
from lab.vcenter.faults_disk import DiskBusy, DiskClosed, DiskHasSnapshots, DiskLocked, OutOfBounds, SnapshotGone

KIB = 1024


def names(path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def test_a_new_disk_has_a_descriptor_and_a_sparse_extent(disk, tmp_path):
    assert names(tmp_path) == ["web-01-flat.vmdk", "web-01.vmdk"]
    assert disk.file_name == "web-01.vmdk"
    assert not disk.is_delta
    assert (tmp_path / "web-01-flat.vmdk").stat().st_size == disk.capacity_bytes
    assert disk.allocated_bytes < 64 * KIB
    descriptor = (tmp_path / "web-01.vmdk").read_text()
    assert f'RW {disk.capacity_bytes // 512} VMFS "web-01-flat.vmdk"' in descriptor
    assert re.fullmatch(r"6000C29[0-9a-f]-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", disk.uuid)


@pytest.mark.parametrize("move", [False, True])
def test_content_becomes_the_beginning_of_the_disk_and_its_holes_stay_holes(tmp_path, move, read_all):
    image = tmp_path / "image.raw"
    with image.open("wb") as file:
        file.write(b"boot" * 1024)
        file.seek(4 << 20)
        file.write(b"tail" * 1024)
    expected = image.read_bytes()
    disk = VirtualDisk.create(tmp_path, "vm", (5 << 20) + 512, image, move=move)
    assert read_all(disk) == expected.ljust(disk.capacity_bytes, b"\0")
    assert [(run.offset, run.length, run.allocated) for run in disk.extents(0, 4 << 20)] == [
        (0, 4096, True),
        (4096, (4 << 20) - 4096, False),
    ]
    assert image.exists() is not move


def test_content_that_is_larger_than_the_disk_is_refused(tmp_path):
    (tmp_path / "image.raw").write_bytes(bytes(1024))
    with pytest.raises(ValueError, match="does not fit"):
        VirtualDisk.create(tmp_path, "vm", 512, tmp_path / "image.raw")


@pytest.mark.parametrize("capacity", [0, 1, 513])
def test_a_capacity_that_is_not_whole_sectors_is_refused(tmp_path, capacity):
    with pytest.raises(ValueError, match="whole sectors"):
        VirtualDisk.create(tmp_path, "vm", capacity)


@pytest.mark.parametrize(("offset", "length"), [(1, 512), (0, 100), (-512, 512), (8 << 20, 38 * 512)])
def test_an_access_outside_the_disk_or_inside_a_sector_is_refused(disk, offset, length):
    with pytest.raises(OutOfBounds):
        disk.write(offset, bytes(length))
    with pytest.raises(OutOfBounds):
        disk.read_into(offset, memoryview(bytearray(length)))


def test_zeroes_that_a_guest_writes_are_allocated_and_unmapped_ranges_are_holes(disk):
    disk.write(0, b"x" * (192 * KIB))
    disk.zero(0, 64 * KIB)
    disk.zero(64 * KIB, 64 * KIB, allocate=False)
    runs = [(run.length, run.allocated) for run in disk.extents(0, 192 * KIB)]
    assert runs == [(64 * KIB, True), (64 * KIB, False), (64 * KIB, True)]


def test_a_hole_punched_under_a_snapshot_is_data_of_the_redo_log(disk, read_all):
    disk.write(0, b"x" * (64 * KIB))
    disk.freeze("s1")
    disk.zero(0, 64 * KIB, allocate=False)
    assert read_all(disk)[: 64 * KIB] == bytes(64 * KIB)
    second = disk.freeze("s2")
    assert [run.allocated for run in second.extents(0, 64 * KIB)] == [True]
    disk.release("s1")
    disk.consolidate()
    assert read_all(second)[: 64 * KIB] == bytes(64 * KIB)


def test_a_snapshot_puts_the_disk_on_a_redo_log_and_its_removal_leaves_it_until_consolidation(disk, tmp_path):
    disk.freeze("s1")
    assert (disk.file_name, disk.is_delta, disk.needs_consolidation) == ("web-01-000001.vmdk", True, False)
    assert disk.frozen("s1").file_name == "web-01.vmdk"
    assert 'parentFileNameHint="web-01.vmdk"' in (tmp_path / "web-01-000001.vmdk").read_text()
    disk.release("s1")
    assert (disk.file_name, disk.is_delta, disk.needs_consolidation) == ("web-01-000001.vmdk", True, True)
    disk.consolidate()
    assert (disk.file_name, disk.is_delta, disk.needs_consolidation) == ("web-01.vmdk", False, False)
    assert names(tmp_path) == ["web-01-flat.vmdk", "web-01.vmdk"]


def test_removing_a_middle_snapshot_keeps_the_others_and_rewrites_the_chain(disk, tmp_path, read_all):
    states = {}
    for number, name in enumerate(["ours", "foreign", "late"], start=1):
        disk.write(number * 4096, bytes([number]) * 8192)
        states[name] = read_all(disk)
        disk.freeze(name)
    disk.write(0, b"now" * 1024)
    present = read_all(disk)
    disk.release("foreign")
    disk.consolidate()
    assert disk.snapshot_ids == ("ours", "late")
    assert {name: read_all(disk.frozen(name)) for name in ("ours", "late")} == {name: states[name] for name in ("ours", "late")}
    assert read_all(disk) == present
    assert disk.frozen("late").file_name == "web-01-000001.vmdk"
    assert 'parentFileNameHint="web-01-000001.vmdk"' in (tmp_path / disk.file_name).read_text()


def test_a_snapshot_name_cannot_be_used_twice(disk):
    disk.freeze("s1")
    with pytest.raises(ValueError, match="exists"):
        disk.freeze("s1")


def test_a_removed_snapshot_cannot_be_read_any_more(disk):
    frozen = disk.freeze("s1")
    disk.release("s1")
    for read in (
        lambda: frozen.read_into(0, memoryview(bytearray(512))),
        lambda: frozen.extents(0, 512),
        lambda: disk.frozen("s1"),
        lambda: disk.release("s1"),
        lambda: disk.revert("s1"),
    ):
        with pytest.raises(SnapshotGone):
            read()


def test_removal_waits_for_a_read_that_runs(disk):
    frozen = disk.freeze("s1")
    released = threading.Event()
    interrupted = threading.Event()
    frozen.gate.add_interruption(interrupted.set)
    remover = threading.Thread(target=lambda: (disk.release("s1"), released.set()))
    with frozen.gate.reading():
        remover.start()
        assert interrupted.wait(10)
        assert not released.is_set()
        assert disk.snapshot_ids == ("s1",)
    assert released.wait(10)
    remover.join()


def test_guest_io_waits_while_the_vm_is_stunned(disk, read_all):
    frozen = None
    started, done = threading.Event(), threading.Event()

    def guest():
        started.set()
        disk.write(0, b"g" * 512)
        done.set()

    thread = threading.Thread(target=guest)
    with disk.stunned():
        thread.start()
        assert started.wait(10)
        frozen = disk.freeze("s1")
        assert not done.wait(0.05)
    assert done.wait(10)
    thread.join()
    assert read_all(frozen)[:512] == bytes(512)
    assert read_all(disk)[:512] == b"g" * 512


def test_a_snapshot_is_readable_while_the_vm_is_stunned(disk):
    disk.write(0, b"x" * 512)
    frozen = disk.freeze("s1")
    target = bytearray(512)
    with disk.stunned():
        frozen.read_into(0, memoryview(target))
    assert target == b"x" * 512


def test_the_guest_writes_on_during_a_consolidation_and_loses_nothing(disk, rng, read_all):
    disk.write(0, rng.randbytes(disk.capacity_bytes))
    disk.freeze("keep")
    kept = read_all(disk.frozen("keep"))
    disk.freeze("s1")
    disk.write(0, rng.randbytes(6 << 20))
    disk.release("s1")
    model = bytearray(read_all(disk))
    stop = threading.Event()

    def guest():
        while not stop.is_set():
            data = rng.randbytes(512 * rng.randint(1, 64))
            offset = 512 * rng.randint(0, (disk.capacity_bytes - len(data)) // 512)
            disk.write(offset, data)
            model[offset : offset + len(data)] = data

    thread = threading.Thread(target=guest)
    thread.start()
    try:
        beats = []
        disk.consolidate(lambda: beats.append(1), seconds=0.4)
    finally:
        stop.set()
        thread.join()
    assert beats
    assert not disk.needs_consolidation
    assert read_all(disk) == bytes(model)
    assert read_all(disk.frozen("keep")) == kept


def test_a_snapshot_above_is_readable_while_redo_logs_below_it_are_merged(disk, rng, read_all):
    disk.freeze("s1")
    disk.write(0, rng.randbytes(7 << 20))
    upper = disk.freeze("s2")
    expected = read_all(upper)
    disk.release("s1")
    stop, wrong = threading.Event(), []

    def reader():
        while not stop.is_set():
            if read_all(upper) != expected:
                wrong.append(1)

    thread = threading.Thread(target=reader)
    thread.start()
    try:
        disk.consolidate(seconds=0.1)
        assert read_all(upper) == expected
    finally:
        stop.set()
        thread.join()
    assert not wrong


def test_a_consolidation_that_is_broken_off_is_still_needed_and_changes_nothing(disk, rng, read_all):
    disk.freeze("s1")
    disk.write(0, rng.randbytes(2 << 20))
    disk.release("s1")
    before = read_all(disk)

    def cancel():
        raise InterruptedError

    with pytest.raises(InterruptedError):
        disk.consolidate(cancel, seconds=5)
    assert disk.needs_consolidation
    assert read_all(disk) == before
    disk.consolidate()
    assert not disk.needs_consolidation
    assert read_all(disk) == before


def test_a_locked_backing_leaves_consolidation_pending(disk):
    disk.freeze("s1")
    disk.release("s1")
    disk.consolidation_locked = True
    with pytest.raises(DiskLocked):
        disk.consolidate()
    assert disk.needs_consolidation


def test_no_snapshot_operation_happens_during_a_consolidation(disk):
    disk.freeze("s1")
    disk.freeze("s2")
    disk.release("s1")
    refused = []

    def beat():
        for change in (lambda: disk.freeze("s3"), lambda: disk.release("s2"), lambda: disk.revert("s2"), disk.consolidate):
            with pytest.raises(DiskBusy):
                change()
            refused.append(change)

    disk.consolidate(beat, seconds=0.05)
    assert refused
    assert disk.frozen("s2").extents(0, 512)


def test_a_disk_grows_only_without_snapshots_and_redo_logs(disk, tmp_path, read_all):
    disk.write(0, b"x" * 512)
    old = disk.capacity_bytes
    disk.freeze("s1")
    with pytest.raises(DiskHasSnapshots):
        disk.grow(old + 512)
    disk.release("s1")
    with pytest.raises(DiskHasSnapshots):
        disk.grow(old + 512)
    disk.consolidate()
    disk.grow(old + 512)
    assert disk.capacity_bytes == old + 512
    assert read_all(disk) == b"x" * 512 + bytes(old)
    assert f"RW {old // 512 + 1} VMFS" in (tmp_path / "web-01.vmdk").read_text()
    with pytest.raises(ValueError, match="cannot grow"):
        disk.grow(old)


def test_a_frozen_disk_keeps_its_capacity_when_the_disk_grows_later(disk):
    frozen = disk.freeze("s1")
    assert frozen.capacity_bytes == disk.capacity_bytes


def test_a_closed_disk_refuses_its_guest_and_frees_what_waits(disk):
    outcome = []

    def guest():
        try:
            disk.write(0, bytes(512))
        except DiskClosed:
            outcome.append("refused")

    disk.stun()
    thread = threading.Thread(target=guest)
    thread.start()
    disk.close()
    thread.join(10)
    assert outcome == ["refused"]


def test_the_present_disk_is_asked_without_a_snapshot(disk):
    disk.tracking.enable()
    disk.on_power_on()
    last = disk.freeze("s1").change_id
    disk.release("s1")
    disk.consolidate()
    disk.write(64 * KIB, b"x" * 512)
    present = PresentDisk(disk)
    assert disk.tracking.changed_areas(present, last, 0)[2] == [(64 * KIB, 64 * KIB)]
    assert present.change_id == last
    target = bytearray(512)
    present.read_into(64 * KIB, memoryview(target))
    assert target == b"x" * 512
