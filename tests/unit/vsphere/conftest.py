"""One vCenter process for all of these tests; every test that changes a VM gets one of its own."""

from collections.abc import Iterator

import pytest

from deltaferry.vsphere.client import VSphere
from lab.certificates import make_certificates

from .lab_vcenter import PASSWORD, LabVcenter


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabVcenter]:
    folder = tmp_path_factory.mktemp("vcenter")
    running = LabVcenter(folder / "lab", make_certificates(folder / "certificates"))
    yield running
    running.close()


@pytest.fixture(scope="session")
def vsphere(lab: LabVcenter) -> Iterator[VSphere]:
    with VSphere(lab.endpoint(), lambda: PASSWORD) as client:
        yield client


@pytest.fixture
def vm(lab: LabVcenter) -> str:
    """The instance UUID of a running VM with two disks that no other test has."""
    return lab.unused_vm()
