"""Child processes of the lab: started, waited for until ready, frozen, killed, restarted, and never left behind."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

_LEASH = Path(__file__).with_name("leash.py")

_SPAWNER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="lab-spawner")
"""The one thread that starts children. Linux sends the parent-death signal when the *thread* that forked ends, so
children must not be started by a short-lived one; this one lives as long as the process."""

_POLL_S = 0.02


class LabError(Exception):
    """A part of the lab did not do what it must; the message says which, and where its log is."""


class Readiness(StrEnum):
    """How a child says that it serves."""

    NONE = "none"
    """It does not: `start` returns once it runs."""
    JSON_LINE = "json line"
    """It prints one line with a JSON object on stdout, kept as `ManagedProcess.ready`."""
    PORTS = "ports"
    """All of its TCP ports accept connections."""


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """What to start. No secret belongs in `command`; they go by `environment`."""

    name: str
    """Also the name of its log files."""
    command: tuple[str, ...]
    log_directory: Path
    environment: Mapping[str, str]
    """Added to this process's own environment."""
    readiness: Readiness = Readiness.NONE
    ports: tuple[int, ...] = ()
    ready_within_s: float = 60.0
    working_directory: Path | None = None


def free_ports(count: int) -> tuple[int, ...]:
    """Return loopback ports that nothing uses, below the range that outgoing connections take theirs from.

    A restarted server finds its port still free, because no client's socket is ever given one of these.
    """
    chosen: list[int] = []
    source = random.SystemRandom()
    for _ in range(10_000):
        if len(chosen) == count:
            return tuple(chosen)
        port = source.randrange(12_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in chosen:
            chosen.append(port)
    raise LabError(f"No {count} free ports were found on the loopback interface.")


def python_command(*arguments: str) -> tuple[str, ...]:
    """Return a command that runs this interpreter, e.g. `python_command("-m", "lab.arm")`."""
    return (sys.executable, *arguments)


class ManagedProcess:
    """One child in a process group of its own, with its output in files of the lab's folder.

    It dies when this process dies, however that happens. Not safe for use by several threads at once.
    """

    def __init__(self, spec: ProcessSpec) -> None:
        self.spec = spec
        self.ready: Mapping[str, object] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._group_ended = False
        self._output_start = 0

    def __repr__(self) -> str:
        """Name and pid only: the environment holds secrets."""
        return f"<{self.spec.name} pid={self._process.pid if self._process else None}>"

    def __enter__(self) -> "ManagedProcess":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def output_file(self) -> Path:
        """The child's stdout; the same file as `log_file` unless it reports by a JSON line."""
        suffix = "out" if self.spec.readiness is Readiness.JSON_LINE else "log"
        return self.spec.log_directory / f"{self.spec.name}.{suffix}"

    @property
    def log_file(self) -> Path:
        """The child's stderr."""
        return self.spec.log_directory / f"{self.spec.name}.log"

    @property
    def pid(self) -> int:
        """The running child's process id. Raises LabError if it was never started."""
        return self._child().pid

    @property
    def exit_status(self) -> int | None:
        """The exit status, negative for a signal; None while it runs or before it was started."""
        return self._process.poll() if self._process else None

    @property
    def running(self) -> bool:
        """Whether the child runs (a frozen one does)."""
        return self._process is not None and self._process.poll() is None

    def spawn(self) -> None:
        """Start the child without waiting until it serves; no-op while it runs."""
        if self.running:
            return
        self.spec.log_directory.mkdir(parents=True, exist_ok=True)
        self.ready = {}
        self._group_ended = False
        self._process = _SPAWNER.submit(self._popen).result()

    def await_ready(self) -> None:
        """Wait until the child serves. Raises LabError when it ends first or takes too long."""
        deadline = time.monotonic() + self.spec.ready_within_s
        while not self._is_ready():
            if not self.running:
                raise LabError(f"{self.spec.name} ended with status {self.exit_status} before it was ready.{self._log_tail()}")
            if time.monotonic() > deadline:
                raise LabError(f"{self.spec.name} was not ready within {self.spec.ready_within_s:g} s.{self._log_tail()}")
            time.sleep(_POLL_S)

    def start(self) -> None:
        """Start the child and wait until it serves."""
        self.spawn()
        self.await_ready()

    def ask_to_stop(self) -> None:
        """Send SIGTERM, to a frozen child too, without waiting; no-op if it is not running."""
        if self.running:
            self._signal(signal.SIGTERM)
            self._signal(signal.SIGCONT)

    def stop(self, within_s: float = 10.0) -> None:
        """End the child by SIGTERM, by SIGKILL if it takes longer, with all of its group; no-op if it is not running."""
        if self._process is None:
            return
        if self.running:
            self.ask_to_stop()
            try:
                self._process.wait(within_s)
            except subprocess.TimeoutExpired:
                self._signal(signal.SIGKILL)
        self.kill()

    def kill(self) -> None:
        """End the child and its group by SIGKILL, as a crash would, and wait until it is gone."""
        self._signal(signal.SIGKILL)
        self._group_ended = True
        self._child().wait()

    def freeze(self) -> None:
        """Stop the child and its group by SIGSTOP: it keeps its connections and knows nothing of the time that passes."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen child and its group go on."""
        self._signal(signal.SIGCONT)

    def restart(self) -> None:
        """Stop the child and start it again with the same command, so on the same ports."""
        self.stop()
        self.start()

    def wait(self, within_s: float) -> int:
        """Wait until the child ends by itself and return its exit status. Raises LabError when it does not."""
        try:
            return self._child().wait(within_s)
        except subprocess.TimeoutExpired as error:
            raise LabError(f"{self.spec.name} did not end within {within_s:g} s.{self._log_tail()}") from error

    def _child(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise LabError(f"{self.spec.name} was never started.")
        return self._process

    def _popen(self) -> subprocess.Popen[bytes]:
        leash: Sequence[str] = (sys.executable, "-I", "-S", str(_LEASH), str(os.getpid()))
        # Output may hold a token (a control port's), so only the owner reads it.
        with open(self.log_file, "ab", opener=_private) as log, open(self.output_file, "ab", opener=_private) as output:
            self._output_start = output.tell()
            return subprocess.Popen(
                [*leash, *self.spec.command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                env={**os.environ, **self.spec.environment},
                cwd=self.spec.working_directory,
                start_new_session=True,
            )

    def _signal(self, number: signal.Signals) -> None:
        # Once the group is gone its number may belong to another process.
        if self._group_ended:
            return
        try:
            os.killpg(self._child().pid, number)
        except ProcessLookupError:
            return

    def _is_ready(self) -> bool:
        match self.spec.readiness:
            case Readiness.NONE:
                return self.running
            case Readiness.JSON_LINE:
                return self._read_ready_line()
            case Readiness.PORTS:
                return all(_accepts(port) for port in self.spec.ports)

    def _read_ready_line(self) -> bool:
        with self.output_file.open("rb") as output:
            output.seek(self._output_start)
            for line in output:
                if line.startswith(b"{") and line.endswith(b"\n"):
                    self.ready = json.loads(line)
                    return True
        return False

    def _log_tail(self) -> str:
        lines = self.log_file.read_text(errors="replace").splitlines()[-8:] if self.log_file.exists() else []
        return f" Its log, {self.log_file}, ends:\n" + "\n".join(lines)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0
