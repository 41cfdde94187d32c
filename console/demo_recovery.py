"""`deltaferry demo --scenario dr`: a drill, a failover, and the way back, on real disks that a guest writes to all the time."""

import asyncio
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from temporalio.client import Client, WorkflowUpdateFailedError

from console.demo_lab import VM, Course, DemoFailed, Handle, Outcome, Scenario, health_of, run_in_lab
from console.demo_stages import Proof, Round, Stage, amount
from console.demo_witness import Witness
from deltaferry.model.units import MIB
from deltaferry.planning.dr_states import DrOperation, DrState
from deltaferry.planning.phrases import count_text
from lab.oracle import azure_leftovers
from lab.settings import ISOLATED_NETWORK, LabSettings
from lab.virtual_machines import build_small_vm
from workflows import names
from workflows.messages.point_views import PointView
from workflows.messages.views import StatusView

_POLICY = {"name": "demo", "rpo_threshold": "PT1H", "retention": "PT1H"}
_INTERVAL = timedelta(seconds=2)
_CHUNK_BYTES = 32 * MIB
_POINTS = 2
_WRITES = 60
"""So many writes of the guest are waited for where a step needs some."""
_POLL_S = 0.3
_WRITES_LIMIT_S = 120.0
_FAILED = frozenset(
    state.value for state in (DrState.TEST_FAILED, DrState.CLEAN_UP_FAILED, DrState.FAILOVER_FAILED, DrState.FAILBACK_FAILED)
)


class RecoveryDemo:
    """One run of the scenario."""

    def __init__(self, course: Course, client: Client) -> None:
        self._course, self._client = course, client
        self._world = course.world
        self._witness = Witness(course.world, course.vm)
        self._stages: list[Stage] = []
        self._left: list[str] = []
        self._now = course.out.status("")

    async def run(self) -> Round:
        """Walk the whole round: Azure and back, and to Azure again."""
        older = await self._replicate()
        with self._now:
            await self._drill(older)
            vm_id = await self._fail_over(older)
            await self._come_home(vm_id)
            await self._planned()
        return Round(tuple(self._stages), tuple(self._left), round(time.monotonic() - self._course.began, 1))

    # --- the steps ---

    async def _replicate(self) -> PointView:
        course = self._course
        self._witness.start_guest(seed=1)
        enabled = await course.enable(self._client)
        self._handle: Handle = self._client.get_workflow_handle(enabled.workflow_id)
        self._witness.replication_id = enabled.replication_id
        await course.initial(self._handle)
        await self._ask(DrOperation.UPDATE_POLICY, _POLICY)
        point = await self._new_point(_POINTS)
        await self._stage("replicate", f"the point of {_clock(point.taken_at)}", lambda: self._witness.point(point))
        return point

    async def _drill(self, point: PointView) -> None:
        before = await self._until("the present state", lambda status: True)
        await self._ask(DrOperation.TEST_MIGRATE, {"network": ISOLATED_NETWORK, "point": point.cycle_key})
        await self._state(DrState.CLEAN_UP_PENDING)
        status = await self._until("a delta beside the test", lambda s: s.cycles_committed > before.cycles_committed)
        more = status.cycles_committed - before.cycles_committed
        vm_id = _running(status.tests[0].vm_id)
        said = f"{_leaf(vm_id)} from that point, {count_text(more, 'delta')} meanwhile"
        await self._stage("test failover", said, lambda: self._witness.made(vm_id, point))
        await self._ask(DrOperation.CLEAN_UP)
        await self._state(DrState.READY)
        self._left += await asyncio.to_thread(lambda: list(azure_leftovers(self._world, None)))
        newer = await self._new_point(1)
        said = f"nothing left in Azure; the point of {_clock(newer.taken_at)}"
        await self._stage("clean-up", said, lambda: self._witness.point(newer))

    async def _fail_over(self, older: PointView) -> str:
        newer = await self._new_point(1)
        await self._eventually("the guest's writes", lambda: self._witness.written_after(newer.taken_at) >= _WRITES)
        await self._ask(DrOperation.FAILOVER, {"point": older.cycle_key})
        status = await self._state(DrState.FAILED_OVER)
        first = _running(status.failover.vm_id if status.failover is not None else None)
        await self._eventually("the end of the guest's journal", self._witness.guest_stopped)
        said = f"to the point of {_clock(older.taken_at)}"
        await self._stage("unplanned failover", said, lambda: self._witness.made_instead(first, older))

        await self._ask(DrOperation.CHANGE_POINT, {"point": newer.cycle_key})
        status = await self._state(
            DrState.FAILED_OVER, lambda s: s.failover is not None and s.failover.point_key == newer.cycle_key
        )
        vm_id = _running(status.failover.vm_id if status.failover is not None else None)
        said = f"to the point of {_clock(newer.taken_at)}"
        await self._stage("change recovery point", said, lambda: self._witness.made_instead(vm_id, newer))

        await self._ask(DrOperation.COMMIT)
        await self._until("the commit", lambda s: s.failover is not None and s.failover.committed_at is not None)
        await self._stage("commit", "the other points are deleted", lambda: self._witness.made_instead(vm_id, newer))
        return vm_id

    async def _come_home(self, vm_id: str) -> None:
        witness = self._witness
        await asyncio.to_thread(witness.move_to_azure, vm_id)
        await self._azure_writes()
        await asyncio.to_thread(witness.switch_azure_guest, on=False)
        await self._stage("writes in Azure", f"{_leaf(vm_id)} writes", witness.in_azure)

        await self._ask(DrOperation.REPROTECT)
        ready = DrState.FAILBACK_READY.value
        status = await self._until("reprotect", lambda s: s.migration_state == ready or s.health != ())
        if status.migration_state != ready:
            self._course.out.print(f"  [yellow]{health_of(status)}[/]")
            await self._ask(DrOperation.REPROTECT, {"confirm_losses": True})
            await self._state(DrState.FAILBACK_READY)
        await self._stage("reprotect", "losses confirmed; the disks at the site are as those in Azure", witness.at_home)

        await self._azure_writes()
        await self._ask(DrOperation.FAILBACK)
        await self._state(DrState.FAILED_BACK)
        await self._stage("failback", f"{VM} runs at its site with what it wrote in Azure", witness.at_home)

        await asyncio.to_thread(witness.move_home, seed=3)
        await self._ask(DrOperation.COMMIT_FAILBACK)
        status = await self._until("the resync", lambda s: s.failover is None and len(s.resyncs) > 0)
        point = await self._new_point(1)
        said = f"from checksums, while {VM} writes; the point of {_clock(point.taken_at)}"
        await self._stage("replicate again", said, lambda: witness.point(point))

    async def _planned(self) -> None:
        await self._ask(DrOperation.PLANNED_FAILOVER)
        status = await self._state(DrState.FAILED_OVER)
        vm_id = _running(status.failover.vm_id if status.failover is not None else None)
        await self._eventually("the end of the guest's journal", self._witness.guest_stopped)
        await self._stage("planned failover", f"{_leaf(vm_id)} has all of it", lambda: self._witness.made_instead(vm_id, None))
        await self._ask(DrOperation.COMMIT)
        await self._until("the commit", lambda s: s.failover is not None and s.failover.committed_at is not None)
        await self._handle.execute_update("complete")
        await self._handle.result()
        self._left += await asyncio.to_thread(lambda: list(azure_leftovers(self._world, vm_id)))
        self._left += await self._course.left(self._client)
        self._course.phase("completed, looked for leftovers")

    # --- what the steps are made of ---

    async def _stage(self, name: str, said: str, compare: Callable[[], Proof]) -> None:
        self._now.update(f"[dim]{name}: comparing every byte[/]")
        proof = await asyncio.to_thread(compare)
        lost = f"lost: {amount(proof.lost_bytes)}"
        seconds = self._course.phase(f"{name}: {said}; {lost}")
        stage = Stage(name, proof.byte_identical, proof.lost_bytes, proof.expected_lost_bytes, round(seconds, 1))
        if not stage.passed:
            self._course.out.print(f"[red]✗ {name}: {proof}[/]")
        self._stages.append(stage)

    async def _ask(self, operation: DrOperation, argument: object = None) -> None:
        given = () if argument is None else (argument,)
        try:
            await self._handle.execute_update(operation.value, args=given)
        except WorkflowUpdateFailedError as error:
            raise DemoFailed(f"{operation.value} was refused: {error.cause}") from error

    async def _until(self, what: str, reached: Callable[[StatusView], bool]) -> StatusView:
        self._now.update(f"[dim]waiting for: {what}[/]")
        return await self._course.until(self._handle, what, reached)

    async def _state(self, state: DrState, also: Callable[[StatusView], bool] = lambda _: True) -> StatusView:
        status = await self._until(
            state.value, lambda s: s.migration_state in _FAILED or (s.migration_state == state.value and also(s))
        )
        if status.migration_state in _FAILED:
            raise DemoFailed(f"{status.migration_state}: {_cause(status)}")
        return status

    async def _new_point(self, more: int) -> PointView:
        """Wait for so many points whose snapshots are taken from now on; return the newest once the journal reaches beyond it."""
        now = time.time()

        def fresh(status: StatusView) -> list[PointView]:
            return [] if status.points is None else [p for p in status.points.newest if p.taken_at.timestamp() > now]

        point = fresh(await self._until("a recovery point", lambda s: len(fresh(s)) >= more))[0]
        await self._eventually("the guest's journal", lambda: self._witness.journal_reaches(point.taken_at))
        return point

    async def _azure_writes(self) -> None:
        await asyncio.to_thread(self._witness.switch_azure_guest, on=True)
        goal = self._witness.azure_writes() + _WRITES
        await self._eventually("writes in Azure", lambda: self._witness.azure_writes() >= goal)

    async def _eventually(self, what: str, reached: Callable[[], bool]) -> None:
        self._now.update(f"[dim]waiting for: {what}[/]")
        deadline = time.monotonic() + _WRITES_LIMIT_S
        while not await asyncio.to_thread(reached):
            if time.monotonic() > deadline:
                raise DemoFailed(f"Gave up waiting for {what}; the lab's logs are in {self._world.directory / 'logs'}.")
            await asyncio.sleep(_POLL_S)


def _running(vm_id: str | None) -> str:
    if vm_id is None:
        raise DemoFailed("No VM runs in Azure, although it is said to.")
    return vm_id


def _cause(status: StatusView) -> str:
    errors = [test.error for test in status.tests if test.error is not None]
    return errors[0].message if errors else health_of(status)


def _leaf(resource_id: str) -> str:
    return resource_id.rpartition("/")[2]


def _clock(at: datetime) -> str:
    return f"{at.astimezone():%H:%M:%S}"


async def _recover(course: Course) -> Outcome:
    demo = RecoveryDemo(course, await course.connected())
    result = await demo.run()
    return Outcome(result.passed, result.table(), result.document())


def run_recovery_demo(disks: list[Path], keep: bool, as_json: bool, directory: Path) -> int:
    """Run the scenario in a lab of its own under `directory`; return the exit code: 0 only if it lost what it says and no more."""
    scenario = Scenario(
        starting="Starting the lab: a VM with real disks, Temporal, Azurite, vCenter, Azure Resource Manager …",
        build=lambda images: build_small_vm(images, VM, disks),
        settings=lambda vms: LabSettings(
            vms=vms, search_attributes=names.SEARCH_ATTRIBUTES, min_interval=_INTERVAL, chunk_max_bytes=_CHUNK_BYTES
        ),
        run=_recover,
    )
    return run_in_lab(scenario, keep, as_json, directory)
