"""`deltaferry worker` as a process of its own."""

from pathlib import Path

from lab.processes import ManagedProcess, ProcessSpec, Readiness, python_command

from .conftest import Running

ROOT = Path(__file__).parents[3]


async def test_a_worker_says_in_json_when_it_serves_and_ends_at_sigterm(running: Running, tmp_path: Path) -> None:
    config = tmp_path / "settings.toml"
    config.write_text(f'[installation]\nid = "tests"\n[temporal]\naddress = "{running.address}"\n')
    worker = ManagedProcess(
        ProcessSpec(
            name="worker",
            command=python_command("-m", "console.main", "worker", "target", "--config", str(config)),
            log_directory=tmp_path,
            environment={"PYTHONPATH": str(ROOT)},
            readiness=Readiness.JSON_LINE,
        )
    )
    try:
        worker.start()
        assert worker.ready == {"ready": True, "role": "target"}
        worker.ask_to_stop()
        assert worker.wait(within_s=30) == 0
    finally:
        worker.stop()
    assert '"event": "stopping"' in worker.log_file.read_text()
