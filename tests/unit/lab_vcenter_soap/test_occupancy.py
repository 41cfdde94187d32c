"""What the lab says was in use at a time, by which tests judge limits."""

from deltaferry.blocks.nbd import NbdClient
from tests.unit.lab_vcenter_soap.running import Lab


def test_every_snapshot_counts_the_disks_that_are_not_consolidated(lab: Lab) -> None:
    vm = lab.vm()
    before = len(lab.control.occupancy().snapshots)
    first = lab.snapshot(vm, "one")
    lab.run(first.RemoveSnapshot_Task(removeChildren=False, consolidate=False))
    lab.snapshot(vm, "two")
    vm.ConsolidateVMDisks_Task()
    name = lab.state().name
    assert [seen["ds1"][name] for seen in lab.control.occupancy().snapshots[before:]] == [2, 2]


def test_every_reader_is_counted_with_those_that_are_still_there(lab: Lab) -> None:
    vm = lab.vm()
    host = lab.state().host
    snapshot = lab.snapshot(vm, "read")
    boot, data = (f"snapshot={snapshot._moId};disk={key}" for key in (2000, 2001))
    before = len(lab.control.occupancy().readers)
    with NbdClient(lab.address(vm, boot)), NbdClient(lab.address(vm, boot)), NbdClient(lab.address(vm, data)):
        pass
    with NbdClient(lab.address(vm, data)):
        seen = [readers[host] for readers in lab.control.occupancy().readers[before:]]
    assert seen == [(boot,), (boot,), (boot, data), (data,)]
