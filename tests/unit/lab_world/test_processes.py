"""Children of the lab start, report, restart on their ports, and never outlive it."""

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab.processes import LabError, ManagedProcess, ProcessSpec, Readiness, free_ports, python_command
from lab.tools import node_executable

_SERVER = """
import json, os, socket, sys
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("127.0.0.1", int(sys.argv[1]))); s.listen()
print("starting"); print(json.dumps({"pid": os.getpid(), "secret": os.environ["LAB_TEST"]}), flush=True)
while True:
    c, _ = s.accept(); c.sendall(b"%d" % os.getpid()); c.close()
"""

_PARENT = """
import os, signal, sys, threading
from pathlib import Path
from lab.processes import ManagedProcess, ProcessSpec
children = []
def start():
    for name, command in (("python", [sys.executable, "-c", "import time; time.sleep(600)"]), ("node", [sys.argv[2], "-e", "setTimeout(() => 0, 600000)"])):
        child = ManagedProcess(ProcessSpec(name, tuple(command), Path(sys.argv[1]), {}))
        child.start(); children.append(child)
starter = threading.Thread(target=start); starter.start(); starter.join()
print(*(child.pid for child in children), flush=True)
assert all(child.running for child in children)
sys.stdin.readline()
os.kill(os.getpid(), signal.SIGKILL)
"""


def server(directory: Path, port: int) -> ManagedProcess:
    return ManagedProcess(
        ProcessSpec("server", python_command("-c", _SERVER, str(port)), directory, {"LAB_TEST": "x"}, Readiness.JSON_LINE)
    )


def ask(port: int) -> int:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        return int(connection.recv(100))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except FileNotFoundError:
        return False


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 20
    while alive(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_a_child_reports_by_a_json_line_and_restarts_on_its_port(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with server(tmp_path, port) as child:
        first = child.pid
        assert child.ready == {"pid": first, "secret": "x"}
        assert ask(port) == first
        child.restart()
        assert child.pid != first
        assert child.ready["pid"] == child.pid == ask(port)
        child.kill()
        assert child.exit_status == -signal.SIGKILL
        child.start()
        assert ask(port) == child.pid
    assert gone(child.pid)
    child.stop()


def test_a_frozen_child_answers_once_it_is_thawed(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with server(tmp_path, port) as child:
        child.freeze()
        with socket.create_connection(("127.0.0.1", port), timeout=0.2) as connection:
            with pytest.raises(TimeoutError):
                connection.recv(1)
            connection.settimeout(10)
            child.thaw()
            assert connection.recv(100) == b"%d" % child.pid
        child.freeze()
    assert child.exit_status == -signal.SIGTERM


def test_a_child_that_ends_before_it_is_ready_is_an_error_that_shows_its_log(tmp_path: Path) -> None:
    command = python_command("-c", "import sys; sys.exit('no such inventory')")
    child = ManagedProcess(ProcessSpec("broken", command, tmp_path, {}, Readiness.JSON_LINE))
    with pytest.raises(LabError, match=r"broken ended with status 1(.|\n)*no such inventory"):
        child.start()


def test_output_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with server(tmp_path, port) as child:
        assert {file.stat().st_mode & 0o777 for file in (child.output_file, child.log_file)} == {0o600}
        assert "LAB_TEST" not in repr(child)


def test_nothing_outlives_a_parent_that_is_killed_whichever_thread_started_it(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(tmp_path), node_executable()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    assert parent.stdin is not None and parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 2 and all(alive(pid) for pid in pids)
    parent.stdin.write("\n")
    parent.stdin.flush()
    assert parent.wait(20) == -signal.SIGKILL
    assert all(gone(pid) for pid in pids)


def test_free_ports_are_outside_the_range_of_outgoing_connections() -> None:
    first_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = free_ports(50)
    assert len(set(ports)) == 50
    assert first_outgoing < 12_000 or max(ports) < first_outgoing


def test_the_leash_refuses_to_start_for_a_parent_that_is_gone() -> None:
    leash = Path(__file__).parents[3] / "lab" / "leash.py"
    done = subprocess.run([sys.executable, str(leash), "1", "echo", json.dumps({})], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
