"""`python leash.py PARENT_PID COMMAND…`: become COMMAND, but die at once when the process that started it dies.

Linux's parent-death signal survives exec, so that also programs that know nothing of the lab (the Temporal server,
Node) leave nothing running after a crash of their parent. It is set here, and not between fork and exec in the
parent, because code that runs there may deadlock in a parent with threads.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def tie_to_parent(parent: int) -> None:
    """Ask the kernel for SIGKILL when the thread that started this process ends; end now if it already has."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        raise SystemExit("The parent process is already gone.")


def main() -> None:
    """Tie this process to its parent and become the command."""
    tie_to_parent(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
