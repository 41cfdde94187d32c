"""The throttle: how near to the limit several transfers stay together, and how they share it.

Three transfers, each in its data process, over one budget, as in a source worker: NBD from the page cache, HTTPS to a meter that
notes when bytes arrive. A window's deviation is how far what arrived in it is from what the limit allows in that time.
"""

import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from types import TracebackType

from deltaferry.blocks.plan import encode_plan
from deltaferry.blocks.plane import ProcessDataPlane
from deltaferry.blocks.throttle import DEFAULT_PRE_FAILOVER_WEIGHT, Budget
from deltaferry.ports.access import BlobAccess, NbdAddress
from deltaferry.ports.data_plane import DataProgress, SendDisk, SendJob
from lab.certificates import make_certificates
from lab.processes import ManagedProcess, ProcessSpec, Readiness, python_command
from tests.bench.image import GIB, make_image
from tests.bench.meter import Arrivals
from tests.bench.report import Bench, Measure
from tests.bench.stages import whole_plan

_TRANSFERS = 3
_MBIT_BYTES = 125_000
_BAR = 0.10
_EFFECT_BAR_S = 1.0
_EFFECT_WINDOW_S = 1.0
_DISK_BYTES = 64 * GIB
"""More than can be sent in any run; the image comes over and over."""
_LONG = timedelta(hours=1)

Step = tuple[float, float]
"""(seconds after the begin, limit in bytes per second from then on)"""


class _Cut(Exception):
    """The run has lasted long enough."""


def measure_throttle(bench: Bench) -> Iterator[Measure]:
    """Measure two rates, a change of the rate under way, and the share of a pre-failover cycle."""
    for megabits in (10, 100):
        steps: list[Step] = [(0, megabits * _MBIT_BYTES)]
        with _Road(bench) as road:
            begin_s, steps, arrivals = road.drive(steps, bench.throttle_s)
        yield _deviation(f"throttle_{megabits}_mbit", arrivals, steps, begin_s, bench.throttle_s)
    yield from _changes(bench)
    yield from _share(bench)


def _changes(bench: Bench) -> Iterator[Measure]:
    third_s = bench.throttle_s / 3
    steps: list[Step] = [(0, 20 * _MBIT_BYTES), (third_s, 100 * _MBIT_BYTES), (2 * third_s, 20 * _MBIT_BYTES)]
    with _Road(bench) as road:
        begin_s, steps, arrivals = road.drive(steps, bench.throttle_s)
    yield _deviation("throttle_change", arrivals, steps, begin_s, bench.throttle_s)
    effect_s = max(
        _effect_s(arrivals.between(begin_s + at_s, begin_s + at_s + third_s), limit, min(third_s / 3, _EFFECT_WINDOW_S))
        for at_s, limit in steps[1:]
    )
    yield Measure(
        *("throttle_effect", effect_s, "s", _EFFECT_BAR_S, False, 0.0),
        f"the longer of two: from a change to the first {min(third_s / 3, _EFFECT_WINDOW_S):.1f} s in which the new rate was held "
        f"within {_BAR:.0%}",
    )


def _share(bench: Bench) -> Iterator[Measure]:
    with _Road(bench, urgent=1) as road:
        *_, arrivals = road.drive([(0, 20 * _MBIT_BYTES)], bench.throttle_s / 2)
    sent = [counts[-1][1] - counts[0][1] for counts in (arrivals.arrived(str(number)) for number in range(_TRANSFERS))]
    fair = DEFAULT_PRE_FAILOVER_WEIGHT / (DEFAULT_PRE_FAILOVER_WEIGHT + _TRANSFERS - 1)
    share = sent[0] / sum(sent)
    yield Measure(
        *("throttle_pre_failover_share", share, "", 0.9 * fair, True, fair),
        f"of a pre-failover cycle among {_TRANSFERS} transfers at 20 Mbit/s, of what arrived; baseline: by its weight of "
        f"{DEFAULT_PRE_FAILOVER_WEIGHT}; the others {', '.join(f'{part / sum(sent):.3f}' for part in sent[1:])}",
    )


class _Road:
    """A meter, an NBD server, and transfers between them."""

    def __init__(self, bench: Bench, *, urgent: int = 0) -> None:
        self._urgent = urgent
        image = make_image(bench.directory, bench.image_bytes)
        certificates = make_certificates(bench.directory / "certificates")
        self._ca_file = certificates.ca_file
        self._directory = Path(tempfile.mkdtemp(prefix="throttle-", dir=bench.directory))
        self._notes = self._directory / "notes"
        self._socket = self._directory / "nbd"
        self._meter = _server(
            self._directory,
            *("tests.bench.meter", "--notes", str(self._notes)),
            *("--certificate", str(certificates.certificate_file), "--key", str(certificates.key_file)),
        )
        self._nbd = _server(self._directory, "tests.bench.nbd_files", str(self._socket), str(image.path))
        self._budget = Budget()
        self._cut = threading.Event()

    def __enter__(self) -> "_Road":
        self._meter.start()
        self._nbd.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._meter.stop()
        self._nbd.stop()
        self._budget.close()
        shutil.rmtree(self._directory)

    def drive(self, steps: Sequence[Step], length_s: float) -> tuple[float, list[Step], Arrivals]:
        """Let the transfers run with these limits.

        Return when all of them were under way, when each limit was set indeed, which may be later where processors are short,
        and what arrived from then on.
        """
        self._budget.set_limit(steps[0][1])
        plane = ProcessDataPlane(budget=self._budget)
        transfers = [threading.Thread(target=self._transfer, args=(plane, number)) for number in range(_TRANSFERS)]
        for transfer in transfers:
            transfer.start()
        try:
            while self._under_way() < _TRANSFERS:
                time.sleep(0.05)
            begin_s = time.monotonic()
            done = [steps[0]]
            for after_s, limit in steps[1:]:
                time.sleep(max(0.0, begin_s + after_s - time.monotonic()))
                done.append((time.monotonic() - begin_s, limit))
                self._budget.set_limit(limit)
            time.sleep(max(0.0, begin_s + length_s - time.monotonic()))
        finally:
            self._cut.set()
            for transfer in transfers:
                transfer.join()
        return begin_s, done, Arrivals.read(self._notes).between(begin_s, begin_s + length_s)

    def _under_way(self) -> int:
        """Return of how many transfers something has arrived."""
        notes = Arrivals.read(self._notes).notes
        return len(notes[-1][1]) if notes else 0

    def _transfer(self, plane: ProcessDataPlane, number: int) -> None:
        plan = whole_plan(_DISK_BYTES)
        source = NbdAddress(unix_path=str(self._socket), export=str(_DISK_BYTES))
        job = SendJob(
            replication_id=f"bench-{number}",
            cycle_key="1-00000000-0000-4000-8000-000000000000",
            disks=(SendDisk(2000, _DISK_BYTES, source, encode_plan(plan), 0, ()),),
            log=BlobAccess(f"https://127.0.0.1:{self._meter.ready['port']}/{number}", "", str(self._ca_file)),
            data_key=secrets.token_bytes(32),
            stop_after=_LONG,
            stop_after_bytes=_DISK_BYTES,
            urgent=number < self._urgent,
        )
        try:
            plane.send(job, self._stop_when_cut)
        except _Cut:
            return

    def _stop_when_cut(self, _: DataProgress) -> None:
        if self._cut.is_set():
            raise _Cut


def _deviations(arrivals: Arrivals, window_s: float, steps: Sequence[Step], begin_s: float) -> tuple[float, float]:
    """Return the lowest and the highest relative deviation of any window from what the limit allows in it."""
    arrived = arrivals.arrived()
    allowed = [0.0]
    for (before_s, _), (after_s, _) in pairwise(arrived):
        allowed.append(allowed[-1] + _limit_at(steps, before_s - begin_s) * (after_s - before_s))
    found, first = [], 0
    for last, (at_s, total) in enumerate(arrived):
        while first + 1 < last and at_s - arrived[first + 1][0] >= window_s:
            first += 1
        if at_s - arrived[first][0] >= window_s:
            found.append((total - arrived[first][1]) / (allowed[last] - allowed[first]) - 1)
    return min(found), max(found)


def _effect_s(after_change: Arrivals, limit: float, window_s: float) -> float:
    """Return how long after a change the first window begins in which the new limit is held; all the time if none is."""
    arrived = after_change.arrived()
    last = 0
    for at_s, total in arrived:
        while last < len(arrived) and arrived[last][0] < at_s + window_s:
            last += 1
        if last == len(arrived):
            break
        end_s, end_total = arrived[last]
        if abs((end_total - total) / (limit * (end_s - at_s)) - 1) <= _BAR:
            return at_s - arrived[0][0]
    return arrived[-1][0] - arrived[0][0]


def _limit_at(steps: Sequence[Step], after_s: float) -> float:
    return next(limit for from_s, limit in reversed(steps) if after_s >= from_s or from_s == 0)


def _deviation(name: str, arrivals: Arrivals, steps: Sequence[Step], begin_s: float, length_s: float) -> Measure:
    lowest, highest = _deviations(arrivals, length_s / 3, steps, begin_s)
    rates = ", then ".join(f"{limit / _MBIT_BYTES:.0f}" for _, limit in steps)
    return Measure(
        *(name, max(-lowest, highest), "", _BAR, False, 0.0),
        f"worst deviation from the limit in any {length_s / 3:.0f} s of {length_s:.0f}: {_TRANSFERS} transfers, {rates} Mbit/s, HTTPS; "
        f"from {lowest:+.1%} to {highest:+.1%}",
    )


def _server(directory: Path, module: str, *arguments: str) -> ManagedProcess:
    return ManagedProcess(
        ProcessSpec(
            module.rpartition(".")[2],
            python_command("-m", module, *arguments),
            directory,
            {},
            Readiness.JSON_LINE,
            working_directory=Path(__file__).resolve().parents[2],
        )
    )
