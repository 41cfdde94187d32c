from collections.abc import Iterator

import pytest
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from lab.vcenter.control import ControlRefusedError
from tests.unit.lab_vcenter_soap.running import Lab, running_lab

_WHEN_NO_TASK_RUNS = Retrying(
    retry=retry_if_exception_type(ControlRefusedError), stop=stop_after_delay(30), wait=wait_fixed(0.05), reraise=True
)
"""A test may end while a task that it began still runs."""


@pytest.fixture(scope="session")
def shared_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with running_lab(tmp_path_factory.mktemp("lab")) as lab:
        yield lab


@pytest.fixture
def lab(shared_lab: Lab) -> Iterator[Lab]:
    """One vCenter for all tests; each leaves no fault, denial, snapshot or tracking behind."""
    yield shared_lab
    control = shared_lab.control
    control.clear_faults()
    control.deny()
    control.limit_pages(2000)
    for vm in control.state().vms:
        control.lock_consolidation(vm.moref, locked=False)
        control.set_tracking(vm.moref)
        for snapshot in reversed(vm.snapshots):
            _WHEN_NO_TASK_RUNS(control.remove_snapshot, vm.moref, snapshot.moref)


@pytest.fixture
def fresh_lab(shared_lab: Lab) -> Lab:
    """The same vCenter with a new VM, for a test that leaves its VM changed."""
    return shared_lab.about_new_vm()
