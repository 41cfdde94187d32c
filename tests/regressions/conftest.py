"""What the regressions run against: a vCenter alone where that is enough, else a lab; workers only where a test asks for them."""

import random
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import cast

import pytest
from temporalio.client import Client

from deltaferry.model.units import MIB
from deltaferry.vsphere.client import VSphere
from lab.certificates import make_certificates
from lab.settings import LabSettings, LabTimes
from lab.world import World
from tests.e2e.by_hand import ByHand
from tests.e2e.replicated import Replicated
from tests.unit.vsphere.lab_vcenter import PASSWORD, LabVcenter
from workflows import names

_TIMES = LabTimes(stun_s=0.0, snapshot_s=0.02, consolidation_s=0.02, shutdown_s=0.5, power_s=0.02, reconfigure_s=0.0)
_NO_TEMPORAL = cast("Client", None)
"""In the place of the client that activities by hand do without."""


@pytest.fixture(scope="session")
def vcenter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabVcenter]:
    """A vCenter in a process of its own, and nothing else."""
    folder = tmp_path_factory.mktemp("vcenter")
    running = LabVcenter(folder / "lab", make_certificates(folder / "certificates"))
    yield running
    running.close()


@pytest.fixture(scope="session")
def vsphere(vcenter: LabVcenter) -> Iterator[VSphere]:
    with VSphere(vcenter.endpoint(), lambda: PASSWORD) as client:
        yield client


@pytest.fixture
def tracked(vcenter: LabVcenter, vsphere: VSphere) -> str:
    """The instance UUID of a running, tracked VM of this test's own, with two disks."""
    vm = vcenter.unused_vm()
    vsphere.set_change_tracking(vm, True, "df/lab/0123456789abcdef/0-marker", lambda: None)
    return vm


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A lab without workers; this process has the secrets that a worker has."""
    settings = LabSettings(
        times=_TIMES,
        search_attributes=names.SEARCH_ATTRIBUTES,
        with_ui=False,
        min_interval=timedelta(seconds=2),
        chunk_max_bytes=8 * MIB,
        threads_per_disk=2,
    )
    with World(tmp_path_factory.mktemp("regressions"), settings) as running, pytest.MonkeyPatch.context() as environment:
        for name, value in running.environment.items():
            environment.setenv(name, value)
        yield running


@pytest.fixture
def by_hand(world: World) -> Iterator[Callable[..., ByHand]]:
    """Begin replications by hand: of new VMs with disks of some sizes, or of given ones. No step is repeated unasked."""
    begun: list[ByHand] = []

    def begin(name: str, *capacities: int, vm: Replicated | None = None, chunk_max_bytes: int = 64 * MIB) -> ByHand:
        source = vm or Replicated.create(world, _NO_TEMPORAL, name, capacities)
        begun.append(ByHand(source, chunk_max_bytes, lambda: False))
        return begun[-1]

    yield begin
    world.blob_control.clear_faults()
    world.vcenter_control.clear_faults()
    for host in world.vcenter_control.state().hosts:
        world.vcenter_control.clear_nbd(host.name)
    for hand in begun:
        hand.close()


@pytest.fixture
def dice() -> random.Random:
    """Contents that repeat from run to run."""
    return random.Random(20261122)
