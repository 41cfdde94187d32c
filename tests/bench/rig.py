"""What the measures on the sink stand on: the image, the NBD server, the sink, and jobs for the product and for the bare loop."""

import secrets
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType

from deltaferry.blocks.plan import Plan, encode_plan
from deltaferry.blocks.plane import ProcessDataPlane
from deltaferry.ports.access import BlobAccess, NbdAddress
from deltaferry.ports.data_plane import AppliedDisk, ApplyDisk, ApplyJob, DataProgress, SendDisk, SendJob, SentDisk
from lab.certificates import make_certificates
from lab.processes import ManagedProcess, ProcessSpec, Readiness, python_command
from tests.bench.bare_job import Area, BareDisk, BareJob
from tests.bench.image import Image
from tests.bench.sink_counters import Counts, read_counts

LATENCY_MS = 30
THREADS_PER_DISK = 8
PAGE_WRITERS = 16
"""A page blob takes 500 requests a second: with 30 ms each, 15 at a time."""
CYCLE = "1-00000000-0000-4000-8000-000000000000"
_REPLICATION = "bench"
_UNPACED = 1e12
_LONG = timedelta(hours=1)
_FIRST_KEY = 2000


@dataclass(frozen=True, slots=True)
class RigDisk:
    """A disk to carry: its plan for the product, and the same areas in the same cut for the bare loop."""

    key: int
    source: NbdAddress
    plan: Plan

    @property
    def blocks(self) -> tuple[tuple[Area, ...], ...]:
        """The plan's segments as the bare loop takes them."""
        return tuple(
            tuple((entry.extent.offset_bytes, entry.extent.length_bytes) for entry in self.plan.segment(number))
            for number in range(self.plan.segments)
        )


class Rig:
    """A sink and an NBD server in processes of their own, in a folder that is gone when they are."""

    def __init__(self, directory: Path, image: Image, *, latency_ms: float = LATENCY_MS) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="rig-", dir=directory))
        self.image = image
        certificates = make_certificates(directory / "certificates")
        self._ca_file = certificates.ca_file
        self._socket = self.directory / "nbd"
        self._key = secrets.token_bytes(32)
        self._sink = ManagedProcess(
            ProcessSpec(
                "sink",
                python_command(
                    *("-m", "tests.bench.sink", "--directory", str(self.directory), "--latency-ms", str(latency_ms)),
                    *("--certificate", str(certificates.certificate_file), "--key", str(certificates.key_file)),
                ),
                self.directory,
                {},
                Readiness.JSON_LINE,
                working_directory=_root(),
            )
        )
        self._nbd = ManagedProcess(
            ProcessSpec(
                "nbd",
                python_command("-m", "tests.bench.nbd_files", str(self._socket), str(image.path)),
                self.directory,
                {},
                Readiness.JSON_LINE,
                working_directory=_root(),
            )
        )
        self._runs = 0

    def __enter__(self) -> "Rig":
        try:
            self._sink.start()
            self._nbd.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._sink.stop()
        self._nbd.stop()
        shutil.rmtree(self.directory)

    def disks(self, plan: Plan, count: int = 1) -> tuple[RigDisk, ...]:
        """Return disks of a plan's size, each the image over and over."""
        source = NbdAddress(unix_path=str(self._socket), export=str(plan.capacity_bytes))
        return tuple(RigDisk(_FIRST_KEY + number, source, plan) for number in range(count))

    def counts(self) -> Counts:
        """Return what the sink counted so far."""
        return read_counts(self.directory / "counters")

    def forget_objects(self) -> None:
        """Delete what the sink kept."""
        for path in (self.directory / "objects").iterdir():
            path.unlink()

    def log(self, *, kept: bool) -> BlobAccess:
        """Return access to a log store of this run's own, whose objects are kept or thrown away."""
        self._runs += 1
        return self._access(f"{'kept' if kept else 'dropped'}/{self._runs}")

    def _access(self, path: str) -> BlobAccess:
        return BlobAccess(f"https://127.0.0.1:{self._sink.ready['port']}/{path}", "", str(self._ca_file))

    def send(self, plane: ProcessDataPlane, disks: Sequence[RigDisk], log: BlobAccess) -> tuple[SentDisk, ...]:
        """Carry out stage 1 by the product."""
        job = SendJob(
            replication_id=_REPLICATION,
            cycle_key=CYCLE,
            disks=tuple(
                SendDisk(disk.key, disk.plan.capacity_bytes, disk.source, encode_plan(disk.plan), 0, ()) for disk in disks
            ),
            log=log,
            data_key=self._key,
            stop_after=_LONG,
            stop_after_bytes=1 << 50,
        )
        return plane.send(job, ignore)

    def apply(
        self,
        plane: ProcessDataPlane,
        disks: Sequence[RigDisk],
        sent: Sequence[SentDisk],
        log: BlobAccess,
        *,
        pristine: bool = True,
    ) -> tuple[AppliedDisk, ...]:
        """Carry out stage 2 by the product; `pristine` as in an initial replication, without it as in a delta."""
        job = ApplyJob(
            replication_id=_REPLICATION,
            cycle_key=CYCLE,
            fence=1,
            disks=tuple(
                ApplyDisk(disk.key, disk.plan.capacity_bytes, f"seed-{disk.key}", done.segments, pristine)
                for disk, done in zip(disks, sent, strict=True)
            ),
            log=log,
            seed=self._access("seed"),
            data_key=self._key,
        )
        return plane.apply(job, ignore)

    def bare_send(self, disks: Sequence[RigDisk], log: BlobAccess, threads: int = THREADS_PER_DISK) -> BareJob:
        """Return stage 1 for the bare loop."""
        return BareJob(
            "send", tuple(BareDisk(disk.source, disk.blocks) for disk in disks), log, self._access("seed"), self._key, threads, 1
        )

    def bare_apply(self, objects: Sequence[tuple[str, ...]], log: BlobAccess, threads: int = THREADS_PER_DISK) -> BareJob:
        """Return stage 2 for the bare loop, of what a `bare_send` stored."""
        disks = tuple(BareDisk(None, (), f"seed-{number}", names) for number, names in enumerate(objects))
        return BareJob("apply", disks, log, self._access("seed"), self._key, threads, PAGE_WRITERS)


def unpaced_plane(threads_per_disk: int = THREADS_PER_DISK) -> ProcessDataPlane:
    """Return the product's data plane as a worker makes it, but for the pace of a page blob: the sink has none."""
    return ProcessDataPlane(threads_per_disk=threads_per_disk, page_blob_bytes_per_s=_UNPACED)


def ignore(_: DataProgress) -> None:
    """Take a progress report."""


def _root() -> Path:
    return Path(__file__).resolve().parents[2]
