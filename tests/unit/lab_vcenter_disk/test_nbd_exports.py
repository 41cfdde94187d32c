"""What exports promise to the server."""

import threading

import pytest

from lab.vcenter.faults_disk import DiskClosed, SnapshotGone
from lab.vcenter.nbd_exports import GuestExport, SnapshotExport


def test_a_closed_guest_export_refuses_everything(disk):
    export = GuestExport(disk)
    export.close()
    for use in (
        lambda: export.write(0, memoryview(bytes(512))),
        lambda: export.zero(0, 512, allocate=True),
        lambda: export.read_into(0, memoryview(bytearray(512))),
        lambda: export.reading().__enter__(),
    ):
        with pytest.raises(DiskClosed):
            use()


def test_closing_a_guest_export_waits_for_its_write(disk, read_all):
    export = GuestExport(disk)
    disk.stun()
    writer = threading.Thread(target=export.write, args=(0, memoryview(b"x" * 512)))
    writer.start()
    while not export._lock.locked():
        pass
    closed = threading.Event()
    closer = threading.Thread(target=lambda: (export.close(), closed.set()))
    closer.start()
    assert not closed.is_set()
    disk.unstun()
    assert closed.wait(10)
    writer.join()
    closer.join()
    assert read_all(disk)[:512] == b"x" * 512


def test_a_snapshot_export_opens_only_while_its_snapshot_exists(disk):
    export = SnapshotExport(disk.freeze("s1"))
    cut = []
    export.open(lambda: cut.append(1))
    disk.release("s1")
    assert cut == [1]
    with pytest.raises(SnapshotGone):
        SnapshotExport(export._frozen).open(lambda: None)
    export.close()


def test_a_closed_snapshot_export_is_not_cut_any_more(disk):
    export = SnapshotExport(disk.freeze("s1"))
    cut = []
    export.open(lambda: cut.append(1))
    export.close()
    disk.release("s1")
    assert cut == []
