"""`SiteSlots`: one arbiter per site, which every cycle acquires from and releases to, and which holds the site's settings."""

import asyncio
import dataclasses
from datetime import datetime, timedelta
from typing import Any

from temporalio import workflow
from temporalio.exceptions import FailureError

with workflow.unsafe.imports_passed_through():
    from activities.blackouts import Blackouts
    from activities.site_workflows import SiteWorkflows
    from activities.snapshots import Snapshots
    from deltaferry.model.errors import ErrorKind
    from workflows import meters, names
    from workflows.messages.operator_input import ForceRelease, ReassignInput, SettingsChange
    from workflows.messages.site import (
        AppliancesInput,
        BlackoutsInput,
        ClosedWindow,
        SiteInput,
        SiteProfile,
        SnapshotsLeftInput,
    )
    from workflows.messages.slot import (
        ApplianceSilent,
        ReplicationLeft,
        SlotsAnnounced,
        SlotsReleased,
        SlotsState,
        SlotsWanted,
    )
    from workflows.policies import ASK, SETTLE
    from workflows.slots.book import SlotBook
    from workflows.slots.presenting import site_details
    from workflows.slots.settings import changed_profile
    from workflows.steps import failure_of, perform, refusal, require_carried, told

_ASK_HOLDERS_EVERY = timedelta(minutes=1)
"""While others wait: twice the heartbeat limit of the steps, after which nothing of a dead holder's runs any more."""

_LOOK_AGAIN = timedelta(minutes=5)
"""How often it is asked whether a silent appliance answers again, and whether a dead holder's snapshot is gone."""

_ANNOUNCE_WITHIN = timedelta(minutes=1)
"""How long an arbiter that starts afresh waits for the holders' announcements: what has not answered by then holds nothing."""

_KNOWN_AHEAD = timedelta(days=13)
"""How far ahead the occurrences of blackout windows are known at least, where control workers run."""

_OVERTAKEN = "announcements that were overtaken say nothing"
"""Names the patch of a run's history: histories of before it hold what they led to."""

_LONGEST_HISTORY = 2000
"""Events after which a run continues as new: a burst of 500 requests and grants on top of it stays below 4,096."""


@workflow.defn(name=names.SITE_SLOTS)
class SiteSlots:
    """Grants whole vectors of slots by priority and age, and tells who gives way; the decisions are `deltaferry.planning`'s."""

    @workflow.init
    def __init__(self, state: SlotsState | None = None) -> None:
        if state is None:
            return  # run() says what that means
        self._book = SlotBook(state)
        self._changed = True
        self._announced: set[str] = set()
        self._told: dict[str, str] = {}
        self._to_tell: set[str] = set()
        self._windows_changed = False
        self._look_again_at: datetime | None = None

    @workflow.run
    async def run(self, state: SlotsState | None = None) -> None:
        """Grant what fits whenever something changed; for ever."""
        require_carried(state)
        if not self._book.state.learned:
            await self._learn()
        while True:
            await self._wait()
            await self._look_after_windows()
            await self._tell_settings()
            self._changed = False
            await self._decide()
            self._present()
            if self._should_roll_over():
                await workflow.wait_condition(workflow.all_handlers_finished)
                if self._changed and (self._to_tell or self._windows_changed):
                    continue  # settings came meanwhile: the next run would tell them to nobody
                if self._windows_changed:  # they could not be listed: the next run has to
                    state = self._book.state
                    state.profile = dataclasses.replace(state.profile, closed_known_until=None)
                workflow.continue_as_new(self._book.state)

    # --- what holders send ---

    @workflow.signal(name=names.SLOTS_REQUESTED, description="Sent by replications: they ask for slots.")
    def slots_requested(self, wanted: SlotsWanted) -> None:
        """Queue a request, once, or a transfer that gave way at its chunk's end."""
        self._changed |= self._book.want(wanted, workflow.now())

    @workflow.signal(name=names.SLOTS_RELEASED, description="Sent by replications: they give slots back.")
    def slots_released(self, released: SlotsReleased) -> None:
        """Free a lease, or forget a request."""
        self._book.release(released)
        self._changed = True

    @workflow.signal(name=names.SLOTS_ANNOUNCED, description="Sent by replications: what they hold and wait for.")
    def slots_announced(self, announced: SlotsAnnounced) -> None:
        """Take over what a holder has, but for what it gave back since: its signals overtake one another."""
        self._announced.add(announced.holder)
        left = self._book.without_what_is_over(announced)
        self._book.announce(left if left != announced and workflow.patched(_OVERTAKEN) else announced, workflow.now())
        self._changed = True

    @workflow.signal(name=names.APPLIANCE_SILENT, description="Sent by replications: nobody took up a transfer.")
    def appliance_silent(self, silent: ApplianceSilent) -> None:
        """Take its replications away from an appliance that does not answer."""
        self._to_tell.update(self._book.silence(silent.appliance))
        self._changed = True

    @workflow.signal(name=names.REPLICATION_LEFT, description="Sent by replications that have ended.")
    def replication_left(self, left: ReplicationLeft) -> None:
        """Forget a replication."""
        self._book.leave(left.replication)
        self._changed = True

    # --- what operators send ---

    @workflow.update(
        name="change_settings",
        description='Change the site\'s settings; they hold at once. input: {"disks_per_host": 4, "blackout": "Monday;7:00;7h"}',
    )
    def change_settings(self, change: SettingsChange) -> str:
        """Change settings."""
        self._to_tell.update(self._book.change(self._changed_profile(change)), self._book.state.assigned)
        self._windows_changed = self._changed = True
        return f"The settings hold from now on, as revision {self._book.state.profile.revision}."

    @change_settings.validator
    def _change_settings_valid(self, change: SettingsChange) -> None:
        self._changed_profile(change)

    def _changed_profile(self, change: SettingsChange) -> SiteProfile:
        try:
            return changed_profile(self._book.state.profile, change)
        except ValueError as error:
            raise refusal(ErrorKind.BAD_INPUT, str(error)) from None

    @workflow.update(
        name="reassign",
        description='Move a replication to another appliance. input: {"vm": "<instance uuid>", "appliance": "edge-2"}',
    )
    def reassign(self, request: ReassignInput) -> str:
        """Move a replication."""
        replication = self._replication_of(request)
        self._book.reassign(replication, request.appliance)
        self._to_tell.add(replication)
        self._changed = True
        return f"The replication goes through {request.appliance} from its next chunk on."

    @reassign.validator
    def _reassign_valid(self, request: ReassignInput) -> None:
        self._replication_of(request)
        profile = self._book.state.profile
        known = [profile.appliance, *(one.name for one in profile.appliances)]
        if request.appliance not in known:
            raise refusal(ErrorKind.BAD_INPUT, f"The site has no such appliance. Its appliances are: {', '.join(known)}.")

    def _replication_of(self, request: ReassignInput) -> str:
        assigned = self._book.state.assigned
        for candidate in (request.vm, names.replication_id(self._book.state.profile.site, request.vm)):
            if candidate in assigned:
                return candidate
        raise refusal(
            ErrorKind.BAD_INPUT,
            "No replication of this site with slots so far is of that VM: write its instance UUID, or its replication's workflow id.",
        )

    @workflow.update(
        name="force_release",
        description='Take a holder\'s slots away. input: {"holder": "<workflow id>", "reason": "why"}',
    )
    def force_release(self, request: ForceRelease) -> str:
        """Free a lease that nothing else frees."""
        self._book.forget(request.holder)
        self._changed = True
        return "Its slots are free."

    @force_release.validator
    def _force_release_valid(self, request: ForceRelease) -> None:
        holders = self._book.holders()
        if request.holder not in holders:
            raise refusal(
                ErrorKind.BAD_INPUT,
                f"That workflow neither holds slots nor waits for them. Those that do: {', '.join(holders[:20]) or 'none'}.",
            )

    @workflow.query(description="Leases that are held and requests that wait.")
    def status(self) -> SlotsState:
        """Return the arbiter's state."""
        return self._book.state

    @workflow.query(description="The site's settings of now.")
    def settings(self) -> SiteProfile:
        """Return the settings."""
        return self._book.state.profile

    # --- what it does ---

    async def _learn(self) -> None:
        """Ask everything that runs at this site what it holds: an arbiter that starts afresh must not grant it once more."""
        found = await perform(
            SiteWorkflows.list_holders,
            SiteInput(self._book.state.profile.site),
            queue=names.CONTROL_QUEUE,
            limits=SETTLE,
            summary="which replications run",
        )
        asked = [holder for holder in found.holders if await told(holder, names.ANNOUNCE_SLOTS)]
        try:
            await workflow.wait_condition(
                lambda: self._announced.issuperset(asked),
                timeout=_ANNOUNCE_WITHIN,
                timeout_summary="waiting for what the replications hold",
            )
        except TimeoutError:
            workflow.logger.warning("%d of %d replications said nothing", len(set(asked) - self._announced), len(asked))
        self._book.state.learned = True

    async def _wait(self) -> None:
        """Wait until something changed, or until the next time that something has to be looked after."""
        due, what = self._next_look()
        timeout = max(due - workflow.now(), timedelta(milliseconds=1)) if due is not None else None
        try:
            await workflow.wait_condition(lambda: self._changed or self._is_upgraded(), timeout=timeout, timeout_summary=what)
        except TimeoutError:
            await self._look_after_holders()

    def _next_look(self) -> tuple[datetime | None, str]:
        state, now = self._book.state, workflow.now()
        looks: list[tuple[datetime, str]] = []
        if state.waiting and any(not held.holder_gone for held in state.leases):
            looks.append((now + _ASK_HOLDERS_EVERY, "ask the holders of leases whether they still run"))
        if state.silent or any(held.holder_gone for held in state.leases):
            self._look_again_at = self._look_again_at or now + _LOOK_AGAIN
            looks.append((self._look_again_at, "look after silent appliances and snapshots left behind"))
        opening = self._book.next_opening(now)
        if opening is not None:
            looks.append((opening, "the end of the blackout window"))
        if self._windows_changed:  # they could not be listed
            looks.append((now + _LOOK_AGAIN, "list the blackout windows"))
        elif state.profile.closed_known_until is not None:
            looks.append((state.profile.closed_known_until - _KNOWN_AHEAD, "list the blackout windows anew"))
        return min(looks, default=(None, ""))

    async def _look_after_holders(self) -> None:
        """Send every grant again, so that holders that run no more are found; see after what is silent or dead already."""
        await asyncio.gather(*(self._send_grant(wanted, grant) for wanted, grant in self._book.grants_again()))
        if self._look_again_at is not None and workflow.now() >= self._look_again_at:
            self._look_again_at = None
            await self._look_after_silent()
            await self._look_after_dead()

    async def _look_after_silent(self) -> None:
        if not self._book.state.silent:
            return
        try:
            live = await perform(
                SiteWorkflows.live_appliances,
                AppliancesInput(self._book.state.silent),
                queue=names.CONTROL_QUEUE,
                limits=ASK,
                summary="do silent appliances answer again",
            )
        except FailureError as error:
            workflow.logger.warning("it is not known which appliances answer: %s", failure_of(error).kind.value)
            return
        self._book.heard(live.appliances)

    async def _look_after_dead(self) -> None:
        """Free the snapshot slots that were left behind by holders whose VM has no snapshot of ours any more."""
        profile = self._book.state.profile
        for held in self._book.left_behind():
            owner = held.wanted.replication or held.wanted.holder  # the holder may be a group of several VMs
            instance_uuid = owner.removeprefix(names.replication_id(profile.site, "")).partition("/")[0]
            try:
                left = await perform(
                    Snapshots.snapshots_left,
                    SnapshotsLeftInput(profile, instance_uuid),
                    queue=names.vsphere_queue(profile.site),
                    limits=ASK,
                    summary="is a snapshot that was left behind gone",
                )
            except FailureError as error:
                workflow.logger.warning("a snapshot that was left behind was not looked for: %s", failure_of(error).kind.value)
                continue
            if left.count == 0:
                self._book.snapshot_gone(held.lease_id)

    async def _look_after_windows(self) -> None:
        """List the occurrences of blackout windows where they changed, or as far as they are known runs out."""
        profile = self._book.state.profile
        has_windows = bool(profile.blackout) or any(one.blackout for one in profile.appliances)
        known_until = profile.closed_known_until
        self._windows_changed |= has_windows and (known_until is None or known_until - workflow.now() <= _KNOWN_AHEAD)
        if not self._windows_changed:
            return
        if not has_windows:
            self._take_windows(profile.revision, (), None)
            return
        try:
            answer = await perform(
                Blackouts.list_blackouts,
                BlackoutsInput(profile, workflow.now()),
                queue=names.CONTROL_QUEUE,
                limits=ASK,
                summary="when the blackout windows are",
            )
        except FailureError as error:
            workflow.logger.warning("the blackout windows were not listed: %s", failure_of(error).kind.value)
            return
        self._take_windows(profile.revision, answer.closed, answer.known_until)

    def _take_windows(self, revision: int, closed: tuple[ClosedWindow, ...], known_until: datetime | None) -> None:
        """Take the occurrences of windows over, unless the settings have changed since they were asked for."""
        state = self._book.state
        if state.profile.revision == revision:
            self._windows_changed = False
            state.profile = dataclasses.replace(state.profile, closed=closed, closed_known_until=known_until)
            self._to_tell.update(state.assigned)

    async def _tell_settings(self) -> None:
        """Send the settings to the replications that do not know them yet."""
        to_tell, self._to_tell = sorted(self._to_tell), set()
        await asyncio.gather(*(told(one, names.SETTINGS_CHANGED, self._book.settings_for(one)) for one in to_tell))

    async def _decide(self) -> None:
        """Assign, grant, and ask for slots back; until nothing more follows from it."""
        delayed = self._book.assign_waiting()
        await asyncio.gather(*(self._delay(wanted, message.sentence, message) for wanted, message in delayed))
        grants = self._book.grant(workflow.now(), workflow.info().run_id)
        await asyncio.gather(*(self._send_grant(wanted, message) for wanted, message in grants))
        asked = self._book.ask_back(workflow.now())
        await asyncio.gather(*(told(wanted.holder, names.SLOTS_ASKED_BACK, message) for wanted, message in asked))

    async def _delay(self, wanted: SlotsWanted, sentence: str, message: Any) -> None:
        """Tell a holder, once, why it cannot be taken up yet."""
        if self._told.get(wanted.request_id) != sentence:
            self._told[wanted.request_id] = sentence
            await told(wanted.holder, names.SLOTS_DELAYED, message)

    async def _send_grant(self, wanted: SlotsWanted, message: Any) -> None:
        """Send a grant; a holder that no longer runs has no use for it."""
        if not await told(wanted.holder, names.SLOTS_GRANTED, message):
            self._book.holder_gone(wanted.holder)
            self._changed = True

    def _should_roll_over(self) -> bool:
        info = workflow.info()
        too_long = info.get_current_history_length() > _LONGEST_HISTORY or info.is_continue_as_new_suggested()
        return too_long or self._is_upgraded()

    def _is_upgraded(self) -> bool:
        return workflow.info().is_target_worker_deployment_version_changed()

    def _present(self) -> None:
        state = self._book.state
        workflow.set_current_details(site_details(state, workflow.now()))
        in_use = sum(lease.wanted.disks for lease in state.leases if not lease.gave_way)
        meters.slots_shown(state.profile.site, in_use, len(state.waiting))
