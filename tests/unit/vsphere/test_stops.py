"""Whether a VM lost power or was forcibly shut down, by the events of a vCenter of its own process."""

from datetime import datetime

import pytest

from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.vsphere.client import VSphere

from .lab_vcenter import LabVcenter


def beat() -> None:
    """Nothing to heartbeat to."""


def stops(vsphere: VSphere, vm: str, since: datetime, *ours: datetime) -> tuple[str, ...]:
    return vsphere.unclean_stops(vm, since, ours)


def test_a_vm_that_runs_on_has_not_stopped(vsphere: VSphere, vm: str) -> None:
    assert stops(vsphere, vm, vsphere.clock()) == ()


def test_a_guest_that_shut_down_stopped_cleanly(vsphere: VSphere, lab: LabVcenter, vm: str) -> None:
    since = vsphere.clock()
    vsphere.shut_down_guest(vm)
    lab.wait_for_power(vm, "poweredOff")
    vsphere.power_on(vm, beat)
    assert stops(vsphere, vm, since) == ()


def test_a_shutdown_asked_for_before_the_last_snapshot_still_explains_the_power_off(
    vsphere: VSphere, lab: LabVcenter, vm: str
) -> None:
    with lab.times(shutdown_s=0.3):
        vsphere.shut_down_guest(vm)
        since = vsphere.clock()
        lab.wait_for_power(vm, "poweredOff")
    assert stops(vsphere, vm, since) == ()


def test_a_hard_power_off_is_unclean_and_says_who_did_it(vsphere: VSphere, lab: LabVcenter, vm: str) -> None:
    since = vsphere.clock()
    lab.wait(lab.start_power_off(vm))
    (sentence,) = stops(vsphere, vm, since)
    assert "its guest had not shut down (by administrator@vsphere.local)" in sentence
    vsphere.power_on(vm, beat)
    assert stops(vsphere, vm, since) == (sentence,), "it is not forgotten when the VM runs again"
    assert stops(vsphere, vm, vsphere.clock()) == ()


def test_a_guest_that_was_asked_and_then_powered_off_did_not_shut_down(vsphere: VSphere, lab: LabVcenter, vm: str) -> None:
    since = vsphere.clock()
    lab.order("shutdown_never_finishes", vm)
    vsphere.shut_down_guest(vm)
    lab.wait(lab.start_power_off(vm))
    assert len(stops(vsphere, vm, since)) == 1


def test_a_lost_host_is_unclean_though_nothing_says_that_the_vm_went_off(vsphere: VSphere, lab: LabVcenter, vm: str) -> None:
    since = vsphere.clock()
    lab.fail_over(vm, "esxi-2.lab")
    (sentence,) = stops(vsphere, vm, since)
    assert "its host failed" in sentence


def test_a_reset_keeps_the_vm_and_its_tracking_and_is_no_stop(vsphere: VSphere, lab: LabVcenter, vm: str) -> None:
    since = vsphere.clock()
    lab.wait(lab.start_reset(vm))
    assert stops(vsphere, vm, since) == ()


def test_our_own_power_off_does_not_count_and_the_next_one_does(vsphere: VSphere, lab: LabVcenter, vm: str) -> None:
    since = vsphere.clock()
    ours = vsphere.clock()
    vsphere.power_off(vm, beat)
    assert stops(vsphere, vm, since, ours) == ()
    vsphere.power_on(vm, beat)
    lab.wait(lab.start_power_off(vm))
    assert len(stops(vsphere, vm, since, ours)) == 1
    assert len(stops(vsphere, vm, since)) == 2


def test_another_vms_power_is_none_of_ours(vsphere: VSphere, lab: LabVcenter, vm: str) -> None:
    since = vsphere.clock()
    lab.wait(lab.start_power_off(lab.unused_vm()))
    assert stops(vsphere, vm, since) == ()


def test_events_that_the_user_may_not_read_are_a_missing_privilege(vsphere: VSphere, lab: LabVcenter, vm: str) -> None:
    lab.fault("NoPermission", "QueryEvents")
    with pytest.raises(DeltaferryError) as caught:
        stops(vsphere, vm, vsphere.clock())
    assert caught.value.kind is ErrorKind.VSPHERE_PERMISSION
    assert lab.pending_faults() == 0
