"""Audits of a site on the whole system: what belongs to somebody stays, what belongs to nobody goes, the rest is said."""

import asyncio
import json
import os
import subprocess
import sys
import uuid
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from temporalio.client import Client, WorkflowFailureError

from deltaferry.model.audit import Finding, FindingCode, Outcome, Verdict
from deltaferry.model.errors import ErrorKind
from deltaferry.model.naming import COMMIT_RECORD, gateway_container, seed_container, snapshot_name
from deltaferry.model.vm import Claim
from lab.settings import SITE
from lab.world import World
from tests.e2e.interventions import eventually, paused
from tests.e2e.operators import (
    audit,
    found_of,
    goes_on_with_deltas,
    hold_a_delta,
    leases,
    let_go,
    refusal_of,
    terminate,
)
from tests.e2e.replicated import Replicated
from workers.settings import load_settings
from workers.wiring import build_site
from workflows import names
from workflows.messages.audit import AuditResult

_ROOT = Path(__file__).parents[2]
_RESULT = TypeAdapter(AuditResult)


async def _command(world: World, *arguments: str) -> tuple[int, AuditResult]:
    """Run the command as a program does; its JSON is the result."""
    command = [sys.executable, "-m", "console.main", "audit", SITE, *arguments, "--config", str(world.config_file), "--json"]
    environment = {**os.environ, **world.environment}
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=_ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout, done.stderr
    return done.returncode, _RESULT.validate_python(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.chaos
async def test_an_audit_in_the_middle_of_a_cycle_finds_nothing_and_touches_nothing(vm: Replicated) -> None:
    await vm.enable_and_sync()
    await hold_a_delta(vm)
    held = vm.our_snapshots()
    result = await audit(vm.client)
    assert found_of(vm, result.findings) == {}
    assert (len(held), vm.our_snapshots(), await leases(vm)) == (1, held, [vm.handle.id])
    let_go(vm)
    await goes_on_with_deltas(vm)
    assert all(cycle.committed for cycle in await vm.cycles())


async def test_what_a_lost_replication_left_is_shown_then_repaired_and_then_gone(
    vm: Replicated, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in vm.world.environment.items():
        monkeypatch.setenv(name, value)
    await vm.enable_and_sync()
    await hold_a_delta(vm)
    await terminate(vm)
    let_go(vm)
    adoptable = found_of(vm, (await audit(vm.client)).findings)
    assert {finding.verdict for finding in adoptable.values()} == {Verdict.REPORT}
    assert FindingCode.NOT_RUNNING in adoptable
    assert (len(vm.our_snapshots()), await leases(vm)) == (1, [vm.handle.id])

    with vm.blobs("gateway").get_container_client(gateway_container(vm.reference)) as gateway:
        gateway.delete_blob(COMMIT_RECORD)
    assert found_of(vm, (await audit(vm.client, grace=timedelta(hours=1))).findings).keys() <= {FindingCode.CLAIM}
    code, shown = await _command(vm.world, "--dry-run", "--grace", "PT0S")
    repairable = {FindingCode.SNAPSHOT, FindingCode.LEASE, FindingCode.LOG_CONTAINER}
    found = found_of(vm, shown.findings)
    assert (code, {c for c, finding in found.items() if finding.verdict is Verdict.REPAIR}) == (1, repairable)
    assert (len(vm.our_snapshots()), await leases(vm)) == (1, [vm.handle.id]), "a dry run changes nothing"

    repaired = found_of(vm, (await audit(vm.client)).findings)
    assert {c for c, finding in repaired.items() if finding.outcome is Outcome.REPAIRED} == repairable, repaired
    assert vm.our_snapshots() == []
    assert not vm.world.vcenter_control.vm(vm.name).consolidation_needed
    await eventually(lambda: _has_no_leases(vm), "released slots")

    left = found_of(vm, (await audit(vm.client)).findings)
    assert set(left) == {FindingCode.CLAIM, FindingCode.SEED_DISKS, FindingCode.BOOKKEEPING}
    assert {finding.verdict for finding in left.values()} == {Verdict.REPORT}
    await asyncio.to_thread(_do_what_it_says, vm)
    assert found_of(vm, (await audit(vm.client)).findings) == {}
    await vm.enable()  # nothing stands in the way any more


async def _has_no_leases(vm: Replicated) -> bool:
    return await leases(vm) == []


def _do_what_it_says(vm: Replicated) -> None:
    site, close = build_site(load_settings(vm.world.config_file, vm.world.environment), SITE)
    claim = Claim(vm.reference.installation, vm.reference.replication_id)
    site.hypervisor.write_claim(vm.source.instance_uuid, None, expected=claim)
    close()
    for store, container in (("seed", seed_container(vm.reference)), ("gateway", gateway_container(vm.reference))):
        with vm.blobs(store) as blobs:
            blobs.delete_container(container)


@pytest.mark.chaos
async def test_snapshots_of_others_and_of_other_installations_stay(vm: Replicated) -> None:
    def cycle_of(installation: str) -> str:
        return f"df/{installation}/{uuid.uuid4().hex[:16]}/1-{uuid.uuid4()}"

    ours, theirs = cycle_of("lab"), cycle_of("other")
    for name in (theirs, ours, "by hand"):
        vm.world.vcenter_control.take_snapshot(vm.source.moref, name)
    result = await audit(vm.client)
    assert [(f.code, f.outcome) for f in found_of(vm, result.findings).values()] == [(FindingCode.SNAPSHOT, Outcome.REPAIRED)]
    assert [snapshot.name for snapshot in vm.world.vcenter_control.vm(vm.name).snapshots] == [theirs, "by hand"]


@pytest.mark.chaos
async def test_a_paused_replications_forgotten_snapshot_is_removed_and_it_goes_on(vm: Replicated) -> None:
    await vm.enable_and_sync()
    await paused(vm)
    forgotten = snapshot_name(vm.reference, f"99-{uuid.uuid4()}")
    vm.world.vcenter_control.take_snapshot(vm.source.moref, forgotten)
    found = found_of(vm, (await audit(vm.client)).findings)
    assert [(f.code, f.outcome) for f in found.values()] == [(FindingCode.SNAPSHOT, Outcome.REPAIRED)]
    assert vm.our_snapshots() == []
    await vm.handle.execute_update("resume")
    await goes_on_with_deltas(vm)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ([{"site": "nowhere"}], f"Known sites: {SITE}"),
        ([{"site": SITE, "dryrun": True}], "there is no field 'dryrun' (the fields are site, dry_run, grace)"),
        ([], 'Write for example {"site": "lon1", "dry_run": true}'),
    ],
)
async def test_input_that_cannot_be_used_is_refused_with_a_sentence(client: Client, given: list[object], sentence: str) -> None:
    with pytest.raises(WorkflowFailureError) as refused:
        await client.execute_workflow(names.SITE_AUDIT, args=given, id=f"audit-{uuid.uuid4()}", task_queue=names.CONTROL_QUEUE)
    error = refusal_of(refused.value)
    assert (error.type, sentence in error.message) == (ErrorKind.BAD_INPUT.value, True), error


@pytest.mark.chaos
async def test_audits_without_a_grace_time_never_disturb_a_replication_from_its_first_minute_to_its_last(vm: Replicated) -> None:
    async def audit_again_and_again(stop: asyncio.Event) -> list[Finding]:
        found: list[Finding] = []
        while not stop.is_set():
            found += found_of(vm, (await audit(vm.client)).findings).values()
        return found

    stop = asyncio.Event()
    auditing = asyncio.create_task(audit_again_and_again(stop))
    await vm.enable_and_sync()
    for _ in range(5):
        vm.scribble()
        await vm.committed(1)
    assert all(cycle.committed for cycle in await vm.cycles())
    migrated = await vm.migrate()
    vm.assert_target_identical(migrated)
    await vm.complete()
    stop.set()
    assert await auditing == []
    vm.assert_nothing_left()
