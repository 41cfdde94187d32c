"""`ReplicationGroup`: VMs that share recovery points, and the workflow that has their snapshots taken together (spec §8).

It decides nothing about a member but when it holds still: a group that is terminated, or fails, leaves every member
replicating on its own.
"""

import asyncio
from datetime import timedelta
from typing import Any

from pydantic import TypeAdapter, ValidationError
from temporalio import workflow
from temporalio.exceptions import ApplicationError, FailureError

with workflow.unsafe.imports_passed_through():
    from deltaferry.model.errors import ErrorKind
    from deltaferry.planning.phrases import duration_text
    from deltaferry.planning.replication_group import GroupRules, contradictions
    from workflows import names
    from workflows.groups.members import GroupMembers, member_of
    from workflows.groups.presenting import group_details, group_view, offered_keys
    from workflows.messages.group import (
        GroupLeft,
        GroupResult,
        GroupState,
        GroupView,
    )
    from workflows.messages.group_input import GroupChange, GroupInput
    from workflows.messages.operator_input import Reason
    from workflows.messages.replication_state import Refusal
    from workflows.messages.site import SiteProfile
    from workflows.messages.slot import SlotsAskedBack, SlotsDelayed, SlotsGranted
    from workflows.refusals import EXAMPLES, UnreadableInputError, read_input
    from workflows.slots.holding import SlotHolder, ensure_arbiter
    from workflows.steps import cancellation_kept, refusal, tell

_STATE = TypeAdapter(GroupState)
_LONGEST_HISTORY = 1500
_NO_REASON = Reason()
_CHANGE = (
    'input: {"interval": "PT2H", "site_interval": false, "wait": "PT15M", "max_spread": "PT10S", "reason": "why"}: what to change'
)


@workflow.defn(name=names.REPLICATION_GROUP)
class ReplicationGroup(GroupMembers):
    """Makes the group, takes a shared point whenever one is due, and takes members in and out; until it is dissolved."""

    @workflow.init
    def __init__(self, request: GroupInput | None = None) -> None:
        self._request = request
        self._slots = SlotHolder("")
        self._activity = "asking the members"
        self._answers = {}
        self._asked = False
        self._made = False
        self._readable = True
        self._replanned = False
        if request is not None:
            self._state = GroupState(request.rules())
            if request.carried is not None:
                self._carry(request)

    def _carry(self, request: GroupInput) -> None:
        try:
            self._state = _STATE.validate_python(request.carried)
            self._made = True
        except ValidationError as error:
            workflow.logger.warning("a carried state cannot be read: %d errors", error.error_count())
            self._readable = False

    @workflow.run
    async def run(self, request: GroupInput | None = None) -> GroupResult:
        """Be the group until it is dissolved. Fails at once, with every reason, where there cannot be such a group."""
        request = self._required(request)
        if not self._made:
            await self._make(request)
        try:
            while not self._dissolving:
                async with cancellation_kept():
                    await self._next(request)
        except (FailureError, asyncio.CancelledError):
            await self._disband()
            raise
        await self._disband()
        await workflow.wait_condition(workflow.all_handlers_finished)
        ids = tuple(member.replication for member in self._state.members)
        return GroupResult(request.name, ids, "The group is dissolved; each VM goes on replicating on its own.")

    async def _disband(self) -> None:
        """Tell the members that there is no group any more."""
        self._say("dissolved")
        for member in self._state.members:
            await tell(member.replication, names.GROUP_LEFT, GroupLeft(workflow.info().workflow_id))

    def _required(self, request: GroupInput | None) -> GroupInput:
        if request is None:
            raise refusal(ErrorKind.BAD_INPUT, f"ReplicationGroup needs an input. Write for example {EXAMPLES['GroupInput']}")
        if workflow.info().continued_run_id is not None:
            if not self._readable:
                raise RuntimeError("the state carried over by the previous run cannot be read by this version of the code")
            return request
        found = list(contradictions(request.name, request.members, request.rules()))
        prefix = names.replication_id(request.site, "")
        found += [f"{one} is no replication of the site {request.site}." for one in request.members if not one.startswith(prefix)]
        if len(request.members) < 2:
            found.append("A group has at least two members.")
        wanted = names.group_id(request.site, request.name)
        if not found and workflow.info().workflow_id != wanted:
            found.append(f"There is one group of a name at a site: start it under the id {wanted}.")
        if request.carried is not None:
            found.append("The field 'carried' is the group's own: leave it out.")
        if found:
            raise refusal(ErrorKind.BAD_INPUT, f"There cannot be such a group. {' '.join(found)}")
        return request

    async def _make(self, request: GroupInput) -> None:
        """Have all members join, or none."""
        answers = await asyncio.gather(*(self._join(one) for one in request.members))
        found = [answer.sentence for answer in answers if not answer.accepted]
        found += self._misfits(answers) if not found else []
        if found:
            for answer in answers:
                if answer.accepted:
                    await tell(answer.member, names.GROUP_LEFT, GroupLeft(workflow.info().workflow_id))
            raise refusal(ErrorKind.OPERATION_REFUSED, f"There cannot be such a group. {' '.join(found)}")
        self._state.members = tuple(member_of(answer) for answer in answers)
        self._state.next_at = workflow.now()
        self._made = True
        assert self._state.profile is not None
        await ensure_arbiter(self._state.profile)

    async def _next(self, request: GroupInput) -> None:
        """Take a point if one is due, or wait until something is."""
        s = self._state
        keys, known = offered_keys(s, workflow.now()), len(s.members)
        s.points = tuple(point for point in s.points if point.key in keys)
        self._replanned = False
        self._say("waiting for the next point")
        due = s.next_at if len(s.members) > 1 else None
        timeout = max(due - workflow.now(), timedelta(milliseconds=1)) if due is not None else None
        try:
            await workflow.wait_condition(
                lambda: (
                    self._dissolving
                    or self._replanned
                    or len(s.members) != known
                    or (self._asked and len(s.members) > 1)
                    or self._should_roll_over()
                ),
                timeout=timeout,
                timeout_summary="the next shared point",
            )
        except TimeoutError:
            self._asked = True
        if self._asked and not self._dissolving and len(s.members) > 1:
            self._asked = False
            await self._take_point()
        elif self._should_roll_over():
            await workflow.wait_condition(workflow.all_handlers_finished)
            if not self._asked and not self._dissolving:
                carried = _STATE.dump_python(s, mode="json")
                workflow.continue_as_new(
                    GroupInput(request.name, request.site, request.members, reason=request.reason, carried=carried)
                )

    # --- what people ask for ---

    @workflow.update(name="take_point", description='Take a shared point now. input: {"reason": "why"} or nothing')
    def take_point(self, options: Reason = _NO_REASON) -> str:
        """Take a point as soon as the members are idle."""
        self._asked = True
        return "A shared point is taken as soon as all members are idle."

    @take_point.validator
    def _take_valid(self, options: Reason = _NO_REASON) -> None:
        self._require_made()
        if len(self._state.members) < 2:
            raise refusal(ErrorKind.OPERATION_REFUSED, "The group has fewer than two members: add another one first.")

    @workflow.signal(name="take_point", description='Take a shared point now. input: {"reason": "why"} or nothing')
    def take_point_signal(self) -> None:
        """Take a point as soon as the members are idle; nothing while there are fewer than two."""
        self._asked = True

    @workflow.update(name="change_group", description=f"Change how often, and how close together, points are taken. {_CHANGE}")
    def change_group(self, change: GroupChange) -> str:
        """Change the group's settings; a point that is being taken keeps to those that it began with."""
        return self._change(change)

    @change_group.validator
    def _change_valid(self, change: GroupChange) -> None:
        self._changed(change)

    @workflow.signal(name="change_group", description=f"Change how often, and how close together, points are taken. {_CHANGE}")
    def change_group_signal(self, change: Any = None) -> None:
        """Change the group's settings; what is refused changes nothing, and is shown."""
        refused = ""
        try:
            self._change(read_input("change_group", GroupChange, change))
        except UnreadableInputError as error:
            refused = str(error)
        except ApplicationError as error:
            refused = error.message
        if refused:
            self._state.last_refused = Refusal("change_group", refused, workflow.now())
            self._present()

    def _change(self, change: GroupChange) -> str:
        s = self._state
        s.rules, s.last_refused = self._changed(change), None
        self._plan_anew()
        self._replanned = True
        self._present()
        due = f"; the next one is due at {s.next_at:%Y-%m-%d %H:%M:%S} UTC" if s.next_at is not None else ""
        return (
            f"A point is taken every {duration_text(self._interval())}, its snapshots within {duration_text(s.rules.max_spread)} "
            f"of each other, and members are waited for {duration_text(s.rules.wait)}{due}."
        )

    def _changed(self, change: GroupChange) -> GroupRules:
        """Return the rules behind a change. Raises the refusal of one that cannot be."""
        self._require_made()
        request = self._request
        assert request is not None
        rules = change.rules(self._state.rules)
        objection = change.objection() or " ".join(contradictions(request.name, (), rules))
        if objection:
            raise refusal(ErrorKind.BAD_INPUT, f"The group is not changed. {objection}")
        return rules

    @workflow.update(name="dissolve", description='End the group; its VMs go on replicating. input: {"reason": "why"} or nothing')
    def dissolve(self, options: Reason = _NO_REASON) -> str:
        """End the group. Points that are shared already stay what they are, as long as each member keeps its own."""
        self._dissolving = True
        return "The group is dissolved; each VM goes on replicating on its own."

    @dissolve.validator
    def _dissolve_valid(self, options: Reason = _NO_REASON) -> None:
        self._require_made()

    @workflow.query(description="Members, the shared points that a failover is offered, and what became of the last ones.")
    def status(self) -> GroupView:
        """Return what the group is and has."""
        if self._request is None:
            raise ValueError("the group has no input")
        request = self._request
        return group_view(request.name, request.site, self._state, self._interval(), self._activity, workflow.now())

    def _require_made(self) -> None:
        if not self._made or self._dissolving:
            raise refusal(ErrorKind.OPERATION_REFUSED, "The group is being made or dissolved: look at its status.")

    # --- slots ---

    @workflow.signal(name=names.SLOTS_GRANTED, description="Sent by the site's arbiter.")
    async def slots_granted(self, grant: SlotsGranted) -> None:
        """Take a grant, or give back one that came too late."""
        await self._slots.granted(grant)

    @workflow.signal(name=names.SLOTS_ASKED_BACK, description="Sent by the site's arbiter.")
    def slots_asked_back(self, asked: SlotsAskedBack) -> None:
        """Let it be: a member is asked again once it has taken its slots over."""

    @workflow.signal(name=names.SLOTS_DELAYED, description="Sent by the site's arbiter: why there are no slots yet.")
    def slots_delayed(self, delayed: SlotsDelayed) -> None:
        """Note why there are no slots yet."""
        self._slots.delayed(delayed)

    @workflow.signal(name=names.ANNOUNCE_SLOTS, description="Sent by an arbiter that starts afresh.")
    async def announce_slots(self) -> None:
        """Say what is held and waited for."""
        if self._state.profile is not None:
            await self._slots.announce(self._state.profile)

    @workflow.signal(name=names.SETTINGS_CHANGED, description="Sent by the site's arbiter: the site's settings of now.")
    def settings_changed(self, profile: SiteProfile) -> None:
        """Take the site's settings over."""
        self._state.profile = profile

    # --- what it shows ---

    def _say(self, activity: str) -> None:
        self._activity = activity
        self._present()

    def _present(self) -> None:
        workflow.set_current_details(group_details(self.status()))

    def _should_roll_over(self) -> bool:
        info = workflow.info()
        long = info.get_current_history_length() > _LONGEST_HISTORY or info.is_continue_as_new_suggested()
        return long or info.is_target_worker_deployment_version_changed()
