"""How a replication verifies its seed disks between cycles: on request, and on the site's schedule."""

import asyncio
import dataclasses

from temporalio import workflow
from temporalio.exceptions import FailureError, is_cancelled_exception

from activities.resync import ResyncTarget
from deltaferry.model.errors import ErrorKind
from deltaferry.model.states import MigrationState, ReplicationState
from deltaferry.planning.dr_states import NO_CYCLES
from deltaferry.planning.failure import CBT_CANNOT_REPAIR
from deltaferry.planning.phrases import size_text
from workflows import names
from workflows.delta_cycle import profile_of
from workflows.entity.repair import EntityRepair
from workflows.messages.operator_input import RepairOptions, VerifyOptions
from workflows.messages.replication_state import DiskPosition, FailureView, ScrubRecord, ScrubState
from workflows.messages.step import CheckSeedInput, CheckSeedResult
from workflows.policies import VERIFY
from workflows.steps import failure_of, health_error, perform

_R, _M = ReplicationState, MigrationState

_FOUND_SHOWN = 8


class EntityScrub(EntityRepair):
    """Scrubs the seed disks, chunk by chunk; what it finds is for a resync to mend."""

    def _scrub_is_due(self) -> bool:
        s = self._state
        if s.replication_state is not _R.DELTA_SYNC or s.migration_state in (_M.MIGRATION_QUEUED, *NO_CYCLES):
            return False
        if s.scrub is not None:
            return True
        every = profile_of(self._replication, s).scrub_every
        return bool(every) and s.next_scrub is not None and s.next_scrub <= workflow.now()

    def _ask_for_scrub(self, options: VerifyOptions) -> None:
        """Take a request to verify the seeds; with the source too, a resync does it, which mends what it finds."""
        if options.with_source:
            self._ask_for_resync(RepairOptions(reason=options.reason or "verify with the source"))
            return
        self._state.scrub = self._state.scrub or self._new_scrub()

    def _new_scrub(self) -> ScrubState:
        starts = tuple(DiskPosition(disk.key, 0) for disk in self._replication.disks)
        return ScrubState(started_at=workflow.now(), positions=starts, key=f"scrub-{workflow.uuid4()}")

    def _plan_scrub(self) -> None:
        """Set when the next scrub begins; a site that has them more often now is not held to the time set before."""
        s = self._state
        every = profile_of(self._replication, s).scrub_every
        latest = workflow.now() + every
        s.next_scrub = min(s.next_scrub or latest, latest) if every else None

    async def _scrub(self) -> None:
        """Read the next chunk of the seeds and compare it with the checksum maps; between chunks, cycles go on."""
        s = self._state
        scrub = s.scrub = s.scrub or self._new_scrub()
        capacities = {disk.key: disk.capacity_bytes for disk in self._replication.disks}
        left = [position for position in scrub.positions if position.position_bytes < capacities.get(position.disk_key, 0)]
        if left:
            self._say(f"verifying the seed disks, {scrub.percent(capacities)} %")
            try:
                result = await self._scrub_chunk(scrub.key, tuple(left))
            except FailureError as error:
                if is_cancelled_exception(error):
                    raise
                self._end_scrub(scrub, failure_of(error))
                return
            if result is None:
                return
            reached = {seed.disk_key: seed.position_bytes for seed in result.disks}
            s.scrub = dataclasses.replace(
                scrub,
                positions=tuple(
                    DiskPosition(position.disk_key, reached.get(position.disk_key, position.position_bytes))
                    for position in scrub.positions
                ),
                read_bytes=scrub.read_bytes + sum(seed.read_bytes for seed in result.disks),
                differing_bytes=scrub.differing_bytes + sum(seed.differing_bytes for seed in result.disks),
                found=(
                    *scrub.found,
                    *((seed.disk_key, offset) for seed in result.disks for offset in seed.first_differences),
                )[:_FOUND_SHOWN],
            )
            if any(position.position_bytes < capacities.get(position.disk_key, 0) for position in s.scrub.positions):
                return
        self._end_scrub(s.scrub, None)

    async def _scrub_chunk(self, key: str, left: tuple[DiskPosition, ...]) -> CheckSeedResult | None:
        """Verify one chunk; a command that somebody waits for cuts it, and the answer is None."""
        chunk = asyncio.create_task(
            perform(
                ResyncTarget.check_seed,
                CheckSeedInput(self._replication, key, None, left),
                queue=names.apply_queue(self._replication.ref.target),
                limits=VERIFY,
                summary="verify the seed disks against their checksum maps",
                aside=True,
            )
        )
        try:
            await workflow.wait_condition(lambda: chunk.done() or self._ending is not None or not self._scrub_is_due())
        finally:
            cut = not chunk.done()
            chunk.cancel()
            await asyncio.gather(chunk, return_exceptions=True)
        return None if cut else chunk.result()

    def _end_scrub(self, scrub: ScrubState, failure: FailureView | None) -> None:
        s = self._state
        now = workflow.now()
        s.scrub = None
        every = profile_of(self._replication, s).scrub_every
        s.next_scrub = now + every if every else None
        s.last_scrub = ScrubRecord(
            scrub.started_at,
            now,
            scrub.read_bytes,
            scrub.differing_bytes,
            scrub.found,
            f"{failure.kind.value}: {failure.detail}" if failure else "",
        )
        if failure is not None:
            lasting = failure.kind in CBT_CANNOT_REPAIR
            s.health = (health_error(failure, now, retried=bool(every) and not lasting),)
            if lasting:
                self._mark(failure.kind, f"{failure.kind.value}: found while the seed disks were verified")
                s.next_due, s.next_reason = None, "Repair pending: no cycles run"
            self._say("the seed disks could not be verified")
            return
        if scrub.differing_bytes:
            labels = {disk.key: disk.label for disk in self._replication.disks}
            places = ", ".join(f"{labels[key]} at byte {offset}" for key, offset in scrub.found)
            sentence = f"{size_text(scrub.differing_bytes)} of the seed disks are not what was committed: {places}."
            error = FailureView(ErrorKind.SEED_DAMAGED, sentence)
            self._mark(ErrorKind.SEED_DAMAGED, sentence.rstrip("."))
            s.next_due, s.next_reason = None, "Repair pending: no cycles run"
            s.health = (health_error(error, now, retried=False),)
            return
        self._say(f"the seed disks are verified: {size_text(scrub.read_bytes)} read, nothing differs")
