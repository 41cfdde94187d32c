"""Automation runbooks against the lab's Azure Resource Manager: their jobs' ends, limits, and an attempt that follows another."""

import uuid
from collections.abc import Iterator
from datetime import timedelta

import pytest
from temporalio.testing import ActivityEnvironment

from activities.plan_steps import PlanRunbooks
from deltaferry.azure.arm import ArmClients, ArmSettings
from deltaferry.azure.automation import AutomationRunbooks
from deltaferry.azure.credentials import StaticToken
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.planning.recovery_plan import RunKind
from lab.arm.service import ArmService
from lab.certificates import make_certificates
from workflows.messages.plan import StepInput

SUBSCRIPTION = "00000000-0000-0000-0000-0000000000cc"
SEED = {
    "subscription_id": SUBSCRIPTION,
    "locations": ["lab"],
    "resource_groups": [{"name": "rg-target", "location": "lab"}],
    "automation_accounts": [
        {
            "resource_group": "rg-target",
            "name": "jobs",
            "runbooks": [
                {"name": "Update-Dns", "seconds": 0.3, "output": "context {parameters}\n"},
                {"name": "Broken", "status": "Failed", "exception": "The zone does not exist.", "output": "begun\n"},
                {"name": "Endless", "seconds": 600},
            ],
        }
    ],
}
MINUTE = timedelta(minutes=1)


def runbook(name: str, account: str = "jobs") -> str:
    group = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/rg-target"
    return f"{group}/providers/Microsoft.Automation/automationAccounts/{account}/runbooks/{name}"


def no_beat() -> None:
    return


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ArmService, AutomationRunbooks]]:
    folder = tmp_path_factory.mktemp("arm")
    certificates = make_certificates(folder / "certificates")
    arm = ArmService(folder / "arm", certificates, {}, seed=SEED, retry_after_s=0, throttling_scale=0)
    arm.spawn()
    try:
        arm.await_ready()
        clients = ArmClients(
            ArmSettings(
                subscription_id=SUBSCRIPTION,
                location="lab",
                credential=StaticToken(lambda: arm.token),
                endpoint=arm.url,
                ca_file=str(certificates.ca_file),
                poll_interval_s=0.05,
                retries=1,
            )
        )
        yield arm, AutomationRunbooks(clients)
        clients.close()
    finally:
        arm.stop()


@pytest.fixture
def runbooks(service: tuple[ArmService, AutomationRunbooks]) -> AutomationRunbooks:
    return service[1]


@pytest.fixture
def arm(service: tuple[ArmService, AutomationRunbooks]) -> Iterator[ArmService]:
    yield service[0]
    service[0].control.clear_faults()


def new_job() -> str:
    return str(uuid.uuid4())


def created(arm: ArmService, job: str) -> int:
    return sum(request.method == "PUT" and job in request.path for request in arm.control.requests())


def test_a_runbook_is_run_to_its_end_with_its_output(runbooks: AutomationRunbooks) -> None:
    end = runbooks.run(runbook("update-dns"), new_job(), {"a": "b"}, MINUTE, no_beat)
    assert (end.succeeded, end.status, end.output) == (True, "Completed", 'context {"a": "b"}\n')


def test_a_failed_runbook_says_why(runbooks: AutomationRunbooks) -> None:
    end = runbooks.run(runbook("Broken"), new_job(), {}, MINUTE, no_beat)
    assert (end.succeeded, end.status, end.exception, end.output) == (False, "Failed", "The zone does not exist.", "begun\n")


def test_a_job_that_exists_is_waited_for_and_not_begun_again(arm: ArmService, runbooks: AutomationRunbooks) -> None:
    job = new_job()
    for _ in range(2):
        assert runbooks.run(runbook("Update-Dns"), job, {}, MINUTE, no_beat).succeeded
    assert created(arm, job) == 1


def test_a_reply_that_is_lost_begins_nothing_twice(arm: ArmService, runbooks: AutomationRunbooks) -> None:
    job = new_job()
    arm.control.drop_responses(1, method="PUT", path_contains=job)
    with pytest.raises(DeltaferryError) as caught:
        runbooks.run(runbook("Update-Dns"), job, {}, MINUTE, no_beat)
    assert caught.value.kind in (ErrorKind.AZURE_CONFLICT, ErrorKind.AZURE_UNREACHABLE, ErrorKind.AZURE_FAILED)
    assert runbooks.run(runbook("Update-Dns"), job, {}, MINUTE, no_beat).succeeded


def test_the_time_limit_stops_the_job(runbooks: AutomationRunbooks) -> None:
    end = runbooks.run(runbook("Endless"), new_job(), {}, timedelta(seconds=0.3), no_beat)
    assert (end.succeeded, end.timed_out, end.status) == (False, True, "Stopped")


def test_a_cancelled_wait_stops_the_job_and_an_interrupted_one_leaves_it_running(
    arm: ArmService, runbooks: AutomationRunbooks
) -> None:
    class Cancelled(Exception):
        pass

    def cancel() -> None:
        raise Cancelled

    def interrupt() -> None:
        raise DeltaferryError(ErrorKind.INTERRUPTED, "The worker was told to end.")

    cancelled, interrupted = new_job(), new_job()
    with pytest.raises(Cancelled):
        runbooks.run(runbook("Endless"), cancelled, {}, MINUTE, cancel)
    with pytest.raises(DeltaferryError):
        runbooks.run(runbook("Endless"), interrupted, {}, MINUTE, interrupt)
    stopped = [request.path for request in arm.control.requests() if request.path.partition("?")[0].endswith("/stop")]
    assert (any(cancelled in path for path in stopped), any(interrupted in path for path in stopped)) == (True, False)


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        (runbook("Missing"), None),
        (runbook("Update-Dns", "nowhere"), ErrorKind.AZURE_NOT_FOUND),
        (runbook("Update-Dns").replace(SUBSCRIPTION, "other"), ErrorKind.BAD_INPUT),
        ("Update-Dns", ErrorKind.BAD_INPUT),
    ],
)
def test_a_runbook_that_is_not_there_is_an_error(runbooks: AutomationRunbooks, target: str, kind: ErrorKind | None) -> None:
    with pytest.raises(DeltaferryError) as caught:
        runbooks.run(target, new_job(), {}, MINUTE, no_beat)
    assert kind is None or caught.value.kind is kind


def test_a_step_gives_the_runbook_the_context_that_site_recovery_gives(runbooks: AutomationRunbooks) -> None:
    step = StepInput("shop", "run-1", RunKind.UNPLANNED, "web", "web/after/dns", 1, runbook("Update-Dns"), MINUTE, "plan/shop/1")
    result = ActivityEnvironment().run(PlanRunbooks({SUBSCRIPTION: runbooks}).run_runbook, step)
    assert result.succeeded
    for expected in ("RecoveryPlanContext", "RecoveryPlanName", "shop", "FailoverType", "Unplanned", "PrimaryToSecondary"):
        assert expected in result.output
