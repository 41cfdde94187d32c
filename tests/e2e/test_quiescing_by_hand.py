"""Quiesced snapshots, step by step on real bytes: what was obtained, what falls back, and what arrives late (spec §8)."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import cast

import pytest
from azure.core.exceptions import ResourceNotFoundError
from temporalio.client import Client
from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.testing import ActivityEnvironment

from activities.recovery_points import RecoveryPointSteps
from deltaferry.model.errors import ErrorKind
from deltaferry.model.naming import gateway_container, quiesce_name, quiesced_snapshot_name, snapshot_name
from deltaferry.model.quiescing import QuiesceAnswer, QuiesceOrder
from deltaferry.model.recovery_points import PointKind
from deltaferry.model.units import MIB, SECTOR
from deltaferry.planning.quiescing import order_for
from lab.settings import TARGET
from lab.vcenter.quiescing import QuiesceOutcome
from tests.e2e.by_hand import ByHand
from tests.e2e.conftest import Lab
from tests.e2e.replicated import Replicated
from workers.settings import load_settings
from workers.wiring import build_target
from workflows.messages.dr import ListPointsInput
from workflows.messages.step import BegunCycle

_NO_TEMPORAL = cast("Client", None)
_DISKS = (3 * MIB + 37 * SECTOR, 2 * MIB)
WINDOWS, LINUX = order_for("Windows"), order_for("Linux")
APP, FILES, CRASH = PointKind.APP_CONSISTENT, PointKind.FILE_SYSTEM_CONSISTENT, PointKind.CRASH_CONSISTENT
Make = Callable[..., ByHand]


@pytest.fixture
def replicated(lab: Lab, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Make]:
    """Make a VM whose initial replication is committed, and whose guest has changed something since."""
    for name, value in lab.world.environment.items():
        monkeypatch.setenv(name, value)
    made: list[ByHand] = []

    def make() -> ByHand:
        vm = Replicated.create(lab.world, _NO_TEMPORAL, request.node.name, _DISKS)
        hand = ByHand(vm, 64 * MIB, lambda: False)
        made.append(hand)
        hand.prepare()
        hand.initial()
        vm.scribble(5)
        return hand

    yield make
    for hand in made:
        hand.world.vcenter_control.set_quiesce(hand.vm.source.moref)
        try:
            hand.clean()
            assert hand.vm.our_snapshots() == []
        finally:
            hand.close()


def carry_on(hand: ByHand, cycle_key: str, begun: BegunCycle) -> None:
    """Carry out the rest of the cycle; its point is what its snapshot froze, and nothing of it is left on the VM."""
    frozen = hand.snapshot_bytes(begun)
    hand.mark_dirty(begun)
    point = hand.carry(cycle_key, begun)
    assert hand.seeds(point) == frozen
    hand.commit(begun, point)
    hand.release()
    assert hand.vm.our_snapshots() == []


def quiet_cycle(hand: ByHand, order: QuiesceOrder = LINUX) -> BegunCycle:
    """Carry out a cycle that has the guest quiesced; its beginning twice, as a repetition does."""
    key = hand.new_cycle_key()
    begun = hand.begin_quiesced(key, order)
    assert hand.begin_quiesced(key, order) == begun
    assert len(hand.vm.our_snapshots()) == 1
    carry_on(hand, key, begun)
    return begun


def decided(hand: ByHand, cycle_key: str) -> bool:
    """Return whether it is on record what became of a cycle's request."""
    store = hand.vm.blobs("gateway")
    with store, store.get_blob_client(gateway_container(hand.replication.ref), quiesce_name(cycle_key)) as blob:
        try:
            blob.get_blob_properties()
        except ResourceNotFoundError:
            return False
    return True


def asked(hand: ByHand) -> list[QuiesceOutcome]:
    """Return what became of each quiesced snapshot that vSphere was asked for."""
    return [record.outcome for record in hand.world.vcenter_control.quiesces(hand.vm.source.moref)]


def test_points_are_of_the_kind_that_was_obtained_and_say_why_it_is_less(replicated: Make) -> None:
    hand = replicated()
    control, moref = hand.world.vcenter_control, hand.vm.source.moref
    control.set_quiesce(moref, freeze_exit=0, marks=True)
    told = quiet_cycle(hand)
    control.set_quiesce(moref, freeze_exit=0)
    silent = quiet_cycle(hand)
    by_vss = quiet_cycle(hand, WINDOWS)
    control.set_quiesce(moref, outcome=QuiesceOutcome.APPLICATION_FAULT)
    failed = quiet_cycle(hand)
    outcomes = [begun.quiesce for begun in (told, silent, by_vss, failed)]
    assert [outcome.kind for outcome in outcomes if outcome is not None] == [APP, FILES, APP, CRASH]
    assert len(asked(hand)) == 4, "a repetition asks no guest again"
    target = build_target(load_settings(hand.world.config_file, hand.world.environment), TARGET)
    listed = ActivityEnvironment().run(
        RecoveryPointSteps({TARGET: target}).list_points, ListPointsInput(hand.replication, told.taken_at)
    )
    assert listed.newest[0].kind is CRASH  # without a policy the latest point only is kept
    assert "ApplicationQuiesceFault" in listed.newest[0].note


@pytest.mark.parametrize("tools", [False, True])
@pytest.mark.chaos
def test_a_guest_without_running_tools_or_that_fails_gives_a_crash_consistent_cycle(replicated: Make, tools: bool) -> None:
    hand = replicated()
    control, moref = hand.world.vcenter_control, hand.vm.source.moref
    control.set_tools(moref, installed=tools)
    control.set_quiesce(moref, outcome=QuiesceOutcome.FILESYSTEM_FAULT)
    begun = quiet_cycle(hand)
    assert begun.quiesce is not None
    assert begun.quiesce.answer is (QuiesceAnswer.FAILED if tools else QuiesceAnswer.NOT_ASKED)
    assert len(asked(hand)) == tools


def test_a_snapshot_fault_that_is_not_the_guests_falls_back_too(replicated: Make) -> None:
    hand = replicated()
    hand.world.vcenter_control.ask_named("vm-config-fault", hand.vm.source.moref)
    begun = quiet_cycle(hand)
    assert begun.quiesce is not None
    assert (begun.quiesce.answer, begun.quiesce.kind) == (QuiesceAnswer.FAILED, CRASH)


@pytest.mark.chaos
def test_a_quiesced_snapshot_that_was_given_up_is_removed_when_it_arrives(replicated: Make) -> None:
    hand = replicated()
    control, moref = hand.world.vcenter_control, hand.vm.source.moref
    control.set_quiesce(moref, held=True)
    key = hand.new_cycle_key()
    with ThreadPoolExecutor() as pool:
        beginning = pool.submit(hand.begin_quiesced, key, replace(LINUX, patience=timedelta(seconds=0.1)))
        while not decided(hand, key):
            assert not beginning.done(), beginning.result()
        assert hand.vm.our_snapshots() == []
        control.set_quiesce(moref)
        begun = beginning.result()
    assert asked(hand) == [QuiesceOutcome.OBTAINED], "it did arrive"
    assert hand.vm.our_snapshots() == [snapshot_name(hand.replication.ref, key)]
    assert begun.quiesce is not None and begun.quiesce.kind is CRASH
    carry_on(hand, key, begun)


def cut_short(hand: ByHand, cycle_key: str, end: Callable[[ActivityEnvironment], None]) -> Future[object]:
    """Begin a cycle whose guest never answers, and end the attempt from outside while it waits."""
    control, moref = hand.world.vcenter_control, hand.vm.source.moref
    control.set_quiesce(moref, held=True)
    environment = ActivityEnvironment()
    with ThreadPoolExecutor() as pool:
        begun: Future[object] = pool.submit(environment.run, hand.snapshots.begin_cycle, hand.quiesce_request(cycle_key, LINUX))
        while not asked(hand):
            assert not begun.done(), begun.result()
        end(environment)
    return begun


def test_an_attempt_that_died_is_taken_up_by_the_next_which_asks_no_guest_again(replicated: Make) -> None:
    hand = replicated()
    control, moref = hand.world.vcenter_control, hand.vm.source.moref
    key = hand.new_cycle_key()
    died = cut_short(hand, key, lambda environment: environment.worker_shutdown()).exception()
    assert isinstance(died, ApplicationError) and died.type == ErrorKind.INTERRUPTED
    control.set_quiesce(moref)
    begun = hand.begin_quiesced(key, WINDOWS)
    assert hand.vm.our_snapshots() == [quiesced_snapshot_name(hand.replication.ref, key)]
    assert (len(asked(hand)), begun.quiesce is not None and begun.quiesce.kind) == (1, APP)
    carry_on(hand, key, begun)


def test_a_cycle_that_is_cancelled_while_the_guest_freezes_leaves_no_snapshot(replicated: Make) -> None:
    hand = replicated()
    control, moref = hand.world.vcenter_control, hand.vm.source.moref
    cut = cut_short(hand, hand.new_cycle_key(), lambda environment: environment.cancel())
    assert isinstance(cut.exception(), CancelledError)
    waits = control.calls()["WaitForUpdatesEx"]
    with ThreadPoolExecutor() as pool:
        releasing = pool.submit(hand.release)
        while control.calls()["WaitForUpdatesEx"] == waits:
            assert not releasing.done(), "it waits for the snapshot that is still being taken"
        control.set_quiesce(moref)
        releasing.result()
    assert asked(hand) == [QuiesceOutcome.OBTAINED]
    assert hand.vm.our_snapshots() == []
    assert not control.vm(hand.vm.name).consolidation_needed
