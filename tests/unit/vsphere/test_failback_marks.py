"""The failback mark: who may set it and take it away, and what it keeps our side from doing."""

import pytest

from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.naming import FAILBACK_KEY
from deltaferry.model.vm import Claim, PowerState
from deltaferry.vsphere.client import VSphere
from deltaferry.vsphere.tasks import no_beat

from .lab_vcenter import LabVcenter

OURS = Claim("lab", "0123456789abcdef")
THEIRS = Claim("other", "fedcba9876543210")
LINE = "Deltaferry writes this VM's disks."


def refused(step: object, *arguments: object) -> DeltaferryError:
    with pytest.raises(DeltaferryError) as caught:
        step(*arguments)  # type: ignore[operator]
    return caught.value


def test_a_mark_is_set_once_with_its_line_and_taken_away_with_it(vsphere: VSphere, lab: LabVcenter, vm: str) -> None:
    vsphere.annotate(vm, "the owner's own note")
    vsphere.mark_failback(vm, OURS, LINE)
    marked = lab.change_version(vm)
    vsphere.mark_failback(vm, OURS, LINE)
    assert lab.change_version(vm) == marked
    assert lab.extra_config(vm)[FAILBACK_KEY] == "lab/0123456789abcdef"
    assert vsphere.read_vm(vm).annotation == f"the owner's own note\n{LINE}"
    vsphere.unmark_failback(vm, OURS, LINE)
    vsphere.unmark_failback(vm, OURS, LINE)
    assert not lab.extra_config(vm).get(FAILBACK_KEY)
    assert vsphere.read_vm(vm).annotation == "the owner's own note"


def test_a_line_that_somebody_deleted_comes_back_and_a_mark_alone_too(vsphere: VSphere, lab: LabVcenter, vm: str) -> None:
    vsphere.mark_failback(vm, OURS, LINE)
    lab.set_extra_config(vm, FAILBACK_KEY, "")
    vsphere.mark_failback(vm, OURS, LINE)
    assert lab.extra_config(vm)[FAILBACK_KEY] == "lab/0123456789abcdef"
    assert vsphere.read_vm(vm).annotation == LINE


def test_somebody_elses_mark_is_neither_replaced_nor_taken_away(vsphere: VSphere, lab: LabVcenter, vm: str) -> None:
    vsphere.mark_failback(vm, THEIRS, LINE)
    error = refused(vsphere.mark_failback, vm, OURS, LINE)
    assert error.kind is ErrorKind.ALREADY_PROTECTED
    assert "other/fedcba9876543210" in error.detail
    vsphere.unmark_failback(vm, OURS, LINE)
    assert lab.extra_config(vm)[FAILBACK_KEY] == "other/fedcba9876543210"


def test_a_marked_vm_is_neither_powered_on_nor_snapshotted_nor_given_change_tracking(vsphere: VSphere, vm: str) -> None:
    vsphere.power_off(vm, no_beat)
    vsphere.mark_failback(vm, OURS, LINE)
    for refusal in (
        refused(vsphere.power_on, vm, no_beat),
        refused(vsphere.take_snapshot, vm, "df/lab/0123456789abcdef/1-x", "", no_beat),
        refused(vsphere.set_change_tracking, vm, True, "df/lab/0123456789abcdef/0-tracking", no_beat),
    ):
        assert refusal.kind is ErrorKind.OPERATION_REFUSED
        assert "written from Azure" in refusal.detail
    assert vsphere.power_state(vm) is PowerState.OFF
    vsphere.unmark_failback(vm, OURS, LINE)
    vsphere.set_change_tracking(vm, True, "df/lab/0123456789abcdef/0-tracking", no_beat)
    vsphere.power_on(vm, no_beat)
    assert vsphere.power_state(vm) is PowerState.ON
