"""Recovery points: recorded after a commit, listed, pinned, pruned, and copied for a test migration or failover."""

import re
from collections.abc import Mapping

from pydantic import TypeAdapter
from temporalio import activity

from activities.adapters import Target
from activities.failures import translated
from activities.progress import Heartbeats
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.naming import POINT_LIST, checksum_map_prefix, disk_of_seed, gateway_container, seed_container
from deltaferry.model.recovery_points import Pin, PointKind, RecoveryPointRecord
from deltaferry.model.replication import ReplicationRef
from deltaferry.planning.retention import Choice, PointChoice, all_but, choose, expired
from deltaferry.ports.access import Beat
from deltaferry.ports.recovery import PointListing
from workflows.messages.dr import (
    CopiedPoint,
    CopyPointInput,
    DeleteCopiesInput,
    DeletedCopies,
    ListPointsInput,
    PinnedPoint,
    PinPointInput,
    PrunedResult,
    PrunePointsInput,
    UnpinPointInput,
)
from workflows.messages.point_views import NEWEST, PointBook, PointList, PointView
from workflows.messages.replication_state import Replication

POINT_BOOK_ADAPTER = TypeAdapter(PointBook)
"""How a listing's object is written and read."""

_JOB = re.compile(r"[a-z0-9-]{1,60}")


class RecoveryPointSteps:
    """Works on the recovery points of the targets' replications."""

    def __init__(self, targets: Mapping[str, Target]) -> None:
        self._targets = targets

    @activity.defn
    @translated
    def list_points(self, request: ListPointsInput) -> PointList:
        """List the points: all of them into the gateway store, the newest few into the answer."""
        beats = Heartbeats("listing the recovery points")
        ref = request.replication.ref
        target = self._targets[ref.target]
        return _listed(target, request, target.points.list(ref), beats.beat)

    @activity.defn
    @translated
    def prune_points(self, request: PrunePointsInput) -> PrunedResult:
        """Delete what the retention, or a failover's commit, no longer keeps; pinned points stay. Then list what there is.

        Raises OPERATION_REFUSED if the one point to keep is none: then nothing is deleted.
        """
        beats = Heartbeats("pruning recovery points")
        return pruned(self._targets[request.replication.ref.target], request, beats.beat)

    @activity.defn
    @translated
    def pin_point(self, request: PinPointInput) -> PinnedPoint:
        """Choose a point and pin it. Raises OPERATION_REFUSED, with a sentence, if there is none."""
        ref = request.replication.ref
        points = self._targets[ref.target].points
        found = choose(points.list(ref).points, request.choice)
        if isinstance(found, str):
            raise DeltaferryError(ErrorKind.OPERATION_REFUSED, found)
        points.pin(ref, Pin(found.cycle_key, request.holder, request.now, request.reason))
        return PinnedPoint(found)

    @activity.defn
    @translated
    def unpin_point(self, request: UnpinPointInput) -> None:
        """Take back a holder's pin on a point, or all its pins; no-op for what is gone."""
        ref = request.replication.ref
        self._targets[ref.target].points.unpin(ref, request.holder, request.cycle_key or None)

    @activity.defn
    @translated
    def copy_point(self, request: CopyPointInput) -> CopiedPoint:
        """Copy a pinned point's disks inside the storage service, and wait until all copies are whole.

        Raises OPERATION_REFUSED if the point is gone or not pinned by the holder, so that it could go at any moment.
        """
        beats = Heartbeats("copying the recovery point's disks")
        if not _JOB.fullmatch(request.job):
            raise DeltaferryError(ErrorKind.BAD_INPUT, f"{request.job!r} names no job: write 1 to 60 of [a-z0-9-].")
        ref = request.replication.ref
        points = self._targets[ref.target].points
        if (request.cycle_key, request.holder) not in {(pin.cycle_key, pin.holder) for pin in points.pins(ref)}:
            raise DeltaferryError(
                ErrorKind.OPERATION_REFUSED,
                f"{request.holder} has not pinned the recovery point of cycle {request.cycle_key}: pin it before it is copied.",
            )
        point = _require(request.cycle_key, points.list(ref))
        return CopiedPoint(point, points.copy(ref, point, request.job, beats.progress))

    @activity.defn
    @translated
    def delete_copies(self, request: DeleteCopiesInput) -> DeletedCopies:
        """Abort and delete what a job has copied; no-op for what is gone."""
        beats = Heartbeats("deleting copies of a recovery point")
        ref = request.replication.ref
        return DeletedCopies(self._targets[ref.target].points.delete_copies(ref, request.job, beats.beat))


def pruned(target: Target, request: PrunePointsInput, beat: Beat) -> PrunedResult:
    """Delete the points that are due, and what belongs to none; return how many, and what there is now.

    Raises OPERATION_REFUSED if the one point to keep is none: then nothing is deleted.
    """
    ref, points = request.replication.ref, target.points
    before = points.list(ref)
    held = {*request.in_use, *(pin.cycle_key for pin in points.pins(ref))}
    if request.keep_only:
        _require(request.keep_only, before)
        due = all_but(before.points, request.keep_only, held)
    else:
        due = expired(before.points, request.retention, request.now, held)
    done = points.prune(ref, due, beat)
    orphans = points.sweep(ref, request.committed_fence, beat)
    after = points.list(ref)
    _forget_removed_disks(target, request.replication, after, beat)
    listed = _listed(target, ListPointsInput(request.replication, request.now), after, beat)
    return PrunedResult(len(done.pruned), orphans, listed)


def _listed(target: Target, request: ListPointsInput, listing: PointListing, beat: Beat) -> PointList:
    """Write the book of all points, and return its summary."""
    ref = request.replication.ref
    holders: dict[str, list[str]] = {}
    for pin in target.points.pins(ref):
        holders.setdefault(pin.cycle_key, []).append(pin.holder)
    sizes = _sizes(target, ref, listing, beat) if request.with_sizes else {}
    views = tuple(
        _view(point, sizes.get(point.cycle_key), tuple(sorted(holders.get(point.cycle_key, ())))) for point in listing.points
    )
    book = PointBook(request.now, views, listing.incomplete, listing.damaged)
    stored = target.stores.gateway.put(f"{gateway_container(ref)}/{POINT_LIST}", POINT_BOOK_ADAPTER.dump_json(book))
    app_consistent = [view for view in views if view.kind is PointKind.APP_CONSISTENT]
    return PointList(
        book=stored,
        total=len(views),
        app_consistent=len(app_consistent),
        pinned=sum(bool(view.pinned_by) for view in views),
        newest=tuple(reversed(views[-NEWEST:])),
        latest_app_consistent=app_consistent[-1] if app_consistent else None,
        oldest_at=min((view.taken_at for view in views), default=None),
        incomplete=len(listing.incomplete),
        damaged=len(listing.damaged),
    )


def _sizes(target: Target, ref: ReplicationRef, listing: PointListing, beat: Beat) -> dict[str, int | None]:
    """Return what the newest points hold that each one's predecessor does not, by cycle key."""
    found: dict[str, int | None] = {}
    first = max(len(listing.points) - NEWEST, 0)
    for index in range(first, len(listing.points)):
        beat()
        point, previous = listing.points[index], listing.points[index - 1] if index else None
        found[point.cycle_key] = target.points.stored_bytes(ref, point, previous)
    return found


def _forget_removed_disks(target: Target, replication: Replication, listing: PointListing, beat: Beat) -> None:
    """Delete seed and checksum map of each disk that neither the replication nor any of its points has any more."""
    if listing.damaged or listing.incomplete:
        return  # nobody can say which disks those have
    stores, ref = target.stores, replication.ref
    needed = {disk.key for disk in replication.disks}
    needed.update(disk.disk_key for point in listing.points for disk in point.disks)
    for name in stores.seeds.list_seeds(seed_container(ref)):
        key = disk_of_seed(name)
        if key is not None and key not in needed:
            beat()
            stores.seeds.delete_seed(seed_container(ref), name)
            stores.gateway.delete_prefix(gateway_container(ref), checksum_map_prefix(key))


def _require(cycle_key: str, listing: PointListing) -> RecoveryPointRecord:
    """Return a listed point. Raises OPERATION_REFUSED."""
    found = choose(listing.points, PointChoice(Choice.CHOSEN, cycle_key))
    if isinstance(found, str):
        raise DeltaferryError(ErrorKind.OPERATION_REFUSED, found)
    return found


def _view(point: RecoveryPointRecord, stored_bytes: int | None, pinned_by: tuple[str, ...]) -> PointView:
    return PointView(
        cycle_key=point.cycle_key,
        kind=point.kind,
        taken_at=point.taken_at,
        fence=point.fence,
        changed_bytes=point.changed_bytes,
        stored_bytes=stored_bytes,
        note=point.note,
        shared_key=point.shared_key,
        pinned_by=pinned_by,
    )
