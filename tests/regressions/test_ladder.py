"""Velero marks a whole device as changed after an error of change tracking, where a comparison would have been enough."""

import pytest

from deltaferry.model.errors import ErrorKind
from deltaferry.planning.failure import CBT_CANNOT_REPAIR, Course, after_failure
from deltaferry.planning.ladder import Rung, next_step


@pytest.mark.parametrize("fault", sorted(kind for kind in CBT_CANNOT_REPAIR if kind.name.startswith("CBT_")))
def test_complaint_29_a_fault_of_change_tracking_gives_up_one_rung_of_precision_at_a_time(fault: ErrorKind) -> None:
    assert after_failure(fault, 0).course is Course.REPAIR
    rungs = [next_step(None, fault.value).rung]
    while len(rungs) < len(Rung):
        rungs.append(next_step(rungs[-1], fault.value).rung)
    assert rungs == [Rung.ALLOCATED, Rung.WHOLE, Rung.FULL]
