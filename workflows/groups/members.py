"""Who is a member of a replication group: replications are asked to join, and are taken out again."""

from abc import abstractmethod
from collections.abc import Sequence
from datetime import timedelta

from temporalio import workflow

from deltaferry.model.errors import ErrorKind
from deltaferry.planning.replication_group import MOST_MEMBERS, WARNING, MemberNeed, misfits
from deltaferry.planning.slot_vectors import SlotLimits
from workflows import names
from workflows.groups.point import GroupPoint
from workflows.messages.group import GroupJoin, GroupLeft, GroupMember, MemberAnswer, MemberEnded, MemberReady
from workflows.messages.group_input import GroupMemberInput
from workflows.steps import refusal, tell

_ANSWER_WITHIN = timedelta(minutes=1)


class GroupMembers(GroupPoint):
    """Asks, takes in and takes out; what the group does besides is in the class built on this one."""

    _answers: dict[str, MemberAnswer]
    """By request id: what replications said to being asked to join."""

    async def _join(self, replication: str) -> MemberAnswer:
        """Ask a replication to be a member; return its answer, or why there is none."""
        request_id = str(workflow.uuid4())
        if not await tell(replication, names.GROUP_JOIN, GroupJoin(workflow.info().workflow_id, request_id)):
            return MemberAnswer(replication, request_id, False, f"No replication {replication} runs.")
        try:
            await workflow.wait_condition(
                lambda: request_id in self._answers, timeout=_ANSWER_WITHIN, timeout_summary=f"does {replication} join"
            )
        except TimeoutError:
            return MemberAnswer(replication, request_id, False, f"{replication} does not answer: look at its status.")
        answer = self._answers.pop(request_id)
        self._state.profile = answer.profile or self._state.profile
        return answer

    def _misfits(self, answers: Sequence[MemberAnswer]) -> list[str]:
        """Return why the members' snapshots could never be held together."""
        profile = self._state.profile
        assert profile is not None
        needs = [MemberNeed(one.vm, one.placement.host, one.disks, one.placement.datastores) for one in self._state.members]
        needs += [MemberNeed(one.vm, one.placement.host, one.disks, one.placement.datastores) for one in answers]
        return list(misfits(needs, SlotLimits(snapshots_per_datastore=profile.snapshots_per_datastore)))

    @workflow.signal(name=names.MEMBER_ANSWERED, description="Sent by replications: whether they join.")
    def member_answered(self, answer: MemberAnswer) -> None:
        """Take a replication's answer to being asked to join."""
        self._answers[answer.request_id] = answer

    @workflow.signal(name=names.MEMBER_ENDED, description="Sent by members: what became of their part of a point.")
    def member_ended(self, ended: MemberEnded) -> None:
        """Take what became of a member's part of a point; one that replicates no more is a member no more."""
        self._take_end(ended)
        if ended.left:
            s = self._state
            s.members = tuple(member for member in s.members if member.replication != ended.member)
            s.why_no_member = (*s.why_no_member, f"{ended.sentence}, and has left the group.")[-5:]
            if self._round is not None:
                self._round.ready[ended.member] = MemberReady(ended.member, self._round.key, False, ended.sentence)
                self._round.ended.setdefault(ended.member, ended)

    @workflow.update(
        name="add_member", description='Take a replication into the group. input: {"member": "vm/lon1/5021f0…", "reason": "why"}'
    )
    async def add_member(self, request: GroupMemberInput) -> str:
        """Take a member in; its first point is the next one."""
        answer = await self._join(request.member)
        found = [answer.sentence] if not answer.accepted else self._misfits([answer])
        if found or self._dissolving:
            if answer.accepted:
                await tell(answer.member, names.GROUP_LEFT, GroupLeft(workflow.info().workflow_id))
            raise refusal(ErrorKind.OPERATION_REFUSED, " ".join(found) or "The group is being dissolved.")
        if all(member.replication != answer.member for member in self._state.members):
            self._state.members = (*self._state.members, member_of(answer))
        self._present()
        return f"{answer.vm} is a member of the group. {WARNING}"

    @add_member.validator
    def _add_valid(self, request: GroupMemberInput) -> None:
        self._require_made()
        if any(member.replication == request.member for member in self._state.members):
            raise refusal(ErrorKind.OPERATION_REFUSED, f"{request.member} is a member already.")
        if len(self._state.members) >= MOST_MEMBERS:
            raise refusal(ErrorKind.OPERATION_REFUSED, f"The group has {MOST_MEMBERS} members, which is the most there can be.")
        if not request.member.startswith(names.replication_id(self._site(), "")):
            raise refusal(ErrorKind.BAD_INPUT, f"{request.member} is no replication of the site {self._site()}.")

    @workflow.update(name="remove_member", description='Take a member out. input: {"member": "vm/lon1/5021f0…", "reason": "why"}')
    async def remove_member(self, request: GroupMemberInput) -> str:
        """Take a member out; it goes on replicating on its own."""
        s = self._state
        s.members = tuple(member for member in s.members if member.replication != request.member)
        running = self._round
        if running is not None and request.member in {member.replication for member in running.members}:
            sentence = "it was taken out of the group"
            running.ended.setdefault(request.member, MemberEnded(request.member, running.key, False, sentence))
        await tell(request.member, names.GROUP_LEFT, GroupLeft(workflow.info().workflow_id))
        self._present()
        return f"{request.member} is no member any more; it goes on replicating on its own."

    @remove_member.validator
    def _remove_valid(self, request: GroupMemberInput) -> None:
        self._require_made()
        if all(member.replication != request.member for member in self._state.members):
            known = ", ".join(member.replication for member in self._state.members) or "none"
            raise refusal(ErrorKind.BAD_INPUT, f"{request.member} is no member of the group. Its members are: {known}.")
        if self._round is not None and self._round.spread is None:
            raise refusal(ErrorKind.OPERATION_REFUSED, "A point is being taken: send it again when the snapshots are taken.")

    @abstractmethod
    def _require_made(self) -> None:
        """Refuse what is asked for while the group is being made or dissolved."""

    @abstractmethod
    def _present(self) -> None:
        """Bring the details page up to date."""


def member_of(answer: MemberAnswer) -> GroupMember:
    """Return a replication that has agreed to join as a member."""
    return GroupMember(answer.member, answer.vm, answer.disks, answer.placement, answer.retention)
