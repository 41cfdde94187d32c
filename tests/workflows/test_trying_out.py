"""Tests of a VM in Azure beside its replication (spec §7): asked for, made, shown, deleted; whatever dies meanwhile."""

from datetime import timedelta

from deltaferry.model.errors import ErrorKind
from deltaferry.planning.dr_states import DrState
from deltaferry.planning.rpo import RpoChange
from tests.workflows.site_bench import QUICK, Bench, eventually
from workflows import names
from workflows.messages.dr import CopyPointInput, ImportCopiesInput, PinPointInput
from workflows.messages.notice import RpoNotice
from workflows.messages.views import StatusView


def _tests(view: StatusView) -> list[tuple[int, str]]:
    return [(test.number, test.state) for test in view.tests]


async def test_a_test_is_made_from_copies_of_a_point_and_waits_for_its_clean_up(bench: Bench) -> None:
    running = await bench.replicated()
    assert "replication goes on" in await running.update("test_migrate", {"network": "drill", "reason": "a drill"})
    view = await running.until_migration(DrState.CLEAN_UP_PENDING)
    (test,) = view.tests
    assert (test.network, test.vm_id) == ("drill", f"/virtualMachines/{view.vm}-test-{test.number}")
    assert test.point_taken_at == view.last_recovery_point
    assert test.provisioned_bytes > 0
    assert "clean_up" in view.allowed and "stop" not in view.allowed
    (pinned,) = bench.world.inputs("pin_point", PinPointInput)
    assert pinned.reason == "a drill"
    (copied,) = bench.world.inputs("copy_point", CopyPointInput)
    assert copied.holder == pinned.holder
    (imported,) = bench.world.inputs("import_copies", ImportCopiesInput)
    assert imported.target.network == "drill"
    assert imported.isolated_from is not None
    assert (bench.world.pins, bench.world.copies) == ({}, {})
    await running.update("clean_up", {"reason": "all came up"})
    view = await running.until_migration(DrState.READY)
    assert view.tests == () and view.tested_at is not None
    assert bench.world.vms == {}
    assert "stop" in view.allowed


async def test_cycles_go_on_while_a_test_is_made_and_while_it_stands(bench: Bench) -> None:
    bench.profile(min_interval=QUICK)
    held = bench.world.hold("copy_point")
    running = await bench.replicated(due=True)
    await running.update("test_migrate", {"network": "drill"})
    await held.reached()
    before = (await running.status()).cycles_committed
    await running.until(lambda view: view.cycles_committed >= before + 2, "two more cycles")
    held.release()
    view = await running.until_migration(DrState.CLEAN_UP_PENDING)
    await running.until(lambda later: later.cycles_committed > view.cycles_committed, "another cycle")


async def test_several_tests_stand_at_once_and_are_cleaned_up_one_by_one(bench: Bench) -> None:
    running = await bench.replicated()
    await running.update("test_migrate", {"network": "drill"})
    await running.update("test_migrate", {"network": "other", "target": {"vm_name": "second"}})
    view = await running.until(lambda v: [state for _, state in _tests(v)] == [DrState.CLEAN_UP_PENDING] * 2, "two tests")
    assert [test.vm_id for test in view.tests] == [
        f"/virtualMachines/{view.vm}-test-{view.tests[0].number}",
        "/virtualMachines/second",
    ]
    await running.update("clean_up", {"test": view.tests[0].number})
    view = await running.until(lambda v: len(v.tests) == 1, "one test left")
    assert view.tests[0].network == "other"
    assert list(bench.world.vms.values()) == ["second"]


async def test_a_test_without_a_network_of_an_unknown_point_or_with_a_typo_is_refused(bench: Bench) -> None:
    running = await bench.replicated()
    assert "names no recovery point" in await running.refusal("test_migrate", {"network": "drill", "point": "yesterday"})
    await running.signal("test_migrate", {})
    view = await running.until(lambda v: v.last_refused is not None, "a refused signal")
    assert view.last_refused is not None and "'network' is missing" in view.last_refused.sentence
    await running.signal("test_migrate", {"network": "drill", "sizes": 1})
    view = await running.until(lambda v: v.last_refused is not None and "sizes" in v.last_refused.sentence, "another")
    assert view.tests == ()


async def test_a_failed_test_deletes_what_it_made_says_why_and_is_cleaned_up(bench: Bench) -> None:
    bench.world.fail("create_target_vm", ErrorKind.AZURE_QUOTA, message="No cores are left in the region.")
    running = await bench.replicated()
    await running.update("test_migrate", {"network": "drill"})
    view = await running.until_migration(DrState.TEST_FAILED)
    (test,) = view.tests
    assert test.error is not None and test.error.message == "No cores are left in the region."
    assert (bench.world.vms, bench.world.copies, bench.world.pins) == ({}, {}, {})
    assert view.replication_state == "Delta sync" and view.health == ()
    await running.update("clean_up")
    view = await running.until(lambda v: v.tests == (), "cleaned up")
    assert view.migration_state == "Test migration pending"


async def test_a_clean_up_that_fails_is_shown_and_asked_for_again(bench: Bench) -> None:
    running = await bench.replicated()
    await running.update("test_migrate", {"network": "drill"})
    await running.until_migration(DrState.CLEAN_UP_PENDING)
    bench.world.fail("delete_target", ErrorKind.AZURE_CONFLICT, message="The disk is locked.")
    await running.update("clean_up")
    view = await running.until_migration(DrState.CLEAN_UP_FAILED)
    assert view.tests[0].error is not None and view.tests[0].error.message == "The disk is locked."
    assert bench.world.vms != {}
    await running.update("clean_up")
    await running.until_migration(DrState.READY)
    assert bench.world.vms == {}


async def test_a_test_goes_on_over_a_terminated_replication_and_is_known_when_it_is_adopted(bench: Bench) -> None:
    held = bench.world.hold("copy_point")
    running = await bench.replicated()
    await running.update("test_migrate", {"network": "drill"})
    await held.reached()
    await running.handle.terminate("by mistake")
    held.release()
    await eventually(_made(bench), "the VM")
    await bench.adopt()
    view = await running.until_migration(DrState.CLEAN_UP_PENDING)
    assert len(view.tests) == 1


async def test_a_test_that_was_terminated_is_shown_as_failed_and_cleaned_up_when_it_is_looked_for(bench: Bench) -> None:
    held = bench.world.hold("copy_point")
    running = await bench.replicated()
    await running.update("test_migrate", {"network": "drill"})
    await held.reached()
    number = (await running.status()).tests[0].number
    await bench.client.get_workflow_handle(names.test_id(running.handle.id, number)).terminate("by mistake")
    held.release()
    await running.handle.terminate("so that it looks at once")
    await bench.adopt()
    view = await running.until_migration(DrState.TEST_FAILED)
    assert view.tests[0].error is not None and "ended from outside" in view.tests[0].error.message
    await running.update("clean_up")
    await running.until(lambda v: v.tests == (), "cleaned up")


async def test_the_rpo_threshold_of_a_policy_raises_a_health_error_and_takes_it_back(bench: Bench) -> None:
    bench.profile(min_interval=timedelta(milliseconds=1))
    running = await bench.replicated()
    await running.update("pause")
    await running.update("update_policy", {"name": "gold", "rpo_threshold": "PT2S"})
    view = await running.until(lambda v: any(error.kind is ErrorKind.RPO_EXCEEDED for error in v.health), "crossed")
    assert view.policy is not None and view.policy.name == "gold"
    await running.update("resume")
    await running.until(lambda v: all(error.kind is not ErrorKind.RPO_EXCEEDED for error in v.health), "recovered")

    async def told() -> bool:
        return bench.world.count("announce_rpo") == 2

    await eventually(told, "the webhook told of both")
    assert [n.change for n in bench.world.inputs("announce_rpo", RpoNotice)] == [RpoChange.CROSSED, RpoChange.RECOVERED]


async def test_a_crossed_threshold_stays_beside_a_failed_cycles_error(bench: Bench) -> None:
    bench.profile(min_interval=timedelta(milliseconds=1))
    bench.world.fail("transfer", ErrorKind.STORE_UNREACHABLE, times=3)
    running = await bench.replicated()
    await running.update("pause")
    await running.update("update_policy", {"name": "gold", "rpo_threshold": "PT2S"})
    await running.until(lambda v: [error.kind for error in v.health] == [ErrorKind.RPO_EXCEEDED], "crossed")
    await running.update("resume")
    both = [ErrorKind.STORE_UNREACHABLE, ErrorKind.RPO_EXCEEDED]
    await running.until(lambda v: [error.kind for error in v.health] == both, "both")


async def test_a_policy_that_contradicts_itself_is_refused_with_every_reason(bench: Bench) -> None:
    running = await bench.replicated()
    sentence = await running.refusal(
        "update_policy", {"name": "gold", "rpo_threshold": "PT1S", "retention": "P20D", "app_consistent_every": "PT13H"}
    )
    assert "at most 15 days" in sentence and "cannot be met" in sentence and "between 1 and 12 hours" in sentence
    assert (await running.status()).policy is None


def _made(bench: Bench):  # type: ignore[no-untyped-def]
    async def made() -> bool:
        return bool(bench.world.vms)

    return made
