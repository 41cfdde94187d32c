"""The snapshots of a replication group, on a world that remembers which of them belong to which cycle."""

from datetime import UTC, datetime

from temporalio import activity

from tests.workflows.world import OnWorlds
from workflows.messages.group import TakenMember, TakenTogether, TogetherInput


class GroupStandIns(OnWorlds):
    """A part of `StandIns`."""

    @activity.defn
    async def take_together(self, request: TogetherInput) -> TakenTogether:
        world = self._site(request.members[0].replication.ref.site)
        await world.enter("take_together", "", request)
        taken, now = [], datetime.now(UTC)
        for number, member in enumerate(request.members):
            vm = member.replication.vm_name
            failure = world.no_snapshot_of.pop(vm, None)
            if failure is not None:
                taken.append(TakenMember(member.cycle_key, None, failure, f"{failure.value}: scripted by the test"))
                continue
            world.together[member.cycle_key] = world.take_snapshot(vm)
            taken.append(TakenMember(member.cycle_key, now + number * world.spread))
        return TakenTogether(tuple(taken))
