"""A failed-over VM comes home to another place of its site: who is told, what is undone, and under which id it goes on (spec §8)."""

import pytest
from temporalio.client import WorkflowExecutionStatus, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError

from deltaferry.model.errors import ErrorKind
from deltaferry.planning.dr_states import DrState
from tests.workflows.site_bench import Bench, Running, eventually
from tests.workflows.test_coming_home import committed
from workflows import names
from workflows.messages.failback import MakeVmInput, OnMadeVm
from workflows.messages.operator_input import AlternateLocation

_PLACE = {"datastore": "ds2", "host": "esx-2", "name": "web-home", "networks": {"VM Network": "prod"}}


async def _refused(running: Running, operation: str, argument: object) -> str:
    with pytest.raises(WorkflowUpdateFailedError) as refused:
        await running.update(operation, argument)
    assert isinstance(refused.value.cause, ApplicationError)
    return refused.value.cause.message


async def _reprotected(bench: Bench) -> tuple[Running, str]:
    """Return a replication that is reprotected to another place, and the instance UUID of the VM that was made there."""
    running = await committed(bench)
    assert "A VM is made at that place" in await running.update("reprotect", {"location": _PLACE})
    await running.until_migration(DrState.FAILBACK_READY)
    (made,) = bench.world.made_at_site
    return running, made


async def test_the_replication_goes_on_under_the_id_of_the_vm_that_was_made(bench: Bench) -> None:
    running, made = await _reprotected(bench)
    (asked,) = bench.world.inputs("make_vm", MakeVmInput)
    assert asked.location == AlternateLocation("ds2", "esx-2", name="web-home", networks={"VM Network": "prod"})
    assert bench.world.count("hash_snapshots") == bench.world.count("find_losses") == 0
    await running.update("failback")
    before = await running.until_migration(DrState.FAILED_BACK)
    assert before.failover is not None
    assert (before.failover.home_vm, before.failover.home_vm_uuid) == ("web-home", made)
    assert "The VM was made." in before.failover.information
    await running.update("commit_failback")
    await running.handle.result()
    workflow_id = names.replication_id(bench.world.profile.site, made)
    there = Running(running.client, workflow_id, "web-home", running.client.get_workflow_handle(workflow_id))
    view = await there.until(lambda v: v.failover is None and len(v.resyncs) == 1, "resynchronised")
    assert (view.vm, view.instance_uuid, view.replication_id) == ("web-home", made, before.replication_id)
    assert (bench.world.kept_at_site, bench.world.made_at_site, bench.world.count("delete_made_vm")) == ([made], {}, 0)
    assert bench.world.order(("keep_made_vm", "clean_source", "reset_tracking", "begin_resync")) == [
        "keep_made_vm",
        "clean_source",
        "reset_tracking",
        "begin_resync",
    ]
    await there.until(lambda v: v.cycles_committed > view.cycles_committed, "a cycle after it")
    await there.update("stop")
    await there.ended()


async def test_completing_deletes_the_vm_that_was_made(bench: Bench) -> None:
    running, made = await _reprotected(bench)
    await running.update("complete")
    await running.ended()
    assert bench.world.made_at_site == {}
    assert {request.instance_uuid for request in bench.world.inputs("delete_made_vm", OnMadeVm)} == {made}


async def test_a_reprotect_that_is_cancelled_deletes_the_vm_that_it_made(bench: Bench) -> None:
    running, _ = await _reprotected(bench)
    sentence = await _refused(running, "reprotect", {"location": {**_PLACE, "datastore": "ds3"}})
    job_id = (await running.status()).job_id
    assert job_id is not None and f"cancel the workflow {job_id} first" in sentence
    await running.client.get_workflow_handle(job_id).cancel()
    await running.until(lambda v: "reprotect" in v.allowed, "undone")
    assert bench.world.made_at_site == {}
    await running.update("reprotect", {"location": _PLACE})
    await running.until_migration(DrState.FAILBACK_READY)
    assert len({request.instance_uuid for request in bench.world.inputs("make_vm", MakeVmInput)}) == 2


async def test_a_place_that_is_refused_leaves_the_way_open_for_another(bench: Bench) -> None:
    running = await committed(bench)
    bench.world.fail("make_vm", ErrorKind.OPERATION_REFUSED, message="The site has no host 'esx-2'.")
    await running.update("reprotect", {"location": _PLACE})
    view = await running.until(lambda v: bool(v.health) and "reprotect" in v.allowed, "not begun")
    assert view.health[0].message == "The site has no host 'esx-2'."
    await running.update("reprotect")
    await running.until_migration(DrState.FAILBACK_READY)
    assert (bench.world.made_at_site, bench.world.count("hash_snapshots")) == ({}, 1)


async def test_a_vm_that_could_not_be_deleted_is_deleted_before_the_next_try(bench: Bench) -> None:
    running, made = await _reprotected(bench)
    bench.world.fail("delete_made_vm", ErrorKind.OPERATION_REFUSED, message="It is on.")
    job_id = (await running.status()).job_id
    assert job_id is not None
    await running.client.get_workflow_handle(job_id).cancel()
    await running.until(lambda v: "reprotect" in v.allowed, "not undone")
    assert list(bench.world.made_at_site) == [made]
    failover = (await running.status()).failover
    assert failover is not None and any("could be undone: It is on." in told for told in failover.information)
    await running.update("reprotect", {"confirm_losses": True})
    await running.until_migration(DrState.FAILBACK_READY)
    assert bench.world.made_at_site == {}


async def test_a_failback_that_is_given_up_goes_on_with_the_same_vm(bench: Bench) -> None:
    running, made = await _reprotected(bench)
    bench.world.fail("write_back", ErrorKind.MANIFEST_MISMATCH)
    await running.update("failback")
    await running.until_migration(DrState.FAILBACK_FAILED)
    await running.update("cancel_failover")
    await running.until_migration(DrState.FAILBACK_READY)
    assert (list(bench.world.made_at_site), bench.world.count("make_vm")) == ([made], 1)


async def test_a_terminated_replication_is_adopted_with_the_vm_that_was_made(bench: Bench) -> None:
    running, made = await _reprotected(bench)
    await running.handle.terminate("by mistake")
    assert (await bench.adopt()).adopted == (running.workflow_id,)
    await running.until_migration(DrState.FAILBACK_READY)
    await running.update("failback")
    await running.until_migration(DrState.FAILED_BACK)
    await running.update("commit_failback")
    there = running.client.get_workflow_handle(names.replication_id(bench.world.profile.site, made))

    async def runs() -> bool:
        described = await running.handle.describe()
        return described.status is WorkflowExecutionStatus.COMPLETED

    await eventually(runs, "the old workflow's end")
    assert (await there.describe()).status is WorkflowExecutionStatus.RUNNING
    assert bench.world.kept_at_site == [made]


@pytest.mark.parametrize(
    ("location", "told"),
    [
        ({"datastore": "ds2"}, "names neither a host nor a cluster"),
        ({"datastore": "ds2", "host": "a", "cluster": "b"}, "names a host and a cluster"),
        ({"host": "a"}, "the field 'location.datastore' is missing"),
        ({"datastore": "ds2", "host": "a", "network": {}}, "there is no field 'location.network'"),
    ],
)
async def test_a_place_that_is_not_written_well_is_refused_with_what_to_write(
    bench: Bench, location: dict[str, object], told: str
) -> None:
    running = await committed(bench)
    await running.handle.signal("reprotect", {"location": location})
    view = await running.until(lambda v: v.last_refused is not None, "refused")
    assert view.last_refused is not None and told in view.last_refused.sentence
    assert bench.world.count("make_vm") == 0
