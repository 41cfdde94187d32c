"""Taking and removing snapshots, at vCenter alone: B5 and B6."""

from collections.abc import Iterator
from typing import Any

import pytest

from deltaferry.vsphere.client import VSphere
from deltaferry.vsphere.locating import locate
from deltaferry.vsphere.properties import moref, read_object
from deltaferry.vsphere.session import Session
from deltaferry.vsphere.tasks import no_beat, wait_for_task
from deltaferry.vsphere.vocabulary import vim
from tests.unit.vsphere.lab_vcenter import PASSWORD, LabVcenter

OURS = "df/lab/0123456789abcdef/1-00000000-0000-4000-8000-000000000001"


@pytest.fixture
def stranger(vcenter: LabVcenter) -> Iterator[Session]:
    """A session of somebody else's, who sees the whole tree and may snapshot with all options."""
    session = Session(vcenter.endpoint(), lambda: PASSWORD)
    yield session
    session.close()


def tree(session: Session, vm: str) -> list[Any]:
    """Return a VM's snapshots with their depth, the outermost first."""
    found = []

    def walk(level: Any, depth: int) -> None:
        for item in level or ():
            found.append((depth, item))
            walk(item.childSnapshotList, depth + 1)

    information = read_object(session, locate(session, vm), ["snapshot"]).get("snapshot")
    walk(information.rootSnapshotList if information else (), 0)
    return found


def take_quiesced(session: Session, vm: str, name: str) -> str:
    task = locate(session, vm).CreateSnapshotEx_Task(name, "", False, vim.vm.GuestQuiesceSpec())
    return moref(wait_for_task(session, task, no_beat))


@pytest.mark.parametrize("session_lost", [False, True], ids=["first try", "after a new log-in"])
def test_b5_a_snapshot_is_not_quiesced_also_after_a_new_log_in(
    vcenter: LabVcenter, vsphere: VSphere, stranger: Session, session_lost: bool
) -> None:
    """vJailbreak, vmops.go: the path that logs in again passes quiesce=true where the first try passes false."""
    vm = vcenter.unused_vm()
    take_quiesced(stranger, vm, "what a quiesced one looks like")
    if session_lost:
        vcenter.end_sessions()
    vsphere.take_snapshot(vm, OURS, "", no_beat)
    assert [(item.name, bool(item.quiesced)) for _, item in tree(stranger, vm)] == [
        ("what a quiesced one looks like", True),
        (OURS, False),
    ]


@pytest.mark.parametrize("session_lost", [False, True], ids=["first try", "after a new log-in"])
def test_b6_removing_our_snapshot_keeps_all_that_others_took_on_top_of_it(
    vcenter: LabVcenter, vsphere: VSphere, stranger: Session, session_lost: bool
) -> None:
    """vJailbreak, vmops.go: RemoveSnapshot with removeChildren deletes a user's snapshots above its own."""
    vm = vcenter.unused_vm()
    vcenter.wait(vcenter.start_snapshot(vm, "below"))
    ours = vsphere.take_snapshot(vm, OURS, "", no_beat)
    for name in ("above", "above it"):
        vcenter.wait(vcenter.start_snapshot(vm, name))
    before = [(depth, item.name) for depth, item in tree(stranger, vm)]
    assert before == [(0, "below"), (1, OURS), (2, "above"), (3, "above it")]
    if session_lost:
        vcenter.end_sessions()
    vsphere.remove_snapshot(vm, ours.moref, no_beat)
    assert [(depth, item.name) for depth, item in tree(stranger, vm)] == [(0, "below"), (1, "above"), (2, "above it")]
