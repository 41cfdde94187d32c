"""How a replication is a member of a replication group: it holds still when the group asks, and runs its cycle with the others.

Nothing of the group is waited for without end: a member that holds still looks every minute whether the group still runs,
and goes alone when it does not, or when the group says so, or when its time is over.
"""

import asyncio
import dataclasses
from datetime import timedelta

from temporalio import workflow

from deltaferry.model.states import MigrationState
from deltaferry.planning.retention import Choice, PointChoice
from workflows import names
from workflows.delta_cycle import mint_cycle_key
from workflows.entity.growth import growth_of_cycle
from workflows.entity.requests import EntityRequests
from workflows.messages.group import (
    GroupAsks,
    GroupGo,
    GroupHold,
    GroupJoin,
    GroupLeft,
    GroupRelease,
    MemberAnswer,
    MemberEnded,
    MemberReady,
    SharedPointMade,
)
from workflows.messages.replication_state import ReplicateVmInput
from workflows.steps import cancellation_kept, told

_LOOK = timedelta(minutes=1)
"""How often a member that holds still looks whether its group runs."""

_SNAPSHOTS_WITHIN = timedelta(hours=1)
"""How long after the group's own limit a member holds still at most: the snapshots of all members are taken or given up by then."""

_KEPT = 3
"""Of so many points the group may ask what became of them."""

_UNSHARED = 400
"""Points that were taken together and never became shared: more than are kept, at one an hour for 15 days."""

_MIGRATING = (MigrationState.MIGRATION_QUEUED, MigrationState.MIGRATION_IN_PROGRESS)


class EntityGroups(EntityRequests):
    """Answers the group, and serves it between two cycles."""

    def __init__(self, start: ReplicateVmInput | None = None) -> None:
        super().__init__(start)
        self._hold: GroupHold | None = None
        self._go: GroupGo | None = None
        self._shares: tuple[MemberEnded, ...] = ()
        """What became of the last points that were taken together."""
        self._to_record = False
        """A point was said to be shared, and the commit record does not say so yet."""

    # --- membership ---

    @workflow.signal(name=names.GROUP_JOIN, description="Sent by a replication group: it asks the replication to be its member.")
    async def group_join(self, asked: GroupJoin) -> None:
        """Become a member, unless another group that runs has it."""
        s = self._state
        objection = ""
        if s.point is None or self._ending is not None:
            objection = f"{self._replication.vm_name} has no recovery point yet, or is being stopped."
        elif s.group not in ("", asked.group) and await told(s.group, names.MEMBER_READY, self._ready("", False)):
            objection = f"{self._replication.vm_name} is a member of {s.group}: take it out there first."
        if not objection:
            s.group = asked.group
            self._present()
        answer = MemberAnswer(
            member=workflow.info().workflow_id,
            request_id=asked.request_id,
            accepted=not objection,
            sentence=objection,
            vm=self._replication.vm_name,
            disks=len(self._replication.disks),
            placement=s.placement,
            profile=self.profile(),
            retention=s.policy.retention if s.policy is not None else None,
        )
        await told(asked.group, names.MEMBER_ANSWERED, answer)

    @workflow.signal(name=names.GROUP_LEFT, description="Sent by a replication group: the replication is no member any more.")
    def group_left(self, left: GroupLeft) -> None:
        """Be no member any more. A cycle that has begun with the others goes on; the next one is due by the schedule again."""
        if self._state.group == left.group:
            self._state.group = ""
            self._hold = None
            if self._state.cycles and self._state.cycles[-1].committed:  # else the next one is due sooner than that
                self._plan_anew()
            self._settings_came = True  # what sleeps looks at its deadline again
            self._present()

    async def _leave_group(self) -> None:
        """Tell the group that there is nothing to replicate any more."""
        s = self._state
        if s.group:
            ended = MemberEnded(
                workflow.info().workflow_id, "", False, f"{self._replication.vm_name} replicates no more", left=True
            )
            await told(s.group, names.MEMBER_ENDED, ended)
            s.group = ""

    # --- a point ---

    @workflow.signal(name=names.GROUP_HOLD, description="Sent by a replication group: hold still for a shared point.")
    async def group_hold(self, hold: GroupHold) -> None:
        """Note that the group waits, or say at once why it waits in vain."""
        s = self._state
        if s.group == "":
            s.group = hold.group  # it was adopted from a record of before it joined
        why = f"it is a member of {s.group}" if s.group != hold.group else self._why_not_idle()
        if why:
            await told(hold.group, names.MEMBER_READY, self._ready(hold.key, False, why))
        elif self._hold is None or self._hold.key != hold.key:
            self._hold, self._go = hold, None

    @workflow.signal(name=names.GROUP_GO, description="Sent by a replication group: the snapshots of all members are taken.")
    async def group_go(self, go: GroupGo) -> None:
        """Run a cycle from the snapshot, if the group is still waited for."""
        if self._hold is not None and self._hold.key == go.key:
            self._go = go
        elif all(known.key != go.key for known in self._shares):
            ended = dataclasses.replace(self._ended(go.key, False, "it did not wait any longer"), untouched=True)
            await told(go.group, names.MEMBER_ENDED, ended)

    @workflow.signal(name=names.GROUP_RELEASE, description="Sent by a replication group: there will be no shared point.")
    def group_release(self, released: GroupRelease) -> None:
        """Go alone."""
        if self._hold is not None and self._hold.key == released.key and self._go is None:
            self._hold = None

    @workflow.signal(name=names.GROUP_ASKS, description="Sent by a replication group that has not heard what became of a point.")
    async def group_asks(self, asked: GroupAsks) -> None:
        """Say what became of a point; nothing while its cycle runs."""
        if self._hold is not None and self._hold.key == asked.key:
            return
        point = self._state.point
        committed = point is not None and point.shared_key == asked.key
        known = next((one for one in self._shares if one.key == asked.key), None)
        ended = known or self._ended(asked.key, committed, "" if committed else "it knows nothing of it: it was reset or adopted")
        await told(asked.group, names.MEMBER_ENDED, ended)

    @workflow.signal(
        name=names.SHARED_POINT_MADE, description="Sent by a replication group: every member has committed the point."
    )
    def shared_point_made(self, made: SharedPointMade) -> None:
        """Offer the point as a shared one from now on; the commit record is to say so too."""
        s = self._state
        if made.point.key in s.unshared:
            s.unshared = tuple(key for key in s.unshared if key != made.point.key)
            self._to_record = True

    def _unshared(self, choice: PointChoice) -> str:
        """Return why a point that was asked for as a shared one is none; empty if nothing is against it."""
        if choice.choice is not Choice.SHARED or choice.shared_key not in self._state.unshared:
            return ""
        return (
            f"The point {choice.shared_key} is not shared: its group has not said that every member committed it. "
            "`deltaferry group points` lists the shared ones."
        )

    # --- what the procedure does ---

    def _group_waits(self) -> bool:
        """Return whether the group waits, or has said something to record, and nothing that people asked for goes first."""
        return (self._hold is not None or self._to_record) and not self._goes_before_a_delta()

    def _why_not_idle(self) -> str:
        """Return why this replication cannot be idle for its group soon, in words; empty if it can."""
        s = self._state
        closed = self.closed_until()
        if not self._cycles_run() or s.repair is not None or s.point is None:
            return f"it is in {s.replication_state.value}"
        if s.migration_state in _MIGRATING or self._goes_before_a_delta():
            return "something that was asked for goes first"
        return f"a blackout window is open until {closed:%Y-%m-%d %H:%M} UTC" if closed is not None else ""

    async def _serve_group(self) -> None:
        """Do what the group waits for."""
        if self._to_record:
            self._to_record = False
            await self._record()
        elif self._hold is not None:
            await self._hold_still(self._hold)

    async def _hold_still(self, hold: GroupHold) -> None:
        """Hold still until the group goes, lets go, or is gone; then run the cycle from the snapshot that it has taken."""
        s = self._state
        why = self._why_not_idle()
        ready = self._ready(hold.key, not why, why)
        if not why:
            s.cycles_minted += 1
            ready = dataclasses.replace(ready, cycle_key=mint_cycle_key(s.cycles_minted))
            self._say(f"holding still for a shared point of {hold.group}")
        there = await told(hold.group, names.MEMBER_READY, ready)
        if ready.ready and there:
            await self._wait_for_group(hold, ready)
        go, self._go = self._go, None
        if go is not None and go.key == hold.key:
            await self._share(go)
        if self._hold is hold:
            self._hold = None
        self._say_idle()

    async def _wait_for_group(self, hold: GroupHold, ready: MemberReady) -> None:
        """Wait for the group's word. What people ask for meanwhile is told to it, and waits until it lets go."""
        withdrew = False

        def wants_out() -> bool:
            return not withdrew and self._goes_before_a_delta()

        def is_over() -> bool:
            return self._hold is not hold or self._go is not None or self._goes_before_everything()

        while not is_over() and workflow.now() < hold.until + _SNAPSHOTS_WITHIN:
            try:
                await workflow.wait_condition(
                    lambda: is_over() or wants_out(), timeout=_LOOK, timeout_summary=f"does {hold.group} still run"
                )
            except TimeoutError:
                if await told(hold.group, names.MEMBER_READY, ready):
                    continue
                return
            if not is_over():
                withdrew = True
                ready = dataclasses.replace(ready, ready=False, sentence="something that was asked for goes first")
                if not await told(hold.group, names.MEMBER_READY, ready):
                    return
        if self._go is None and self._hold is hold:
            await told(hold.group, names.MEMBER_READY, self._ready(hold.key, False, "it did not wait any longer"))

    async def _share(self, go: GroupGo) -> None:
        """Run the cycle, tell the group what became of it, and leave the next one to the group."""
        s = self._state
        async with cancellation_kept():
            await self._let_run(asyncio.create_task(self._delta(go)))
        record = next((cycle for cycle in s.cycles if cycle.cycle_key == go.cycle_key), None)
        committed = record is not None and record.committed
        if committed and s.next_due is not None and s.next_due < go.alone_from:
            s.next_due, s.next_reason = go.alone_from, f"unless {go.group} asks before"
        failure = record.failure if record is not None else "its cycle was ended"
        ended = self._ended(go.key, committed, "" if committed else failure)
        self._shares = (*self._shares, ended)[-_KEPT:]
        s.unshared = s.unshared[-_UNSHARED:]
        self._hold = None
        await told(go.group, names.MEMBER_ENDED, ended)

    def _ready(self, key: str, ready: bool, sentence: str = "") -> MemberReady:
        s = self._state
        return MemberReady(
            member=workflow.info().workflow_id,
            key=key,
            ready=ready,
            sentence=sentence,
            replication=self._replication if ready else None,
            profile=self.profile() if ready else None,
            placement=s.placement,
            expected_growth=growth_of_cycle(self._replication, s) if ready else (),
            retention=s.policy.retention if s.policy is not None else None,
        )

    def _ended(self, key: str, committed: bool, sentence: str) -> MemberEnded:
        return MemberEnded(workflow.info().workflow_id, key, committed, sentence)
