"""How a replication group takes one shared point: all members hold still, one request for slots, snapshots at once, cycles.

Up to the snapshots the members wait for each other, within a limit; from there on each is on its own, and only the shared
point waits for the slowest. Whatever keeps a point from being taken, the members are told to go alone.
"""

import asyncio
import functools
from abc import abstractmethod
from collections.abc import Iterable
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import FailureError, is_cancelled_exception

from activities.shared_snapshots import SharedSnapshots
from activities.snapshots import Snapshots
from deltaferry.model.recovery_points import SharedPoint
from deltaferry.planning.replication_group import MemberPoint, next_point, spread, why_not_shared
from workflows import names
from workflows.groups.round import GivenUpError, Round
from workflows.messages.group import (
    GroupAsks,
    GroupGo,
    GroupHold,
    GroupMember,
    GroupRelease,
    GroupState,
    MemberEnded,
    MemberReady,
    PointAttempt,
    SharedPointMade,
    TakenMember,
    TogetherInput,
    TogetherMember,
)
from workflows.messages.slot import SlotsPart
from workflows.messages.step import OnReplication
from workflows.policies import TOGETHER
from workflows.slots.holding import PreemptedError, SlotHolder
from workflows.steps import cancellation_kept, failure_of, perform, tell

_ASK_AGAIN = timedelta(minutes=5)
"""How often a member is asked what became of its part of a point: it may have been terminated."""


class GroupPoint:
    """Takes the points; what the group is and how it is changed is in the class built on this one."""

    _state: GroupState
    _slots: SlotHolder
    _round: Round | None = None
    _dissolving: bool = False

    # --- what members say ---

    @workflow.signal(name=names.MEMBER_READY, description="Sent by members: they hold still, or say why they do not.")
    async def member_ready(self, answer: MemberReady) -> None:
        """Take a member's answer; one that holds still for a point which is over goes alone."""
        running = self._round
        if running is not None and running.key == answer.key:
            running.ready[answer.member] = answer
        elif answer.ready:
            await tell(answer.member, names.GROUP_RELEASE, GroupRelease(workflow.info().workflow_id, answer.key))

    def _take_end(self, ended: MemberEnded) -> None:
        if self._round is not None and self._round.key == ended.key:
            self._round.ended[ended.member] = ended

    # --- one point ---

    async def _take_point(self) -> None:
        """Take a shared point, or find out why there is none; either way the members go on."""
        s = self._state
        s.minted += 1
        now = workflow.now()
        running = Round(f"{s.minted}-{workflow.uuid4()}", now, now + s.rules.wait, s.members, s.rules.max_spread)
        self._round = running
        s.next_at = now + self._interval()
        try:
            why = await self._carry_out(running)
        except GivenUpError as given_up:
            why = str(given_up)
            await self._let_go(running)
        except (FailureError, asyncio.CancelledError) as error:
            if is_cancelled_exception(error):
                running.left.update(running.ready)
            await self._let_go(running)
            raise
        finally:
            self._round = None
        ended = workflow.now()
        s.next_at = next_point(running.began, ended, self._interval())
        sentence = why or f"shared by {len(running.members)} VMs"
        s.attempts = (*s.attempts, PointAttempt(running.key, now, ended, not why, running.spread, sentence))[-20:]

    async def _carry_out(self, running: Round) -> str:
        """Return why the point is not shared by all, in words; empty if it is. Raises GivenUpError before any cycle began."""
        await self._until_ready(running)
        await self._acquire(running)
        taken = await self._snapshots(running)
        await self._go(running, taken)
        await self._hear(running)
        return await self._conclude(running)

    async def _until_ready(self, running: Round) -> None:
        """Have all members hold still; raise GivenUpError as soon as one does not, or when the time is over."""
        self._say("waiting until all members hold still")
        hold = GroupHold(workflow.info().workflow_id, running.key, running.until)
        for member in running.members:
            if not await tell(member.replication, names.GROUP_HOLD, hold):
                raise GivenUpError(f"{member.vm} does not run: adopt it, or take it out of the group")
        timeout = max(running.until - workflow.now(), timedelta(milliseconds=1))
        try:
            async with cancellation_kept():
                await workflow.wait_condition(
                    lambda: running.is_ready() or bool(running.objection()) or self._dissolving,
                    timeout=timeout,
                    timeout_summary="until all members hold still",
                )
        except TimeoutError:
            busy = ", ".join(member.vm for member in running.members if member.replication not in running.ready)
            raise GivenUpError(f"{busy} did not become idle in time") from None
        self._require_still(running)
        self._take_over_answers(running)

    def _require_still(self, running: Round) -> None:
        if self._dissolving:
            raise GivenUpError("the group is being dissolved")
        if running.objection():
            raise GivenUpError(running.objection())

    def _take_over_answers(self, running: Round) -> None:
        """Remember what the members said of themselves."""
        s = self._state
        known = {}
        for member in running.members:
            answer = running.ready[member.replication]
            assert answer.replication is not None
            s.profile = answer.profile or s.profile
            disks = len(answer.replication.disks)
            vm = answer.replication.vm_name
            known[member.replication] = GroupMember(member.replication, vm, disks, answer.placement, answer.retention)
        s.members = tuple(known.get(member.replication, member) for member in s.members)

    async def _acquire(self, running: Round) -> None:
        """Wait for the slots of all members at once, within the same limit."""
        self._say("waiting for the slots of all members")
        assert self._state.profile is not None
        base = str(workflow.uuid4())
        parts = []
        for number, member in enumerate(running.members):
            answer = running.ready[member.replication]
            assert answer.replication is not None
            parts.append(SlotsPart(f"{base}/{number}", member.replication, len(answer.replication.disks), answer.placement))
        limit = asyncio.create_task(workflow.sleep(max(running.until - workflow.now(), timedelta(milliseconds=1))))
        try:
            running.profile = await self._slots.acquire_together(
                self._state.profile, tuple(parts), lambda: limit.done() or self._dissolving or bool(running.objection())
            )
        except PreemptedError:
            self._require_still(running)
            raise GivenUpError("there were no slots for all members in time") from None
        finally:
            limit.cancel()

    async def _snapshots(self, running: Round) -> dict[str, TakenMember]:
        """Take all snapshots at once. Where one could not be taken, the others are removed, and GivenUpError is raised."""
        self._say("taking the snapshots")
        answers = {member.replication: running.ready[member.replication] for member in running.members}
        members = tuple(
            TogetherMember(answer.replication, answer.cycle_key, answer.placement, answer.expected_growth)
            for answer in answers.values()
            if answer.replication is not None
        )
        try:
            result = await perform(
                SharedSnapshots.take_together,
                TogetherInput(running.key, members),
                queue=names.vsphere_queue(self._site()),
                limits=TOGETHER,
                summary=f"snapshots of {len(members)} VMs at once",
            )
        except FailureError as error:
            running.left.update(answers)  # which of them exist is not known: each member's next cycle removes its own
            if is_cancelled_exception(error):
                raise
            raise GivenUpError(f"the snapshots were not taken: {failure_of(error).detail}") from None
        taken = dict(zip(answers, result.members, strict=True))
        running.short_of_space = tuple(sorted({name for made in taken.values() for name in made.short_of_space}))
        failed = [(one, taken[one.replication]) for one in running.members if taken[one.replication].taken_at is None]
        if failed or running.objection() or self._dissolving:
            await self._remove(running, [one for one, made in taken.items() if made.taken_at is not None])
            self._require_still(running)
            causes = [f"{one.vm} got no snapshot: {made.sentence}" for one, made in failed if made.failure is not None]
            raise GivenUpError("; ".join(causes))
        times = [made.taken_at for made in taken.values() if made.taken_at is not None]
        running.spread, running.taken_at = spread(times), min(times)
        return taken

    async def _remove(self, running: Round, replications: Iterable[str]) -> None:
        """Remove the snapshots of members that will not begin their transfer."""

        async def remove(replication: str) -> None:
            answer = running.ready[replication]
            assert answer.replication is not None
            try:
                await perform(
                    Snapshots.release_snapshot,
                    OnReplication(answer.replication),
                    queue=names.vsphere_queue(self._site()),
                    limits=TOGETHER,
                    summary=f"remove the snapshot of {answer.replication.vm_name}",
                    aside=True,
                )
            except FailureError as error:
                running.left.add(replication)
                workflow.logger.warning("a snapshot was not removed: %s", failure_of(error).kind.value)

        await asyncio.gather(*(remove(replication) for replication in replications))

    async def _go(self, running: Round, taken: dict[str, TakenMember]) -> None:
        """Have every member run its cycle from its snapshot. One that does not run any more holds nobody up."""
        s = self._state
        assert running.spread is not None
        shared_key = running.key if running.spread <= running.max_spread else ""
        alone_from = running.began + self._interval() + s.rules.wait
        ids = self._slots.part_ids()
        missing = []
        for replication, made in taken.items():
            go = GroupGo(
                workflow.info().workflow_id, running.key, made.cycle_key, ids.get(replication, ""), shared_key, alone_from
            )
            if not await tell(replication, names.GROUP_GO, go):
                running.ended[replication] = MemberEnded(replication, running.key, False, "it does not run")
                missing.append(replication)
        await self._take_back(running, missing)

    async def _take_back(self, running: Round, replications: Iterable[str]) -> None:
        """Remove the snapshots of members that will run no cycle from them, and give their slots back."""
        taken_back = sorted(replications)
        await self._remove(running, taken_back)
        for replication in taken_back:
            assert running.profile is not None
            await self._slots.release_part(running.profile, replication, snapshot_left=replication in running.left)

    async def _hear(self, running: Round) -> None:
        """Wait until every member has said what became of its part; one that does not run any more did not commit it."""
        expected = [member.replication for member in running.members]
        while not self._dissolving and any(one not in running.ended for one in expected):
            heard = len(running.ended)
            waits = [member.vm for member in running.members if member.replication not in running.ended]
            self._say(f"the snapshots are taken; waiting for the cycles of {', '.join(waits)}")
            try:
                async with cancellation_kept():
                    await workflow.wait_condition(
                        functools.partial(self._heard_more, running, heard),
                        timeout=_ASK_AGAIN,
                        timeout_summary="do the members still run",
                    )
            except TimeoutError:
                for one in expected:
                    asked = GroupAsks(workflow.info().workflow_id, running.key)
                    if one not in running.ended and not await tell(one, names.GROUP_ASKS, asked):
                        running.ended[one] = MemberEnded(one, running.key, False, "it does not run any more")
            await self._take_back(running, [one for one in running.untouched() if one in self._slots.part_ids()])
            for one in running.ended:
                self._slots.part_is_over(one)

    def _heard_more(self, running: Round, heard: int) -> bool:
        return len(running.ended) > heard or self._dissolving

    async def _conclude(self, running: Round) -> str:
        """Record the point and tell the members, if it is shared; return why it is not, in words."""
        s = self._state
        assert running.spread is not None
        assert running.taken_at is not None
        if running.profile is not None:
            await self._slots.release(running.profile)
        points = []
        for member in running.members:
            ended = running.ended.get(member.replication)
            committed, sentence = (ended.committed, ended.sentence) if ended is not None else (False, "it was not waited for")
            points.append(MemberPoint(member.vm, committed, sentence))
        why = why_not_shared(points, running.spread, running.max_spread)
        if not why:
            ids = tuple(member.replication for member in running.members)
            point = SharedPoint(running.key, running.taken_at, running.spread, ids)
            s.points += (point,)
            for one in ids:
                await tell(one, names.SHARED_POINT_MADE, SharedPointMade(workflow.info().workflow_id, point))
        return why

    async def _let_go(self, running: Round) -> None:
        """Give the slots back and have all members go alone."""
        if running.profile is not None:
            for replication in sorted(running.left):
                await self._slots.release_part(running.profile, replication, snapshot_left=True)
            await self._slots.release(running.profile, running.short_of_space)
        for member in running.members:
            await tell(member.replication, names.GROUP_RELEASE, GroupRelease(workflow.info().workflow_id, running.key))

    def _plan_anew(self) -> None:
        """Set when the next point is due by the rules of now, counted from the last one, or from the one that is being taken."""
        s = self._state
        if self._round is not None:
            s.next_at = self._round.began + self._interval()
        elif s.attempts:
            last = s.attempts[-1]
            s.next_at = next_point(last.began_at, last.ended_at, self._interval())

    def _interval(self) -> timedelta:
        """Return how long after a point began the next one is due."""
        s = self._state
        if s.rules.interval is not None:
            return s.rules.interval
        return s.profile.min_interval if s.profile is not None else timedelta(hours=1)

    def _site(self) -> str:
        assert self._state.profile is not None
        return self._state.profile.site

    @abstractmethod
    def _say(self, activity: str) -> None:
        """Show what the group does."""
