"""A recovery plan's scripts as real processes, and its webhooks against a real HTTPS server with a CA of the test."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.testing import ActivityEnvironment

from activities.plan_steps import PlanScripts, PlanTargets, PlanWebhooks
from activities.script_process import KEPT_BYTES, run_program
from deltaferry.model.errors import ErrorKind
from deltaferry.planning.recovery_plan import RunKind
from lab.certificates import make_certificates
from tests.unit.activities.webhook_receiver import Receiver
from workflows.messages.plan import OUTPUT_LIMIT, StepInput, StepResult

MINUTE = timedelta(minutes=1)
Write = Callable[[str], str]


def no_beat() -> None:
    return


def step(target: str, limit: timedelta = MINUTE, attempt: int = 2) -> StepInput:
    return StepInput("shop", "run-1", RunKind.PLANNED, "web", "web/before/x", attempt, target, limit, "plan/shop/1", "w")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return what writes a shell script and returns its path."""

    def make(text: str) -> str:
        path = tmp_path / "script"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return str(path)

    return make


def run(target: str, limit: timedelta = MINUTE) -> StepResult:
    return ActivityEnvironment().run(PlanScripts("w", [target]).run_script, step(target, limit))


def exists(pid: int) -> bool:
    """Return whether a process still runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def await_gone(pid: int) -> None:
    until = time.monotonic() + 20
    while exists(pid):
        assert time.monotonic() < until, f"{pid} still runs"
        time.sleep(0.02)


def await_pids(path: Path, count: int) -> list[int]:
    until = time.monotonic() + 20
    while not path.exists() or len(path.read_text().split()) < count:
        assert time.monotonic() < until, "the script did not begin"
        time.sleep(0.02)
    return [int(pid) for pid in path.read_text().split()]


def test_a_script_ends_with_its_exit_code_and_the_last_line_of_both_streams(write: Write) -> None:
    failed = run(write("echo out; echo went wrong >&2; exit 3"))
    assert (failed.succeeded, failed.note, failed.output) == (False, "Exit code 3. went wrong", "out\nwent wrong\n")
    done = run(write("echo fine"))
    assert (done.succeeded, done.note) == (True, "Exit code 0.")


def test_a_script_is_told_what_it_belongs_to_and_nothing_of_the_workers_environment(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DELTAFERRY_VCENTER_PASSWORD", "hidden")
    told = dict(line.split("=", 1) for line in run(write("env; pwd")).output.splitlines() if "=" in line)
    assert {name: value for name, value in told.items() if name.startswith("DELTAFERRY")} == {
        "DELTAFERRY_PLAN": "shop",
        "DELTAFERRY_RUN": "run-1",
        "DELTAFERRY_RUN_KIND": "planned failover",
        "DELTAFERRY_GROUP": "web",
        "DELTAFERRY_ITEM": "web/before/x",
        "DELTAFERRY_ATTEMPT": "2",
    }
    assert set(told) <= {"PATH", "LANG", "LC_CTYPE", "PWD", "SHLVL", "_", "OLDPWD", *(n for n in told if "DELTAFERRY" in n)}


def test_a_path_is_no_command_line(tmp_path: Path) -> None:
    ended = run(f"{tmp_path}/missing; touch {tmp_path}/made")
    assert (ended.succeeded, list(tmp_path.iterdir())) == (False, [])
    assert "cannot be started: No such file or directory" in ended.note


def test_the_end_of_a_long_output_is_kept(write: Write) -> None:
    ended = run(write("i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done"))
    assert ended.output.endswith("line 19998\nline 19999\n")
    assert len(ended.output.encode()) == OUTPUT_LIMIT
    whole = run_program(write("head -c 300000 /dev/zero; echo end"), {}, MINUTE, no_beat)
    assert len(whole.output) == KEPT_BYTES and whole.output.endswith("end\n")


def test_the_time_limit_ends_a_script_with_all_that_it_started(write: Write, tmp_path: Path) -> None:
    ended = run(write(f"echo begun; sleep 600 & echo $$ $! > {tmp_path}/pids; wait"), timedelta(seconds=1))
    assert (ended.succeeded, ended.output) == (False, "begun\n")
    assert "did not end within 1 s, and was ended with all that it had started." in ended.note
    for pid in await_pids(tmp_path / "pids", 2):
        await_gone(pid)


def test_a_script_that_ignores_the_request_to_end_is_killed(write: Write, tmp_path: Path) -> None:
    text = f"trap '' TERM; echo $$ > {tmp_path}/pids; while :; do sleep 0.1; done"
    assert run_program(write(text), {}, timedelta(seconds=0.5), no_beat).timed_out
    await_gone(await_pids(tmp_path / "pids", 1)[0])


def test_what_a_script_leaves_running_does_not_hold_up_the_plan(write: Write, tmp_path: Path) -> None:
    ended = run(write(f"sleep 600 & echo $! > {tmp_path}/pids; echo done"))
    assert (ended.succeeded, ended.output) == (True, "done\n")
    os.kill(await_pids(tmp_path / "pids", 1)[0], signal.SIGKILL)


def test_a_cancellation_ends_the_script(write: Write, tmp_path: Path) -> None:
    target = write(f"echo $$ > {tmp_path}/pids; sleep 600")
    environment = ActivityEnvironment()
    ended: list[BaseException] = []

    def work() -> None:
        try:
            environment.run(PlanScripts("w", [target]).run_script, step(target))
        except CancelledError as error:
            ended.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    (pid,) = await_pids(tmp_path / "pids", 1)
    environment.cancel()
    thread.join(30)
    assert len(ended) == 1
    await_gone(pid)


def test_a_worker_that_is_killed_takes_its_script_with_it(write: Write, tmp_path: Path) -> None:
    target = write(f"echo $$ > {tmp_path}/pids; sleep 600")
    code = (
        "import datetime, sys; from activities.script_process import run_program; "
        "run_program(sys.argv[1], {}, datetime.timedelta(minutes=5), lambda: None)"
    )
    with subprocess.Popen([sys.executable, "-c", code, target], cwd=Path(__file__).parents[3]) as worker:
        (pid,) = await_pids(tmp_path / "pids", 1)
        worker.kill()
    await_gone(pid)


def test_a_script_that_is_not_on_the_workers_list_is_refused(write: Write, tmp_path: Path) -> None:
    target = write(f"touch {tmp_path}/made")
    with pytest.raises(ApplicationError) as caught:
        ActivityEnvironment().run(PlanScripts("w", ["/opt/another"]).run_script, step(target))
    assert (caught.value.type, caught.value.non_retryable) == (ErrorKind.BAD_INPUT, True)
    assert f"may not run {target}" in caught.value.message
    assert not (tmp_path / "made").exists()


def call(receiver: Receiver, path: str = "/hook?token=abc", ca_file: str | None = None, attempt: int = 2) -> StepResult:
    webhooks = PlanWebhooks(ca_file or receiver.ca_file)
    return ActivityEnvironment().run(webhooks.call_webhook, step(receiver.url + path, attempt=attempt))


def test_a_webhook_is_told_what_goes_on_with_a_key_for_each_attempt(receiver: Receiver) -> None:
    assert call(receiver) == StepResult(True, "The receiver answered 200.")
    call(receiver, attempt=3)
    path, headers, body = receiver.received[0]
    assert path == "/hook?token=abc"
    assert headers["Content-Type"] == "application/json"
    assert headers["Idempotency-Key"] == "run-1/web/before/x/2"
    assert receiver.received[1][1]["Idempotency-Key"] == "run-1/web/before/x/3"
    assert body == {
        "plan": "shop", "run": "run-1", "workflow_id": "plan/shop/1", "kind": "planned failover", "group": "web",
        "item": "web/before/x", "attempt": 2,
    }  # fmt: skip


@pytest.mark.parametrize("status", [302, 400, 404])
def test_a_receiver_that_refuses_fails_the_step_for_good(receiver: Receiver, status: int) -> None:
    receiver.statuses.append(status)
    assert call(receiver) == StepResult(False, f"The receiver answered {status}.")


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_receiver_that_is_in_trouble_is_tried_again(receiver: Receiver, status: int) -> None:
    receiver.statuses.append(status)
    with pytest.raises(ApplicationError) as caught:
        call(receiver)
    assert (caught.value.type, caught.value.non_retryable) == (ErrorKind.INTERRUPTED, False)
    assert f"answered {status}" in caught.value.message and "abc" not in caught.value.message


def test_a_receiver_that_does_not_answer_is_tried_again(receiver: Receiver) -> None:
    with pytest.raises(ApplicationError) as caught:
        ActivityEnvironment().run(PlanWebhooks(receiver.ca_file).call_webhook, step("https://127.0.0.1:1/hook?token=abc"))
    assert caught.value.type == ErrorKind.INTERRUPTED
    assert caught.value.message == "The webhook's receiver 127.0.0.1:1 did not answer: ConnectionRefusedError."


def test_a_certificate_of_an_unknown_authority_is_not_trusted(receiver: Receiver, tmp_path: Path) -> None:
    other = make_certificates(tmp_path)
    with pytest.raises(ApplicationError) as caught:
        call(receiver, ca_file=str(other.ca_file))
    assert (caught.value.type, caught.value.non_retryable) == (ErrorKind.BAD_CONFIGURATION, True)
    assert receiver.received == []


def test_a_runbooks_subscription_decides_which_targets_worker_runs_it() -> None:
    runbook = "/subscriptions/AAA/resourceGroups/g/providers/Microsoft.Automation/automationAccounts/a/runbooks/r"
    targets = PlanTargets({"west": "aaa", "east": "aaa", "north": "bbb"})
    assert ActivityEnvironment().run(targets.target_of_runbook, step(runbook)).target == "east"
    with pytest.raises(ApplicationError) as caught:
        ActivityEnvironment().run(PlanTargets({"north": "bbb"}).target_of_runbook, step(runbook))
    assert "No target of the settings file is of the runbook's subscription" in caught.value.message
