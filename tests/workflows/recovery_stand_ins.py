"""The activities of recovery points, tests and failovers, on a world that remembers what they did."""

from temporalio import activity
from temporalio.exceptions import ApplicationError

from deltaferry.model.errors import ErrorKind
from deltaferry.model.recovery_points import PointCopy
from deltaferry.planning.retention import choose
from tests.workflows.world import OnWorlds, listed, require_free
from workflows.messages.dr import (
    CopiedPoint,
    CopyPointInput,
    DeleteCopiesInput,
    DeletedCopies,
    ImportCopiesInput,
    PinnedPoint,
    PinPointInput,
    PrunedResult,
    PrunePointsInput,
    UnpinPointInput,
)
from workflows.messages.notice import RpoNotice
from workflows.messages.step import ImportedDisks


class RecoveryStandIns(OnWorlds):
    """A part of `StandIns`."""

    @activity.defn
    async def pin_point(self, request: PinPointInput) -> PinnedPoint:
        world = await self._on("pin_point", request.replication, request)
        found = choose(world.points, request.choice)
        if isinstance(found, str):
            raise ApplicationError(found, type=ErrorKind.OPERATION_REFUSED.value, non_retryable=True)
        world.pins[request.holder] = found.cycle_key
        return PinnedPoint(found)

    @activity.defn
    async def announce_rpo(self, notice: RpoNotice) -> bool:
        world = self._site(notice.ref.site)
        await world.enter("announce_rpo", notice.vm_name, notice)
        return True

    @activity.defn
    async def unpin_point(self, request: UnpinPointInput) -> None:
        world = await self._on("unpin_point", request.replication, request)
        world.pins.pop(request.holder, None)

    @activity.defn
    async def copy_point(self, request: CopyPointInput) -> CopiedPoint:
        world = await self._on("copy_point", request.replication, request)
        point = next((point for point in world.points if point.cycle_key == request.cycle_key), None)
        if point is None:
            raise ApplicationError("the point is gone", type=ErrorKind.OPERATION_REFUSED.value, non_retryable=True)
        copies = tuple(PointCopy(disk.disk_key, f"{request.job}/{disk.disk_key}", disk.capacity_bytes) for disk in point.disks)
        world.copies[request.job] = copies
        pinned = world.pins.get(request.holder) == request.cycle_key
        world.ledger.copied(request.job, point, pinned=pinned)
        return CopiedPoint(point, copies)

    @activity.defn
    async def delete_copies(self, request: DeleteCopiesInput) -> DeletedCopies:
        world = await self._on("delete_copies", request.replication, request)
        world.ledger.copies.pop(request.job, None)
        return DeletedCopies(len(world.copies.pop(request.job, ())))

    @activity.defn
    async def prune_points(self, request: PrunePointsInput) -> PrunedResult:
        world = await self._on("prune_points", request.replication, request)
        before = len(world.points)
        world.points = [point for point in world.points if point.cycle_key in (request.keep_only, *world.pins.values())]
        world.ledger.pruned(world.points)
        return PrunedResult(before - len(world.points), 0, listed(world.points))

    @activity.defn
    async def import_copies(self, request: ImportCopiesInput) -> ImportedDisks:
        world = await self._on("import_copies", request.replication, request)
        name = request.target.vm_name or request.replication.vm_name
        require_free(world, request.job, name)
        world.vms[request.job] = name
        world.ledger.imported(request.job, name, world.ledger.copies.get(request.job, -1))
        return ImportedDisks(tuple((copy.disk_key, f"/disks/{copy.disk_key}") for copy in request.copies))
