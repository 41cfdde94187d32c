"""What passes between a worker and its data process, and the settings of one.

Both ends are the same code of the same installation, joined by pipes that nobody else can reach: frames are pickled.
"""

import pickle
import struct
from dataclasses import dataclass, field
from datetime import timedelta
from typing import BinaryIO

from deltaferry.blocks.blob_http import HttpLimits
from deltaferry.blocks.budget_rows import Seat
from deltaferry.blocks.nbd import DEFAULT_TIMEOUT_S
from deltaferry.blocks.pacing import DEFAULT_BYTES_PER_S
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.ports.data_plane import AppliedDisk, ApplyJob, CheckJob, CompareJob, DataProgress, ScrubbedDisk, SendJob, SentDisk
from deltaferry.ports.reverse_plane import HashedDisk, HashJob, WriteJob, WrittenDisk

_LENGTH = struct.Struct(">Q")


@dataclass(frozen=True, slots=True)
class Settings:
    """How a data process works. Memory is about 13 MiB for each segment that buffers are in use for."""

    threads_per_disk: int = 8
    """For how many segments of one disk buffers are in use at a time."""
    threads: int = 16
    """The same for all disks of a job together."""
    page_blob_bytes_per_s: float = DEFAULT_BYTES_PER_S
    nbd_timeout_s: float = DEFAULT_TIMEOUT_S
    http: HttpLimits = field(default_factory=HttpLimits)


@dataclass(frozen=True, slots=True)
class Task:
    """The one frame that a data process reads. It holds the secrets: its repr does not."""

    job: SendJob | ApplyJob | CompareJob | CheckJob | HashJob | WriteJob = field(repr=False)
    settings: Settings
    seat: Seat | None = None
    """The place in the appliance's budget of what the job sends; None where nothing ever limits it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The last frame of a data process that did its job."""

    disks: (
        tuple[SentDisk, ...]
        | tuple[AppliedDisk, ...]
        | tuple[ScrubbedDisk, ...]
        | tuple[HashedDisk, ...]
        | tuple[WrittenDisk, ...]
    )


@dataclass(frozen=True, slots=True)
class Failure:
    """The last frame of a data process that could not."""

    kind: ErrorKind
    detail: str
    retry_after: timedelta | None
    number: int | None

    @classmethod
    def of(cls, error: DeltaferryError) -> "Failure":
        """Return the frame for an error."""
        return cls(error.kind, error.detail, error.retry_after, error.number)

    def error(self) -> DeltaferryError:
        """Return the error again."""
        return DeltaferryError(self.kind, self.detail, retry_after=self.retry_after, number=self.number)


Frame = Task | DataProgress | Outcome | Failure


def encode_frame(frame: Frame) -> bytes:
    """Return a frame with its length before it."""
    body = pickle.dumps(frame, protocol=pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(body)) + body


def read_task(stream: BinaryIO) -> Task:
    """Return the task from a data process's standard input. Raises EOFError if the worker went away."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    length = _LENGTH.unpack(head)[0]
    body = stream.read(length)
    if len(body) < length:
        raise EOFError
    task = pickle.loads(body)
    if not isinstance(task, Task):
        raise TypeError(f"a data process reads a task, not {type(task).__name__}")
    return task


class FrameBuffer:
    """Cuts what arrives from a data process into frames."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """Take more bytes; return the frames that are now complete."""
        self._bytes += data
        frames: list[Frame] = []
        while len(self._bytes) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(self._bytes)[0]
            if len(self._bytes) < end:
                break
            frames.append(pickle.loads(bytes(self._bytes[_LENGTH.size : end])))
            del self._bytes[:end]
        return frames
