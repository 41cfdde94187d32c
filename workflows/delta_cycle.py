"""One cycle of a replication, as it runs inside the entity: spec §2.4, §2.5 and §4, in their order.

Everything a cycle finds out stays in its own variables until the last line: the commit is one write of the entity's
state, for all disks together. What fails before it leaves the state as it was, but for the fence, which only rises, and
the note of which areas may have been written.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol, TypeVar

from temporalio import workflow
from temporalio.exceptions import FailureError, is_cancelled_exception

from activities.apply import Apply
from activities.settling import Settling
from activities.snapshots import Snapshots
from activities.transfer import Transfer
from activities.verification import Verification
from deltaferry.model.errors import ErrorKind
from deltaferry.model.quiescing import QuiesceOrder
from deltaferry.model.recovery_points import PointKind, record_of
from deltaferry.model.replication import CycleKind, DiskBase
from deltaferry.planning.quiescing import answered, asked, committed, is_due, order_for
from workflows import names
from workflows.entity.growth import growth_of_cycle
from workflows.messages.group import GroupGo
from workflows.messages.replication_state import CycleRecord, EntityState, FailureView, Replication
from workflows.messages.site import SiteProfile
from workflows.messages.step import (
    AppliedChunk,
    ApplyInput,
    BeginCycleInput,
    BegunCycle,
    ChunkDisk,
    OnReplication,
    SealedCycle,
    SealInput,
    SentChunk,
    SettleInput,
    TransferInput,
)
from workflows.policies import APPLY, RELEASE, SETTLE, SNAPSHOT, TRANSFER, VERIFY
from workflows.slots.holding import SlotHolder
from workflows.steps import failure_of, perform, was_not_taken_up

R = TypeVar("R")

PLACEMENT_TRIES = 3
"""How often a VM may be found to have moved before its cycle goes on with the slots of where it was."""

FENCE_TRIES = 3
"""How often one step may find the seed's number ahead of ours (after a reset or an adopt) before the cycle fails."""


@dataclass(slots=True)
class CycleRun:
    """What a running cycle has found out; nothing of it is the replication's state before the commit."""

    cycle_key: str
    kind: CycleKind
    started_at: datetime
    quiesce: QuiesceOrder | None = None
    """How the guest is asked to hold its writes back; None: it is not."""
    begun: BegunCycle | None = None
    sent: list[SentChunk] = field(default_factory=list)
    applied: list[AppliedChunk] = field(default_factory=list)
    shared_key: str = ""


class FenceHolder(Protocol):
    """Who keeps the replication's number: it rises before a step is scheduled, so that no two share one, also where one fails."""

    fence: int


Note = Callable[[str], None]


def mint_cycle_key(number: int) -> str:
    """Return a new cycle key; one key means one snapshot, ever."""
    return f"{number}-{workflow.uuid4()}"


async def run_cycle(
    replication: Replication,
    state: EntityState,
    slots: SlotHolder,
    kind: CycleKind,
    note: Note,
    was_committed: Callable[[CycleRecord], None],
    was_settled: Callable[[], None],
    unless: Callable[[], bool],
    together: GroupGo | None = None,
) -> tuple[CycleRecord, FailureView | None]:
    """Run one cycle and commit it, or leave everything as it was; return its record, and the failure if there was one.

    Raises PreemptedError, before anything was done, where `unless` comes to hold while slots are waited for.

    `was_committed` is called right after the commit: what follows then (consolidation, deleting the log) is waited for
    here, but a migration need not wait for it. `was_settled` is called when the point and the commit record are written, or
    could not be: from then on nothing is lost by cutting it. `together` is a replication group's word that the snapshot is taken, and
    which of its slots are for this cycle.
    """
    if together is None:
        profile = await _acquire(replication, state, slots, kind, note, unless)
        state.cycles_minted += 1
        run = CycleRun(mint_cycle_key(state.cycles_minted), kind, workflow.now())
    else:
        profile = profile_of(replication, state)
        run = CycleRun(together.cycle_key, kind, workflow.now(), shared_key=together.shared_key)
    failure: FailureView | None = None
    release: asyncio.Task[None] | None = None
    try:
        if together is None:
            run.begun = await _begin_quiesced(replication, state, slots, run, note)
        else:  # its snapshot is taken, and not quiesced
            profile = await _take_over(replication, state, slots, kind, together)
            run.begun = await _begin(replication, state, slots, run, note)
        await _send(replication, state, slots, run, note)
        release = asyncio.create_task(_release(replication, run))
        await _apply(replication, state, run, note)
        sealed = await _seal(replication, state, run, note)
        record = _commit(replication, state, run, sealed)
        was_committed(record)
        failure = await _settle_committed(replication, state)
        was_settled()
    except (FailureError, asyncio.CancelledError) as error:
        if is_cancelled_exception(error):
            await _let_go(replication, slots, profile, run, release)
            raise
        failure = failure_of(error)
        record = _record(run, committed=False, failure=f"{failure.kind.value}: {failure.detail}")
    not_removed: FailureView | None = None
    try:
        not_removed = await _why_not_removed(replication, run, release)
        if failure is not None:
            await _discard_logs(replication)
    except (FailureError, asyncio.CancelledError) as error:
        if is_cancelled_exception(error):
            await _let_go(replication, slots, profile, run, release)
            raise
        failure = failure or failure_of(error)
    failure = failure or not_removed
    short_of_space = failure.short_of_space if failure is not None else ()
    await slots.release(profile, short_of_space, snapshot_left=not_removed is not None)
    return record, failure


async def _acquire(
    replication: Replication,
    state: EntityState,
    slots: SlotHolder,
    kind: CycleKind,
    note: Note,
    unless: Callable[[], bool] = lambda: False,
) -> SiteProfile:
    """Wait for slots where the VM is, as far as is known."""
    profile = profile_of(replication, state)
    note(slots.waits_because(profile, workflow.now()))
    state.profile = await slots.acquire(profile, kind, len(replication.disks), state.placement, unless=unless)
    return state.profile


async def _take_over(
    replication: Replication, state: EntityState, slots: SlotHolder, kind: CycleKind, together: GroupGo
) -> SiteProfile:
    """Take over this cycle's part of a group's slots."""
    profile = profile_of(replication, state)
    disks = len(replication.disks)
    state.profile = await slots.take_over(profile, kind, disks, state.placement, together.slots, together.group)
    return state.profile


async def _let_go(
    replication: Replication, slots: SlotHolder, profile: SiteProfile, run: CycleRun, release: "asyncio.Task[None] | None"
) -> None:
    """After a cancellation: leave no snapshot and no slots behind."""
    left = False
    try:
        await (release if release is not None else _release(replication, run))
    except FailureError as error:
        left = True
        workflow.logger.warning("the snapshot was not removed: %s", failure_of(error).kind.value)
    await slots.release(profile, snapshot_left=left)


async def _why_not_removed(replication: Replication, run: CycleRun, release: "asyncio.Task[None] | None") -> FailureView | None:
    """Wait until the snapshot is removed; return what failed, if it is not. A cancellation is raised."""
    try:
        await (asyncio.shield(release) if release is not None else _release(replication, run))
    except FailureError as error:
        if is_cancelled_exception(error):
            raise
        return failure_of(error)
    return None


async def _release(replication: Replication, run: CycleRun) -> None:
    """Remove the cycle's snapshot. A pass without one has nothing to remove: what kept it from one is not waited for."""
    if run.begun is None or not run.begun.without_snapshot:
        await release_snapshot(replication)


async def _begin_quiesced(
    replication: Replication, state: EntityState, slots: SlotHolder, run: CycleRun, note: Note
) -> BegunCycle:
    """Begin, with the guest quiesced if that is due. It counts as asked before it is: a cycle that fails has asked, too."""
    before, every = state.quiesce, state.policy.app_consistent_every if state.policy is not None else None
    if is_due(run.kind, every, before, run.started_at):
        run.quiesce = order_for(replication.os_type)
        state.quiesce = asked(before, run.started_at)
    begun = await _begin(replication, state, slots, run, note)
    if begun.quiesce is not None:
        state.quiesce = answered(before, state.quiesce, begun.quiesce)
    return begun


async def _begin(replication: Replication, state: EntityState, slots: SlotHolder, run: CycleRun, note: Note) -> BegunCycle:
    """Take the snapshot; where the VM was moved since, wait for the slots of where it is now first."""
    for remaining in reversed(range(PLACEMENT_TRIES)):
        note("taking the snapshot" if run.quiesce is None else "taking the snapshot, the guest quiesced")
        share = profile_of(replication, state).sample_share if run.kind is CycleKind.DELTA else 0.0
        request = BeginCycleInput(
            replication,
            run.cycle_key,
            run.kind,
            state.bases,
            state.dirty,
            sample_share=share,
            cycle_number=state.samples_taken,
            since=state.point.taken_at if state.point else None,
            granted=state.placement if remaining else None,
            expected_growth=growth_of_cycle(replication, state),
            quiesce=run.quiesce,
        )
        begun = await begin_cycle(replication, request)
        state.placement = begun.placement
        if not begun.moved:
            return begun
        await slots.release(profile_of(replication, state))
        await _acquire(replication, state, slots, run.kind, note)
        run.started_at = workflow.now()
    raise AssertionError("the last try goes on wherever the VM is")


async def begin_cycle(replication: Replication, request: BeginCycleInput) -> BegunCycle:
    """Take the snapshot of a cycle and plan it."""
    return await perform(
        Snapshots.begin_cycle,
        request,
        queue=names.vsphere_queue(replication.ref.site),
        limits=SNAPSHOT,
        summary=f"cycle {request.cycle_key.partition('-')[0]}: snapshot and changed areas",
        kind=request.kind,
    )


async def release_snapshot(replication: Replication) -> None:
    """Remove our snapshot and wait until the disks are consolidated."""
    await perform(
        Snapshots.release_snapshot,
        OnReplication(replication),
        queue=names.vsphere_queue(replication.ref.site),
        limits=RELEASE,
        summary="remove snapshot, consolidate",
        aside=True,
    )


async def _send(replication: Replication, state: EntityState, slots: SlotHolder, run: CycleRun, note: Note) -> None:
    """Send everything; at a chunk's end, what is more urgent goes first."""
    assert run.begun is not None
    profile = profile_of(replication, state)
    left = [ChunkDisk(disk.disk_key, disk.plan, 0) for disk in run.begun.disks if disk.plan.segments]
    while left:
        note("sending changed blocks")
        chunks, profile = await send_chunk(replication, run.cycle_key, run.begun.snapshot, left, run.kind, slots, profile)
        run.sent.extend(chunks)
        left = unfinished(left, chunks)
        if left:
            profile = await slots.give_way(profile)


async def send_chunk(
    replication: Replication,
    cycle_key: str,
    snapshot: str,
    disks: Sequence[ChunkDisk],
    kind: CycleKind,
    slots: SlotHolder,
    profile: SiteProfile,
) -> tuple[tuple[SentChunk, ...], SiteProfile]:
    """Send the next chunk of each disk; return what was sent, and the settings to go on with."""
    planned = sum(disk.plan.data_bytes for disk in disks)
    result, profile = await on_appliance(
        slots,
        profile,
        lambda queue: perform(
            Transfer.transfer,
            TransferInput(replication, cycle_key, snapshot, tuple(disks), kind),
            queue=queue,
            limits=TRANSFER,
            summary=f"send up to {planned / 2**20:,.1f} MiB of {len(disks)} disks",
            kind=kind,
        ),
    )
    return result.chunks, profile


async def on_appliance(slots: SlotHolder, profile: SiteProfile, step: Callable[[str], Awaitable[R]]) -> tuple[R, SiteProfile]:
    """Carry out a step on the appliance's queue; where nobody there takes it up, on that of another appliance of the site.

    Raises the step's error, and that nobody took it up where the site has no other appliance.
    """
    while True:
        try:
            return await step(names.transfer_queue(profile.appliance)), profile
        except FailureError as error:
            if not was_not_taken_up(error):
                raise
            elsewhere = await slots.leave_silent(profile)
            if elsewhere.appliance == profile.appliance:
                raise
            profile = elsewhere


def unfinished(disks: Sequence[ChunkDisk], chunks: Sequence[SentChunk]) -> list[ChunkDisk]:
    """Return what is left of the disks after their chunks."""
    reached = {chunk.disk_key: chunk.next_segment for chunk in chunks}
    left = (ChunkDisk(disk.disk_key, disk.plan, reached[disk.disk_key]) for disk in disks)
    return [disk for disk in left if disk.first_segment < disk.plan.segments]


async def _apply(replication: Replication, state: EntityState, run: CycleRun, note: Note) -> None:
    assert run.begun is not None
    note("applying to the seed disks")
    rounds = _rounds(run.sent)
    if rounds:
        state.dirty += tuple((disk.disk_key, disk.plan) for disk in run.begun.disks if disk.plan.segments)
    for chunks in rounds:
        run.applied.extend(await apply_chunks(replication, run.cycle_key, chunks, state, run.kind))


def _rounds(sent: Sequence[SentChunk]) -> list[tuple[SentChunk, ...]]:
    """Return the chunks in the order they were sent, each round with at most one chunk of a disk."""
    rounds: list[list[SentChunk]] = []
    seen: dict[int, int] = {}
    for chunk in sent:
        index = seen.get(chunk.disk_key, 0)
        seen[chunk.disk_key] = index + 1
        if index == len(rounds):
            rounds.append([])
        rounds[index].append(chunk)
    return [tuple(chunks) for chunks in rounds]


async def apply_chunks(
    replication: Replication, cycle_key: str, chunks: tuple[SentChunk, ...], holder: FenceHolder, kind: CycleKind
) -> tuple[AppliedChunk, ...]:
    """Apply a chunk of each disk under a new number; return the accounts.

    Where the seed's number is ahead of ours (this run was reset, or adopted from an older record), ours continues from it.
    """
    for remaining in reversed(range(FENCE_TRIES)):
        holder.fence += 1
        request = ApplyInput(replication, cycle_key, holder.fence, chunks, kind is CycleKind.INITIAL)
        try:
            result = await perform(
                Apply.apply,
                request,
                queue=names.apply_queue(replication.ref.target),
                limits=APPLY,
                summary=f"apply to {len(chunks)} seed disks",
                kind=kind,
            )
        except FailureError as error:
            holder.fence = fence_ahead(error, holder.fence, remaining)
            continue
        return result.chunks
    raise AssertionError("the last try returns or raises")


async def seal(replication: Replication, request: SealInput, holder: FenceHolder) -> SealedCycle:
    """Seal, verify and take the recovery point under a new number."""
    for remaining in reversed(range(FENCE_TRIES)):
        holder.fence += 1
        numbered = SealInput(
            replication,
            request.cycle_key,
            request.taken_at,
            holder.fence,
            request.plans,
            request.chunks,
            request.verified_up_to,
        )
        try:
            return await perform(
                Verification.seal_cycle,
                numbered,
                queue=names.apply_queue(replication.ref.target),
                limits=VERIFY,
                summary="seal, verify, take the recovery point",
            )
        except FailureError as error:
            holder.fence = fence_ahead(error, holder.fence, remaining)
    raise AssertionError("the last try returns or raises")


def fence_ahead(error: FailureError, ours: int, remaining: int) -> int:
    """Return the number found on the seed if it is ahead of ours and a try is left; else raise the error again."""
    failure = failure_of(error)
    if remaining and failure.kind is ErrorKind.FENCED and failure.number is not None and failure.number > ours:
        return failure.number
    raise error


async def _seal(replication: Replication, state: EntityState, run: CycleRun, note: Note) -> SealedCycle:
    assert run.begun is not None
    note("verifying")
    request = SealInput(
        replication,
        run.cycle_key,
        run.begun.taken_at,
        0,
        tuple((disk.disk_key, disk.plan) for disk in run.begun.disks),
        tuple(run.applied),
    )
    return await seal(replication, request, state)


def _commit(replication: Replication, state: EntityState, run: CycleRun, sealed: SealedCycle) -> CycleRecord:
    """Write the entity's state, once, for all disks: only now are the new change ids the base of the next cycle.

    The ids of a pass without a snapshot never become one: the next cycle covers its range again.
    """
    assert run.begun is not None
    record = _record(run, committed=True)
    if not run.begun.without_snapshot:
        capacities = {base.disk_key: base.copied_up_to_bytes for base in state.bases}
        state.bases = tuple(DiskBase(disk.disk_key, disk.change_id, capacities[disk.disk_key]) for disk in run.begun.disks)
    outcome = run.begun.quiesce
    state.point = record_of(
        sealed.point,
        replication.disks,
        workflow.now(),
        kind=record.consistency,
        changed_bytes=dict(record.changed_by_disk),
        note=outcome.note if outcome is not None else "",
        shared_key=run.shared_key,
    )
    state.unshared += (run.shared_key,) if run.shared_key else ()
    if outcome is not None:
        state.quiesce = committed(state.quiesce, outcome.kind)
    state.dirty = ()
    state.cycles_committed += 1
    state.samples_taken += run.kind is CycleKind.DELTA
    state.delta_bytes_sent += record.bytes_sent
    state.verified_blocks += record.verified_blocks
    return record


def _record(run: CycleRun, *, committed: bool, failure: str = "") -> CycleRecord:
    disks = run.begun.disks if run.begun else ()
    outcome = run.begun.quiesce if run.begun else None
    now = workflow.now()
    return CycleRecord(
        cycle_key=run.cycle_key,
        kind=run.kind,
        started_at=run.started_at,
        ended_at=now,
        committed=committed,
        duration=max(now - run.started_at, timedelta(0)),
        changed_bytes=sum(disk.plan.covered_bytes for disk in disks),
        bytes_read=sum(chunk.bytes_read for chunk in run.sent),
        bytes_sent=sum(chunk.bytes_sent for chunk in run.sent),
        segments_sent=sum(chunk.segments_sent for chunk in run.sent),
        segments_found=sum(chunk.segments_found for chunk in run.sent),
        verified_blocks=sum(chunk.verified_blocks for chunk in run.applied),
        changed_by_disk=tuple((disk.disk_key, disk.plan.covered_bytes) for disk in disks),
        failure=failure,
        without_snapshot=run.begun is not None and run.begun.without_snapshot,
        consistency=outcome.kind if outcome is not None else PointKind.CRASH_CONSISTENT,
        quiesced=outcome.sentence if outcome is not None else "",
    )


async def _settle_committed(replication: Replication, state: EntityState) -> FailureView | None:
    """Settle a commit; it is one whether that succeeds or not."""
    try:
        await settle(replication, state)
    except FailureError as error:
        if is_cancelled_exception(error):
            raise
        return failure_of(error)
    return None


async def settle(replication: Replication, state: EntityState) -> None:
    """Write the recovery point and the commit record, and delete what the commit made superfluous.

    Nothing is deleted while areas are noted that may have been written since: the next plan needs their plans.
    """
    settled = await perform(
        Settling.settle_cycle,
        SettleInput(replication, state, record_only=bool(state.dirty), at=workflow.now()),
        queue=names.apply_queue(replication.ref.target),
        limits=SETTLE,
        summary="write the recovery point and the commit record, delete the log and old points",
    )
    state.points = settled.points or state.points


async def _discard_logs(replication: Replication) -> None:
    await perform(
        Settling.discard_logs,
        OnReplication(replication),
        queue=names.apply_queue(replication.ref.target),
        limits=SETTLE,
        summary="delete the failed cycle's log",
    )


def profile_of(replication: Replication, state: EntityState) -> SiteProfile:
    """Return the site's settings as last pushed, or as they were at enabling."""
    return state.profile or replication.profile
