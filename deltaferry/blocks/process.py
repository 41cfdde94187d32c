"""The data process: reads one task from standard input, carries it out, and reports on standard output.

Run as `python -m deltaferry.blocks.process`, by `plane.py` only. It dies with its worker: by the parent-death signal,
and by the end of its standard input, which the worker holds open. It logs nothing.
"""

import ctypes
import os
import signal
import sys
import threading
import traceback
from typing import BinaryIO

from deltaferry.blocks.allowance import Allowance
from deltaferry.blocks.apply import run_apply
from deltaferry.blocks.hashing import run_hash
from deltaferry.blocks.jobs import Failure, Frame, Outcome, Task, encode_frame, read_task
from deltaferry.blocks.killpoints import KillPoint, pass_point
from deltaferry.blocks.scrub import run_scrub
from deltaferry.blocks.send import run_send
from deltaferry.blocks.write_back import run_write
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.ports.data_plane import ApplyJob, DataProgress, SendJob
from deltaferry.ports.reverse_plane import HashJob, WriteJob

_PR_SET_PDEATHSIG = 1
_PARENT_GONE = 1


def _die_with_parent() -> None:
    """Ask the kernel for SIGKILL when the thread that started us ends (Linux; elsewhere the end of stdin has to do)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _watch_parent(stream: BinaryIO) -> None:
    """End the process at the end of standard input: nobody is left to read the outcome."""
    while stream.read(1):
        pass
    os._exit(_PARENT_GONE)


def _place(error: BaseException) -> str:
    """Return where an unexpected error came from, without its text, which could hold anything."""
    frames = traceback.extract_tb(error.__traceback__)
    return (
        f"{type(error).__name__} at {os.path.basename(frames[-1].filename)}:{frames[-1].lineno}"
        if frames
        else type(error).__name__
    )


def _carry_out(task: Task, out: BinaryIO) -> Frame:
    def report(progress: DataProgress) -> None:
        out.write(encode_frame(progress))
        out.flush()

    try:
        if isinstance(task.job, SendJob):
            allowance = Allowance.of(task.seat) if task.seat is not None else None
            return Outcome(run_send(task.job, task.settings, report, allowance))
        if isinstance(task.job, ApplyJob):
            return Outcome(run_apply(task.job, task.settings, report))
        if isinstance(task.job, HashJob):
            return Outcome(run_hash(task.job, task.settings, report))
        if isinstance(task.job, WriteJob):
            return Outcome(run_write(task.job, task.settings, report))
        return Outcome(run_scrub(task.job, task.settings, report))
    except DeltaferryError as error:
        return Failure.of(error)
    except Exception as error:
        return Failure(ErrorKind.INTERNAL, _place(error), None, None)


def main() -> None:
    """Do one task."""
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the worker decides
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    stream = sys.stdin.buffer
    try:
        task = read_task(stream)
    except EOFError:
        os._exit(_PARENT_GONE)
    threading.Thread(target=_watch_parent, args=(stream,), daemon=True).start()
    frame = _carry_out(task, out)
    pass_point(KillPoint.BEFORE_OUTCOME)
    out.write(encode_frame(frame))
    out.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
