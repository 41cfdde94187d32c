"""Recovery points: records in the gateway store, snapshots of the seeds' page blobs, and what keeps the two from parting.

A point is what has a record whose disks' snapshots are all there with its cycle key and fence number. The record is written
when all snapshots exist, and taken away before the first is deleted; until the last one is, it stands among the condemned, so that
whoever comes next can finish, or give it back to a pin that came in between. No order of deaths lists half a point.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from deltaferry.azure.point_copies import PointCopies
from deltaferry.azure.point_sizes import stored_bytes
from deltaferry.azure.point_snapshots import list_snapshots, read_snapshot
from deltaferry.azure.seeds import PageBlobSeeds
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.naming import (
    CONDEMNED_PREFIX,
    PINS_PREFIX,
    POINTS_PREFIX,
    condemned_name,
    copies_prefix,
    gateway_container,
    pin_name,
    pin_prefix,
    point_name,
    seed_container,
    seed_name,
)
from deltaferry.model.point_record import DamagedPointError, decode_pin, decode_point, encode_pin, encode_point
from deltaferry.model.recovery_points import Pin, PointCopy, RecoveryPointRecord
from deltaferry.model.replication import ReplicationRef
from deltaferry.ports.access import Beat
from deltaferry.ports.data_plane import DataProgress
from deltaferry.ports.recovery import PointListing, PrunedPoints
from deltaferry.ports.stores import ObjectStore

_READERS = 8

Records = list[RecoveryPointRecord]


class BlobRecoveryPoints:
    """`RecoveryPoints` on a target's seed account and gateway store. `poll_s` is the time between two looks at copies."""

    def __init__(self, seeds: PageBlobSeeds, gateway: ObjectStore, *, poll_s: float = 1.0) -> None:
        self._seeds = seeds
        self._gateway = gateway
        self._copies = PointCopies(seeds, poll_s=poll_s)
        self._read: dict[tuple[str, str], RecoveryPointRecord | None] = {}
        """By key and ETag: what a record was found to be, None for a damaged one. It is written once."""

    # --- records

    def write(self, replication: ReplicationRef, record: RecoveryPointRecord) -> None:
        """Make a point exist, once; no-op if it does. Raises SEED_MISSING unless each of its snapshots is as the record says."""
        for disk in record.disks:
            found = read_snapshot(self._seeds, seed_container(replication), disk)
            if found is None or not found.belongs_to(record, disk):
                raise DeltaferryError(
                    ErrorKind.SEED_MISSING,
                    f"disk {disk.disk_key} has no snapshot {disk.snapshot} of cycle {record.cycle_key} and number {record.fence}",
                )
        self._gateway.put_new(_key(replication, point_name(record.cycle_key)), encode_point(record))

    def list(self, replication: ReplicationRef) -> PointListing:
        """Return the points, oldest first; none for a replication without containers."""
        records, damaged = self._records(replication)
        if not records:
            return PointListing((), (), tuple(damaged))
        found = {(mark.disk_key, mark.snapshot): mark for mark in list_snapshots(self._seeds, seed_container(replication))}

        def is_whole(point: RecoveryPointRecord) -> bool:
            marks = [(found.get((disk.disk_key, disk.snapshot)), disk) for disk in point.disks]
            return all(mark is not None and mark.belongs_to(point, disk) for mark, disk in marks)

        whole = [record for record in records if is_whole(record)]
        incomplete = sorted({record.cycle_key for record in records} - {record.cycle_key for record in whole})
        return PointListing(
            tuple(sorted(whole, key=lambda record: (record.fence, record.cycle_key))), tuple(incomplete), tuple(damaged)
        )

    def _records(self, replication: ReplicationRef) -> "tuple[Records, Sequence[str]]":
        """Return the records that can be read, and the cycle keys of those that cannot. Only new ones are fetched."""
        container = gateway_container(replication)
        entries = [(f"{container}/{name}", etag) for name, etag in self._names(container, POINTS_PREFIX)]

        def read(entry: tuple[str, str]) -> None:
            data = self._gateway.get_if_exists(entry[0])
            if data is not None:
                self._read[entry] = _decoded(data, _cycle_key(entry[0]))

        with ThreadPoolExecutor(_READERS, thread_name_prefix="points") as pool:
            for _ in pool.map(read, [entry for entry in entries if entry not in self._read]):
                continue
        known = {entry: self._read[entry] for entry in entries if entry in self._read}  # the others were deleted meanwhile
        self._forget(known, f"{container}/")
        damaged = [_cycle_key(entry[0]) for entry, record in known.items() if record is None]
        return [record for record in known.values() if record is not None], damaged

    def _names(self, container: str, prefix: str) -> Iterator[tuple[str, str]]:
        """Yield name and ETag of each object below a prefix; none for a missing container."""
        try:
            yield from ((item.name, item.etag) for item in self._gateway.list(container, prefix))
        except DeltaferryError as error:
            if error.kind is not ErrorKind.STORE_OBJECT_MISSING:
                raise

    def _forget(self, listed: Collection[tuple[str, str]], container: str) -> None:
        """Drop what is remembered of records that are gone; copied first, as other threads remember theirs meanwhile."""
        for entry in tuple(self._read):
            if entry[0].startswith(container) and entry not in listed:
                self._read.pop(entry, None)

    # --- pins

    def pins(self, replication: ReplicationRef) -> tuple[Pin, ...]:
        """Return all pins, by cycle key and holder."""
        container, found = gateway_container(replication), []
        for name, _ in self._names(container, PINS_PREFIX):
            cycle_key, _, holder = name.removeprefix(PINS_PREFIX).partition("/")
            data = self._gateway.get_if_exists(f"{container}/{name}")
            found += [decode_pin(data, cycle_key, holder)] if data is not None else []
        return tuple(found)

    def pin(self, replication: ReplicationRef, pin: Pin) -> None:
        """Keep a point from being pruned; no-op if this holder does already. Raises OPERATION_REFUSED if there is no such point.

        The pin is written first and the record looked for afterwards, and pruning does it the other way round: so one of
        them sees the other, whichever is quicker.
        """
        name = pin_name(pin.cycle_key, pin.holder)
        self._gateway.put_new(_key(replication, name), encode_pin(pin))
        if self._gateway.get_if_exists(_key(replication, point_name(pin.cycle_key))) is None:
            self._gateway.delete_objects(gateway_container(replication), [name])
            raise _no_such_point(pin.cycle_key)

    def unpin(self, replication: ReplicationRef, holder: str, cycle_key: str | None = None) -> None:
        """Take back a holder's pin on a point, or all its pins; no-op for what is gone."""
        held = [pin for pin in self.pins(replication) if pin.holder == holder and cycle_key in (None, pin.cycle_key)]
        self._gateway.delete_objects(gateway_container(replication), [pin_name(pin.cycle_key, holder) for pin in held])

    def _is_pinned(self, replication: ReplicationRef, cycle_key: str) -> bool:
        return any(True for _ in self._names(gateway_container(replication), pin_prefix(cycle_key)))

    # --- pruning

    def prune(self, replication: ReplicationRef, cycle_keys: Sequence[str], beat: Beat) -> PrunedPoints:
        """Delete points, and what earlier prunings did not finish. Pinned points stay. What is gone already is not counted."""
        self._finish_earlier(replication, beat)
        container = gateway_container(replication)
        gone: dict[str, bool] = {}
        for cycle_key in cycle_keys:
            beat()
            data = self._gateway.get_if_exists(_key(replication, point_name(cycle_key)))
            if data is None:
                continue
            if self._is_pinned(replication, cycle_key):
                gone[cycle_key] = False
                continue
            self._gateway.put(_key(replication, condemned_name(cycle_key)), data)
            self._gateway.delete_objects(container, [point_name(cycle_key)])
            gone[cycle_key] = self._finish(replication, cycle_key, data, beat)
        return PrunedPoints(
            tuple(key for key, is_gone in gone.items() if is_gone), tuple(key for key, is_gone in gone.items() if not is_gone)
        )

    def _finish_earlier(self, replication: ReplicationRef, beat: Beat) -> None:
        container = gateway_container(replication)
        for name, _ in tuple(self._names(container, CONDEMNED_PREFIX)):
            beat()
            cycle_key = name.removeprefix(CONDEMNED_PREFIX)
            data = self._gateway.get_if_exists(f"{container}/{name}")
            listed = self._gateway.get_if_exists(_key(replication, point_name(cycle_key))) is not None
            if listed:  # it was condemned no further than that: whoever prunes decides anew
                self._gateway.delete_objects(container, [name])
            elif data is not None:
                self._finish(replication, cycle_key, data, beat)

    def _finish(self, replication: ReplicationRef, cycle_key: str, data: bytes, beat: Beat) -> bool:
        """Delete the snapshots of a condemned point, or give its record back to a pin; return whether it is gone."""
        container = gateway_container(replication)
        is_pinned = self._is_pinned(replication, cycle_key)
        if is_pinned:
            self._gateway.put_new(_key(replication, point_name(cycle_key)), data)
        else:
            record = _decoded(data, cycle_key)  # what cannot be read leaves snapshots of no point: `sweep` deletes those
            for disk in record.disks if record is not None else ():
                beat()
                self._seeds.delete_snapshot(seed_container(replication), seed_name(disk.disk_key), disk.snapshot)
        self._gateway.delete_objects(container, [condemned_name(cycle_key)])
        return not is_pinned

    def sweep(self, replication: ReplicationRef, below: int, beat: Beat) -> int:
        """Delete snapshots of ours with a number below `below` that belong to no point; return how many.

        They come from cycles that took them and failed or died before their commit. A damaged record still protects its
        point's, as its name says the cycle; a snapshot without our metadata is somebody else's.
        """
        container = gateway_container(replication)
        kept = {
            name.removeprefix(prefix)
            for prefix in (POINTS_PREFIX, CONDEMNED_PREFIX)
            for name, _ in self._names(container, prefix)
        }
        orphans = 0
        for found in list_snapshots(self._seeds, seed_container(replication)):
            if found.cycle_key not in kept and found.number < below:
                beat()
                self._seeds.delete_snapshot(seed_container(replication), seed_name(found.disk_key), found.snapshot)
                orphans += 1
        return orphans

    # --- sizes and copies

    def stored_bytes(
        self, replication: ReplicationRef, point: RecoveryPointRecord, previous: RecoveryPointRecord | None
    ) -> int | None:
        """Return how many bytes of pages a point holds that the previous one does not; None where counting them is not cheap."""
        return stored_bytes(self._seeds, seed_container(replication), point, previous)

    def copy(
        self, replication: ReplicationRef, point: RecoveryPointRecord, job: str, progress: Callable[[DataProgress], None]
    ) -> tuple[PointCopy, ...]:
        """Copy each disk of a point to a page blob of its own, with the VHD footer, inside the storage service."""
        return self._copies.copy(seed_container(replication), point, job, progress)

    def delete_copies(self, replication: ReplicationRef, job: str, beat: Beat) -> int:
        """Abort and delete all copies that a job made; return how many there were."""
        return self._copies.delete(seed_container(replication), copies_prefix(job), beat)


def _key(replication: ReplicationRef, name: str) -> str:
    return f"{gateway_container(replication)}/{name}"


def _decoded(data: bytes, cycle_key: str) -> RecoveryPointRecord | None:
    """Return a record, or None for a damaged one."""
    try:
        return decode_point(data, cycle_key)
    except DamagedPointError:
        return None


def _cycle_key(key: str) -> str:
    """Return the cycle key in a record's key, `<container>/points/<cycle key>`."""
    return key.partition("/")[2].removeprefix(POINTS_PREFIX)


def _no_such_point(cycle_key: str) -> DeltaferryError:
    return DeltaferryError(
        ErrorKind.OPERATION_REFUSED,
        f"There is no recovery point of cycle {cycle_key}: it was pruned. List the points, and choose another.",
    )
