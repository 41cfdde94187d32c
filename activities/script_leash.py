"""Stands between a worker and a program that it runs for a recovery plan, as a process of its own: neither outlives the worker.

It is run by its path, with the program's path as argument, and needs nothing but the standard library. When its standard
input ends, because the worker closed it or is gone, it ends the program's whole process group.
"""

import os
import select
import signal
import subprocess
import sys
import time

GRACE_S = 5.0
"""From SIGTERM to SIGKILL."""
CANNOT_START = 126
"""The exit code, as shells have it, of a program that cannot be started."""

_LOOK_S = 0.1


def main(path: str) -> int:
    """Run a program; return its exit code, or 128 and the signal's number, as shells do."""
    try:
        program = subprocess.Popen([path], stdin=subprocess.DEVNULL, cwd="/", start_new_session=True)
    except OSError as error:
        sys.stdout.write(f"{path} cannot be started: {error.strerror}\n")
        return CANNOT_START
    while program.poll() is None:
        if select.select([0], [], [], _LOOK_S)[0] and not os.read(0, 1):
            _end(program)
    code: int = program.returncode
    return 128 - code if code < 0 else code


def _end(program: "subprocess.Popen[bytes]") -> None:
    _signal(program, signal.SIGTERM)
    until = time.monotonic() + GRACE_S
    while program.poll() is None and time.monotonic() < until:
        time.sleep(_LOOK_S / 2)
    _signal(program, signal.SIGKILL)
    program.wait()


def _signal(program: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    try:
        os.killpg(program.pid, number)
    except ProcessLookupError:
        return  # nobody of the group is left


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
