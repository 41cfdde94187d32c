"""The datastore guard as steps use it, against a vCenter in its own process (spec §2.7)."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import pytest
from temporalio.exceptions import ActivityError, ApplicationError, RetryState
from temporalio.testing import ActivityEnvironment

from activities.adapters import Site
from activities.datastore_guard import require_room, require_room_to_hold, room_watched
from activities.failures import translated
from activities.progress import Heartbeats
from deltaferry.model.errors import ErrorKind
from deltaferry.model.replication import ReplicationRef
from deltaferry.model.shortage import ShortOfSpaceError
from deltaferry.vsphere.client import VSphere
from deltaferry.vsphere.session import Endpoint
from lab.vcenter.faults import FaultName, FaultRequest
from tests.unit.lab_vcenter_soap.running import PASSWORD, USER, Lab, running_lab
from workflows.steps import failure_of

MIB = 1 << 20
CAPACITY = 1 << 30
OFTEN = timedelta(milliseconds=20)


@dataclass(frozen=True)
class Guarded:
    """A site of which nothing but its vCenter is used, and references to two of its VMs."""

    lab: Lab
    site: Site

    def ref(self, name: str) -> ReplicationRef:
        (vm,) = self.site.hypervisor.find_vms(name)
        return ReplicationRef("lab", "lab", "lab", vm.instance_uuid, "0123456789abcdef")

    @property
    def running(self) -> ReplicationRef:
        return self.ref("bare-01")

    @property
    def stopped(self) -> ReplicationRef:
        return self.ref("off-01")

    def fill(self, name: str, free_bytes: int | None) -> None:
        self.lab.control.fill_datastore(name, free_bytes)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    def with_disk(inventory: dict[str, Any]) -> None:
        next(vm for vm in inventory["vms"] if vm["name"] == "bare-01")["disks"] = [{"capacity_bytes": 16 * MIB}]

    with running_lab(tmp_path_factory.mktemp("lab"), with_disk) as lab:
        endpoint = Endpoint("127.0.0.1", USER, lab.port, lab.ca_file, timeout_s=20)
        with VSphere(endpoint, lambda: PASSWORD) as vsphere:
            unused = cast("Any", None)
            yield Guarded(lab, Site(unused, vsphere, unused, unused, unused, timedelta(0), 0))


@pytest.fixture
def guarded(shared: Guarded) -> Iterator[Guarded]:
    yield shared
    shared.lab.control.clear_faults()
    for name in ("ds1", "ds2"):
        shared.fill(name, None)
        shared.lab.control.set_datastore(name, capacity_bytes=CAPACITY, accessible=True)


def in_activity(step: Callable[[Heartbeats], None]) -> None:
    ActivityEnvironment().run(lambda: step(Heartbeats("a step")))


def beat_until_ended(beats: Heartbeats) -> None:
    while True:
        beats.beat()


def test_there_is_room_for_a_snapshot_above_ten_percent_and_none_below(guarded: Guarded) -> None:
    guarded.fill("ds1", CAPACITY // 10 + 4096)
    require_room(guarded.site, guarded.running)
    guarded.fill("ds1", CAPACITY // 10 - 4096)
    with pytest.raises(ShortOfSpaceError) as caught:
        require_room(guarded.site, guarded.running)
    assert caught.value.kind is ErrorKind.DATASTORE_FULL
    assert caught.value.datastores == ("ds1",)
    assert "Datastore ds1 has 102.4 MiB free of 1 GiB; a snapshot needs 102.4 MiB to be free." in caught.value.detail


def test_what_the_snapshot_is_expected_to_grow_by_must_be_free(guarded: Guarded) -> None:
    guarded.fill("ds1", 300 * MIB)
    require_room(guarded.site, guarded.running, [(2000, 300 * MIB)])
    with pytest.raises(ShortOfSpaceError) as caught:
        require_room(guarded.site, guarded.running, [(2000, 301 * MIB)])
    assert "a snapshot needs 301 MiB to be free" in caught.value.detail


def test_an_enlarged_datastore_has_room_at_once(guarded: Guarded) -> None:
    guarded.fill("ds1", MIB)
    with pytest.raises(ShortOfSpaceError):
        require_room(guarded.site, guarded.running)
    guarded.lab.control.set_datastore("ds1", capacity_bytes=2 * CAPACITY)
    require_room(guarded.site, guarded.running)


def test_a_step_under_a_snapshot_ends_at_its_next_beat_once_a_datastore_is_short(guarded: Guarded) -> None:
    beaten = threading.Event()

    def fill_once_it_runs() -> None:
        assert beaten.wait(20)
        guarded.fill("ds1", MIB)

    def step(beats: Heartbeats) -> None:
        with room_watched(guarded.site, guarded.running, beats, every=OFTEN):
            beats.beat()
            beaten.set()
            beat_until_ended(beats)

    filler = threading.Thread(target=fill_once_it_runs)
    filler.start()
    with pytest.raises(ShortOfSpaceError) as caught:
        in_activity(step)
    filler.join()
    assert caught.value.datastores == ("ds1",)
    assert "while a snapshot is held, 102.4 MiB have to stay free" in caught.value.detail


def test_the_first_look_comes_at_once(guarded: Guarded) -> None:
    guarded.fill("ds1", MIB)

    def step(beats: Heartbeats) -> None:
        with room_watched(guarded.site, guarded.running, beats, every=timedelta(days=1)):
            beat_until_ended(beats)

    with pytest.raises(ShortOfSpaceError):
        in_activity(step)


def test_a_step_that_ends_well_ends_the_looking(guarded: Guarded) -> None:
    def step(beats: Heartbeats) -> None:
        with room_watched(guarded.site, guarded.running, beats, every=OFTEN):
            beats.beat()
        guarded.fill("ds1", MIB)
        beats.beat()

    in_activity(step)
    for thread in threading.enumerate():
        if thread.name == "datastore-guard":
            thread.join(20)
            assert not thread.is_alive()


def test_a_look_that_fails_is_put_off_to_the_next_one(guarded: Guarded) -> None:
    failing = FaultRequest(FaultName.METHOD, count=2, fault="HostNotConnected", method="RefreshDatastore")
    guarded.lab.control.ask(failing)
    guarded.fill("ds1", MIB)

    def step(beats: Heartbeats) -> None:
        with room_watched(guarded.site, guarded.running, beats, every=OFTEN):
            beat_until_ended(beats)

    with pytest.raises(ShortOfSpaceError):
        in_activity(step)


def test_the_snapshot_of_a_vm_that_is_off_does_not_grow_and_is_kept(guarded: Guarded) -> None:
    guarded.fill("ds2", MIB)
    require_room_to_hold(guarded.site, guarded.stopped)
    with pytest.raises(ShortOfSpaceError):
        require_room(guarded.site, guarded.stopped)


def test_a_workflow_learns_which_datastores_are_short_in_a_typed_way() -> None:
    @translated
    def step() -> None:
        raise ShortOfSpaceError("Datastores ds1 and ds2 are short.", ("ds1", "ds2"))

    with pytest.raises(ApplicationError) as caught:
        step()
    error = ActivityError(
        "",
        scheduled_event_id=1,
        started_event_id=2,
        identity="",
        activity_type="",
        activity_id="",
        retry_state=RetryState.TIMEOUT,
    )
    error.__cause__ = caught.value
    failure = failure_of(error)
    assert failure.kind is ErrorKind.DATASTORE_FULL
    assert failure.short_of_space == ("ds1", "ds2")
    assert failure.number is None
    assert failure_of(ApplicationError("from an older worker", None, type="DatastoreFull")).short_of_space == ()
