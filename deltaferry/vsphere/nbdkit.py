"""One nbdkit process: started with a secret on a file descriptor, waited for until it serves, stopped by SIGTERM."""

import logging
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from deltaferry.model.errors import DeltaferryError, ErrorKind

_log = logging.getLogger(__name__)

_READY_S = 60.0
_STOP_S = 30.0
_POLL_S = 0.02
_LOG_TAIL = 600
_SOCKET_PATH_MAX = 107
"""Linux' limit of a Unix socket's path, less its end."""


@contextmanager
def serving(
    program: str,
    folder: Path,
    what: str,
    password: str,
    plugin: Callable[[str], tuple[str, ...]],
    *,
    writable: bool = False,
) -> Iterator[Path]:
    """Run nbdkit, read-only unless `writable`, on a Unix socket in `folder` until the context ends, and give the socket's path.

    `plugin` makes the plugin's name and parameters of the password parameter's value, `-<descriptor>`: the password
    itself is in no argument and no environment. `--exit-with-parent` ends nbdkit with the thread that entered here,
    however that ends. Raises BAD_CONFIGURATION if the program cannot run, DISK_READ_FAILED if it does not come to serve.
    """
    path, log = folder / "socket", folder / "log"
    if len(os.fsencode(path)) > _SOCKET_PATH_MAX:
        raise DeltaferryError(ErrorKind.BAD_CONFIGURATION, f"the work directory {folder} is too long for a Unix socket's path")
    process = _start(program, path, log, password, plugin, writable)
    try:
        _wait_until_ready(process, path, log, what)
        yield path
    finally:
        _stop(process)


def _start(
    program: str, path: Path, log: Path, password: str, plugin: Callable[[str], tuple[str, ...]], writable: bool
) -> subprocess.Popen[bytes]:
    read_end, write_end = os.pipe()
    try:
        with os.fdopen(write_end, "wb") as pipe:
            pipe.write(password.encode())
        mode = () if writable else ("--readonly",)
        command = (program, "--exit-with-parent", *mode, "--foreground", "--unix", str(path), *plugin(f"-{read_end}"))
        with log.open("wb") as output:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=(read_end,))
    except OSError as error:
        raise DeltaferryError(ErrorKind.BAD_CONFIGURATION, f"{program} cannot be started: {error.strerror}") from error
    finally:
        os.close(read_end)


def _wait_until_ready(process: subprocess.Popen[bytes], path: Path, log: Path, what: str) -> None:
    until = time.monotonic() + _READY_S
    while not _accepts(path):
        if process.poll() is not None:
            raise DeltaferryError(
                ErrorKind.DISK_READ_FAILED, f"nbdkit ended with status {process.returncode} before it served {what}: {_tail(log)}"
            )
        if time.monotonic() > until:
            raise DeltaferryError(
                ErrorKind.DISK_READ_FAILED, f"nbdkit did not serve {what} within {_READY_S:.0f} s: {_tail(log)}"
            )
        time.sleep(_POLL_S)


def _accepts(path: Path) -> bool:
    if not path.exists():
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def _tail(log: Path) -> str:
    """Return the end of what nbdkit wrote. It holds no secret: the password came by descriptor and is never printed."""
    return log.read_bytes()[-_LOG_TAIL:].decode(errors="replace").strip() or "it wrote nothing"


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        _log.warning("nbdkit (pid %d) did not end %d s after SIGTERM and is killed", process.pid, _STOP_S)
        process.kill()
        process.wait()
