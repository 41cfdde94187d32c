"""Replays the recorded histories against the code at hand: a change of a workflow's commands without a patch fails here."""

import asyncio
import json
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio import workflow
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer

from workflows import names
from workflows.enable_replication import EnableReplication
from workflows.messages.operator_input import EnableInput
from workflows.messages.site import EnableResult
from workflows.plugin import plugin
from workflows.register import WORKFLOWS

_HISTORIES = Path(__file__).parent / "histories"
_SCENARIOS = {
    "a-whole-site",
    "adopt",
    "another-place",
    "audit",
    "changed-group",
    "demo",
    "disaster-recovery",
    "failed-cycle-and-repair-pending",
    "failed-migration-and-rollback",
    "failed-over-at-once",
    "inventory",
    "recovery-plan",
    "replication-group",
    "resync-and-verify",
    "rollover",
    "stop-during-initial-replication",
    "the-way-home",
}


@dataclass(frozen=True, slots=True)
class Expected:
    """A file that must be there, and how many events it must hold."""

    scenario: str
    file: str
    events: int

    def read(self) -> WorkflowHistory:
        text = (_HISTORIES / self.scenario / f"{self.file}.json").read_text()
        history = WorkflowHistory.from_json("", text)
        started = history.events[0].workflow_execution_started_event_attributes
        return WorkflowHistory(started.workflow_id, history.events)  # children and signals are named after it


def _expected() -> list[Expected]:
    recorded = json.loads((_HISTORIES / "recorded.json").read_text())
    return [
        Expected(scenario, file, events) for scenario, files in recorded["scenarios"].items() for file, events in files.items()
    ]


def test_every_recorded_history_is_there_and_no_other() -> None:
    expected = _expected()
    assert {one.scenario for one in expected} == _SCENARIOS
    files = {path.relative_to(_HISTORIES).with_suffix("").as_posix() for path in _HISTORIES.glob("*/*.json")}
    assert files == {f"{one.scenario}/{one.file}" for one in expected}


def test_every_workflow_type_is_in_a_history() -> None:
    recorded = {one.file.partition("-")[0] for one in _expected()}
    assert recorded == {
        names.ENABLE_REPLICATION,
        names.ADOPT_REPLICATIONS,
        names.REPLICATE_VM,
        names.INITIAL_REPLICATION,
        names.RESYNC,
        names.MIGRATE_VM,
        names.STOP_REPLICATION,
        names.COMPLETE_MIGRATION,
        names.SITE_SLOTS,
        names.SITE_INVENTORY,
        names.SITE_AUDIT,
        names.TEST_MIGRATION,
        names.CLEAN_UP_TEST,
        names.FAILOVER_VM,
        names.RECOVERY_PLAN,
        names.REPROTECT_VM,
        names.FAILBACK_VM,
        names.POLICY_BOOK,
        names.REPLICATION_GROUP,
    }
    assert len(recorded) == len(WORKFLOWS)


@pytest.mark.parametrize("expected", _expected(), ids=lambda one: f"{one.scenario}/{one.file}")
async def test_a_recorded_history_replays(expected: Expected) -> None:
    history = await asyncio.to_thread(expected.read)
    assert len(history.events) == expected.events
    await Replayer(workflows=list(WORKFLOWS), plugins=[plugin()]).replay_workflow(history)


@workflow.defn(name=names.ENABLE_REPLICATION, sandboxed=False)
class EnableReplicationChanged(EnableReplication):
    """The same procedure with a timer before it: a change that needs a patch, and has none."""

    @workflow.run
    async def run(self, request: EnableInput | None = None) -> EnableResult:
        await workflow.sleep(timedelta(seconds=1))
        return await super().run(request)


async def test_a_changed_workflow_does_not_replay() -> None:
    enabling = next(one for one in _expected() if one.file.startswith(names.ENABLE_REPLICATION))
    history = await asyncio.to_thread(enabling.read)
    replayer = Replayer(workflows=[EnableReplicationChanged], plugins=[plugin()])
    with pytest.raises(workflow.NondeterminismError):
        await replayer.replay_workflow(history)
