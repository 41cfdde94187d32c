import asyncio
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError

from deltaferry.model.errors import ErrorKind
from tests.workflows.site_bench import Bench
from workflows import names
from workflows.messages.replication_state import ReplicateVmInput
from workflows.messages.site import FindingView

_NOTHING: tuple[Any, ...] = ()


async def _refused(bench: Bench, kind: str, *arguments: object, suffix: str = "bad") -> ApplicationError:
    """Start a workflow that must fail by itself, with an error of ours; a hanging one fails the test."""
    handle = await bench.start(kind, *arguments, suffix=suffix)
    with pytest.raises(WorkflowFailureError) as failed:
        async with asyncio.timeout(20):
            await handle.result()
    cause = failed.value.cause
    assert isinstance(cause, ApplicationError)
    return cause


async def test_enabling_replicates_under_the_id_that_services_compute(bench: Bench) -> None:
    running = await bench.enable()
    assert running.workflow_id == names.replication_id(bench.site, f"uuid-of-{running.vm}")
    view = await running.until_committed(1)
    assert [cycle.kind for cycle in await running.cycles()] == ["initial", "delta"]
    assert (view.replication_state, view.migration_state) == ("Delta sync", "Test migration pending")


@pytest.mark.parametrize(
    ("kind", "arguments", "sentence"),
    [
        ("EnableReplication", _NOTHING, "needs an input"),
        ("EnableReplication", (None,), "needs an input"),
        (
            "EnableReplication",
            ({"vm": "x", "sit": "y"},),
            "there is no field 'sit' (the fields are vm, site, target, auto_repair, policy)",
        ),
        ("EnableReplication", ({"vm": "x"},), "the field 'site' is missing"),
        ("EnableReplication", ({"vm": 7, "site": "lab"},), "the field 'vm'"),
        ("EnableReplication", ({"vm": "", "site": "lab"},), "the field 'vm'"),
        ("EnableReplication", ({"vm": "x", "site": "lab", "target": {"sise": "D4"}},), "there is no field 'target.sise'"),
        ("EnableReplication", (["web-01", "lab"],), "EnableInput"),
        ("EnableReplication", ("web-01",), "it must be a JSON object"),
        ("AdoptReplications", _NOTHING, "needs an input"),
        ("AdoptReplications", ({"sites": "lab"},), "there is no field 'sites'"),
        ("SiteInventory", _NOTHING, 'needs an input. Write for example {"site": "lon1"}'),
        ("SiteInventory", ({"sight": "lab"},), "there is no field 'sight' (the fields are site)"),
        ("ReplicateVm", _NOTHING, "Start EnableReplication"),
        ("ReplicateVm", ({"vm": "web-01", "site": "lab"},), "Start EnableReplication"),
        ("InitialReplication", _NOTHING, "Start EnableReplication"),
        ("MigrateVm", ({},), "Start EnableReplication"),
        ("StopReplication", ({"a": 1},), "Start EnableReplication"),
        ("CompleteMigration", _NOTHING, "Start EnableReplication"),
        ("SiteSlots", _NOTHING, "Start EnableReplication"),
    ],
)
async def test_a_start_that_cannot_be_used_fails_with_a_sentence(
    bench: Bench, kind: str, arguments: tuple[Any, ...], sentence: str
) -> None:
    error = await _refused(bench, kind, *arguments)
    assert error.type in (ErrorKind.BAD_INPUT, ErrorKind.OPERATION_REFUSED)
    assert sentence in error.message
    assert error.non_retryable


async def test_an_unknown_vm_and_an_unknown_site_are_named_in_the_failure(bench: Bench) -> None:
    error = await _refused(bench, "EnableReplication", {"vm": "no-such-vm", "site": bench.site}, suffix="vm")
    assert error.type == ErrorKind.VM_NOT_FOUND
    assert "no-such-vm" in error.message
    error = await _refused(bench, "EnableReplication", {"vm": "web-01", "site": "atlantis"}, suffix="site")
    assert error.type == ErrorKind.BAD_INPUT
    assert "atlantis" in error.message


async def test_every_failed_prerequisite_of_both_sides_is_in_the_failure(bench: Bench) -> None:
    bench.world.source_findings = (
        FindingView("snapshots-present", "error", "The VM has snapshots.", "Remove them."),
        FindingView("static-address", "warning", "The guest has a static address.", "Use DHCP."),
        FindingView("independent-disk", "error", "Hard disk 2 is independent.", "Make it dependent."),
    )
    bench.world.target_findings = (FindingView("network-missing", "error", "The network does not exist.", "Create it."),)
    error = await _refused(bench, "EnableReplication", {"vm": bench.name_of("web-01"), "site": bench.site})
    assert error.type == ErrorKind.PREREQUISITES_FAILED
    for code in ("snapshots-present", "independent-disk", "network-missing"):
        assert f"[{code}]" in error.message
    assert "static-address" not in error.message
    assert bench.world.count("prepare_target") == bench.world.count("prepare_source") == 0


async def test_a_second_enabling_is_refused_while_one_replicates(bench: Bench) -> None:
    running = await bench.replicated()
    error = await _refused(bench, "EnableReplication", {"vm": running.vm, "site": bench.site})
    assert error.type == ErrorKind.ALREADY_PROTECTED
    assert running.workflow_id in error.message


async def test_a_replication_copied_from_another_run_is_refused(bench: Bench) -> None:
    await bench.replicated()
    (record,) = bench.world.records.values()
    assert isinstance(record, ReplicateVmInput)
    error = await _refused(bench, "ReplicateVm", record)
    assert error.type == ErrorKind.OPERATION_REFUSED
    assert "as a copy of another run" in error.message
    assert bench.world.count("begin_cycle") == 0
