"""The activities of reprotect and failback, on a world that remembers what they did."""

import dataclasses
from datetime import UTC, datetime

from temporalio import activity

from deltaferry.model.errors import ErrorKind
from deltaferry.model.replication import ReplicatedDisk
from tests.workflows.world import NICS, PLACEMENT, OnWorlds, World, plan_of, scripted_error, stored
from workflows.messages.failback import (
    ComparedSite,
    CompareSiteInput,
    CompareSiteResult,
    DiscardBackInput,
    DropSnapshotsInput,
    HashInput,
    HashResult,
    Homecoming,
    KeepMadeVmInput,
    Losses,
    LossesInput,
    MakeVmInput,
    OnMadeVm,
    OnTarget,
    PlanChangesInput,
    PlannedChanges,
    PreparedFailback,
    PrepareFailbackInput,
    ReleaseFailbackInput,
    SendBackInput,
    SnapshotTargetInput,
    TakenSnapshots,
    TargetSurvey,
    WriteBackInput,
)
from workflows.messages.replication_state import DiskPosition
from workflows.messages.reverse_records import MadeVm
from workflows.messages.step import AppliedChunk, ApplyResult, OnReplication, SentChunk, TransferResult, VerifyChunksInput


class ReverseStandIns(OnWorlds):
    """A part of `StandIns`."""

    @activity.defn
    async def prepare_failback(self, request: PrepareFailbackInput) -> PreparedFailback:
        world = await self._on("prepare_failback", request.replication, request)
        if _home(world):
            world.ledger.marked = False
            return PreparedFailback(False, (), PLACEMENT.host, _home(world))
        world.released = False
        if world.powered_on and not request.power_off:
            raise scripted_error(ErrorKind.OPERATION_REFUSED, "The VM is running at the site: shut it down first.", None)
        world.powered_on, world.ledger.marked = False, True
        return PreparedFailback(False, NICS[:1], PLACEMENT.host)

    @activity.defn
    async def make_vm(self, request: MakeVmInput) -> MadeVm:
        world = await self._on("make_vm", request.replication, request)
        if world.powered_on and not request.power_off:
            raise scripted_error(ErrorKind.OPERATION_REFUSED, "The VM is running at the site: shut it down first.", None)
        world.powered_on, world.ledger.marked = False, True
        name = request.location.name or request.replication.vm_name
        world.made_at_site[request.instance_uuid] = name
        disks = tuple(dataclasses.replace(disk, uuid=f"{disk.uuid}-new") for disk in request.replication.disks)
        return MadeVm(request.instance_uuid, name, disks, PLACEMENT, world.pristine, ("The VM was made.",))

    @activity.defn
    async def delete_made_vm(self, request: OnMadeVm) -> None:
        world = await self._on("delete_made_vm", request.replication, request)
        world.made_at_site.pop(request.instance_uuid, None)
        world.ledger.marked = False

    @activity.defn
    async def keep_made_vm(self, request: KeepMadeVmInput) -> None:
        world = await self._on("keep_made_vm", request.replication, request)
        del world.made_at_site[request.made.instance_uuid]
        world.kept_at_site.append(request.made.instance_uuid)

    @activity.defn
    async def find_losses(self, request: LossesInput) -> Losses:
        world = await self._on("find_losses", request.replication, request)
        return Losses(world.losses, request.given_up_bytes)

    @activity.defn
    async def release_failback(self, request: ReleaseFailbackInput) -> None:
        world = await self._on("release_failback", request.replication, request)
        world.released = world.released or request.home_pass > 0
        world.ledger.marked = False

    @activity.defn
    async def find_homecoming(self, request: OnReplication) -> Homecoming:
        return Homecoming(_home(await self._on("find_homecoming", request.replication, request)))

    @activity.defn
    async def survey_failed_over(self, request: OnTarget) -> TargetSurvey:
        world = await self._on("survey_failed_over", request.replication, request)
        disks = tuple((disk.key, disk_id(disk)) for disk in request.replication.disks)
        return TargetSurvey("vm", True, disks, world.not_replicated)

    @activity.defn
    async def start_target(self, request: OnTarget) -> None:
        world = await self._on("start_target", request.replication, request)
        world.ledger.runs(_name(request), running=True)

    @activity.defn
    async def stop_target(self, request: OnTarget) -> None:
        world = await self._on("stop_target", request.replication, request)
        world.ledger.runs(_name(request), running=False)

    @activity.defn
    async def snapshot_target(self, request: SnapshotTargetInput) -> TakenSnapshots:
        world = await self._on("snapshot_target", request.replication, request)
        taken = tuple((disk.key, f"snapshot-of-{request.cycle_key}-{disk.key}") for disk in request.replication.disks)
        world.ledger.snapshot_azure(_name(request), request.cycle_key, [name for _, name in taken])
        return TakenSnapshots(taken, datetime.now(UTC) - world.azure_behind)

    @activity.defn
    async def drop_snapshots(self, request: DropSnapshotsInput) -> None:
        ledger = (await self._on("drop_snapshots", request.replication, request)).ledger
        ledger.disk_snapshots = {name: held for name, held in ledger.disk_snapshots.items() if name in request.keep}

    @activity.defn
    async def hash_snapshots(self, request: HashInput) -> HashResult:
        await self._on("hash_snapshots", request.replication, request)
        return HashResult(tuple(DiskPosition(disk.key, disk.capacity_bytes) for disk in request.replication.disks))

    @activity.defn
    async def compare_site(self, request: CompareSiteInput) -> CompareSiteResult:
        world = await self._on("compare_site", request.replication, request)
        return CompareSiteResult(
            tuple(
                ComparedSite(
                    disk.key,
                    disk.capacity_bytes,
                    plan_of("pass", disk.key, "differs", 1, world.pass_segments),
                    disk.capacity_bytes,
                )
                for disk in request.replication.disks
            )
        )

    @activity.defn
    async def plan_changes(self, request: PlanChangesInput) -> PlannedChanges:
        world = await self._on("plan_changes", request.replication, request)
        if request.base:
            world.ledger.planned_back(request.cycle_key, [name for _, name in request.base])
        return PlannedChanges(
            tuple(
                (disk.key, plan_of("pass", disk.key, "plan", world.pass_segments, world.pass_segments))
                for disk in request.replication.disks
            )
        )

    @activity.defn
    async def send_back(self, request: SendBackInput) -> TransferResult:
        await self._on("send_back", request.replication, request)
        capacities = {disk.key: disk.capacity_bytes for disk in request.replication.disks}
        return TransferResult(
            tuple(
                SentChunk(
                    disk_key=disk.disk_key,
                    first_segment=disk.first_segment,
                    next_segment=disk.first_segment + 1,
                    position_bytes=capacities[disk.disk_key],
                    manifest=stored(f"{disk.disk_key}/manifest-{disk.first_segment}"),
                    bytes_read=512,
                    bytes_sent=100,
                    segments_sent=1,
                    segments_found=0,
                )
                for disk in request.disks
            )
        )

    @activity.defn
    async def write_back(self, request: WriteBackInput) -> ApplyResult:
        world = await self._on("write_back", request.replication, request)
        if not world.ledger.can_write_back(request.cycle_key):
            raise scripted_error(ErrorKind.SOURCE_MOVED_ON, "The disks at the site are not as they were left.", None)
        world.ledger.wrote_back(request.cycle_key, world.epoch)
        return ApplyResult(
            tuple(
                AppliedChunk(
                    disk_key=chunk.disk_key,
                    first_segment=chunk.first_segment,
                    next_segment=chunk.next_segment,
                    manifest=chunk.manifest,
                    covered=stored(f"{chunk.disk_key}/covered-{chunk.first_segment}"),
                    bytes_written=512,
                    bytes_cleared=0,
                    verified_blocks=2,
                )
                for chunk in request.chunks
            )
        )

    @activity.defn
    async def verify_back(self, request: VerifyChunksInput) -> None:
        await self._on("verify_back", request.replication, request)

    @activity.defn
    async def discard_back(self, request: DiscardBackInput) -> None:
        await self._on("discard_back", request.replication, request)

    @activity.defn
    async def forget_site(self, request: OnReplication) -> None:
        world = await self._on("forget_site", request.replication, request)
        world.released = False
        world.ledger.forgot_the_site()


def _home(world: World) -> str:
    return "The VM is on at the site." if world.released and world.powered_on else ""


def _name(request: OnTarget | SnapshotTargetInput) -> str:
    return request.target.vm_name or request.replication.vm_name


def disk_id(disk: ReplicatedDisk) -> str:
    """Return the resource id of a failed-over VM's disk."""
    return f"/subscriptions/s/resourceGroups/rg/providers/Microsoft.Compute/disks/vm-{disk.key}"
