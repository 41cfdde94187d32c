"""A recovery point's disks as page blobs of their own, copied inside the storage service: what a disk import can read (facts A1).

Blob storage has no rename, and a copy's destination is there from the copy's first moment on. So a copy counts as made only when it
carries the mark `complete`, which is set last, after the service said that it is whole and the VHD footer was written; whoever
finds a blob without it goes on with it, or begins again, and nobody is ever given its name.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import quote

from azure.core import MatchConditions
from azure.core.exceptions import ResourceExistsError, ResourceModifiedError, ResourceNotFoundError
from azure.storage.blob import BlobClient, BlobProperties

from deltaferry.azure.point_snapshots import metadata_of, read_snapshot
from deltaferry.azure.seeds import PageBlobSeeds
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.naming import copy_name, seed_name
from deltaferry.model.recovery_points import PointCopy, PointDisk, RecoveryPointRecord
from deltaferry.model.units import seed_blob_size
from deltaferry.ports.access import Beat
from deltaferry.ports.data_plane import DataProgress

_COMPLETE = "complete"
_BEAT_S = 1.0


@dataclass(frozen=True, slots=True)
class _Task:
    """One disk's copy."""

    container: str
    disk: PointDisk
    point: RecoveryPointRecord
    name: str

    @property
    def size_bytes(self) -> int:
        return seed_blob_size(self.disk.capacity_bytes)

    @property
    def metadata(self) -> dict[str, str]:
        """What the copy says of itself from its first moment on."""
        return {"cycle": self.point.cycle_key, "seal": str(self.point.fence), "source": self.disk.snapshot}

    def owns(self, found: Mapping[str, str]) -> bool:
        """Return whether a blob's metadata say that it is this copy, whole or not."""
        return all(found.get(name) == value for name, value in self.metadata.items())


class PointCopies:
    """Makes and deletes copies in the seed account's containers."""

    def __init__(self, seeds: PageBlobSeeds, *, poll_s: float = 1.0) -> None:
        self._seeds = seeds
        self._account = seeds.account
        self._poll_s = poll_s

    def copy(
        self, container: str, point: RecoveryPointRecord, job: str, progress: Callable[[DataProgress], None]
    ) -> tuple[PointCopy, ...]:
        """Copy all disks of a point at once, and wait until all are whole; those of an earlier attempt are taken up.

        Raises OPERATION_REFUSED if a snapshot of the point is gone or is another's, AZURE_CONFLICT if a blob of a copy's name is
        no copy of the point, AZURE_FAILED if the service gave a copy up.
        """
        tasks = [_Task(container, disk, point, copy_name(job, point.cycle_key, disk.disk_key)) for disk in point.disks]
        for task in tasks:
            self._check_source(task)
        made: dict[int, PointCopy] = {}
        seen: set[str] = set()
        done = dict.fromkeys((task.disk.disk_key for task in tasks), 0)
        total = sum(task.size_bytes for task in tasks)
        try:
            while True:
                for task in tasks:
                    if task.disk.disk_key not in made:
                        copied_bytes, whole = self._advance(task, seen)
                        done[task.disk.disk_key] = copied_bytes
                        if whole:
                            made[task.disk.disk_key] = PointCopy(task.disk.disk_key, task.name, task.size_bytes)
                state = DataProgress(sum(done.values()), total, 0, tuple(done.items()))
                progress(state)
                if len(made) == len(tasks):
                    return tuple(made[task.disk.disk_key] for task in tasks)
                self._pause(lambda: progress(state))  # noqa: B023 - called before the next turn
        except DeltaferryError as error:
            if not error.record.retryable:  # INTERRUPTED is: another attempt goes on with the copies
                self._give_up(tasks)
            raise
        except BaseException:
            self._give_up(tasks)
            raise

    def delete(self, container: str, prefix: str, beat: Beat) -> int:
        """Abort and delete all copies below a prefix; return how many there were. No-op for a missing container."""
        with self._account.errors(f"listing the copies {container}/{prefix}*"):
            try:
                names = list(self._account.client.get_container_client(container).list_blob_names(name_starts_with=prefix))
            except ResourceNotFoundError:
                return 0
        for name in names:
            beat()
            self._abort_and_delete(container, name, whatever_it_is=True)
        return len(names)

    # --- one disk

    def _check_source(self, task: _Task) -> None:
        """Check that the snapshot is the point's own. Raises OPERATION_REFUSED."""
        found = read_snapshot(self._seeds, task.container, task.disk)
        if found is None or not found.belongs_to(task.point, task.disk):
            wrong = f"the snapshot of disk {task.disk.disk_key} is gone, or is not of that cycle"
        elif found.size_bytes != task.size_bytes:
            wrong = f"disk {task.disk.disk_key} has {found.size_bytes} bytes in it where {task.size_bytes} belong"
        else:
            return
        raise DeltaferryError(
            ErrorKind.OPERATION_REFUSED,
            f"The recovery point of cycle {task.point.cycle_key} is not whole: {wrong}. List the points, and choose another.",
        )

    def _advance(self, task: _Task, seen: set[str]) -> tuple[int, bool]:
        """Take a copy one step further; return the bytes copied so far, and whether the copy is whole and marked.

        `seen` are the copies that ran under this attempt's eyes: if one of those ends badly the attempt fails, while what an
        earlier attempt has left is simply begun again.
        """
        properties = self._find(task)
        if properties is None:
            self._start(task)
            seen.add(task.name)
            return 0, False
        found = metadata_of(properties)
        if not task.owns(found):
            raise DeltaferryError(ErrorKind.AZURE_CONFLICT, f"{task.container}/{task.name} is no copy of {task.disk.snapshot}")
        if found.get(_COMPLETE) == task.point.cycle_key:
            return task.size_bytes, True
        status = properties.copy.status
        if status == "pending":
            seen.add(task.name)
            return _copied_bytes(properties), False
        if status == "success" and properties.size == task.size_bytes:
            return task.size_bytes, self._complete(task, properties)
        self._delete(task.container, task.name, properties)
        if task.name in seen:
            raise DeltaferryError(
                ErrorKind.AZURE_FAILED, f"copying {task.container}/{task.name}: the service ended the copy as {status}"
            )
        return 0, False

    def _start(self, task: _Task) -> None:
        """Ask for the copy unless there is one. Source and copy are in one account, so that the request's own credential is enough."""
        source = f"{self._seeds.url(task.container, seed_name(task.disk.disk_key))}?snapshot={quote(task.disk.snapshot)}"
        with (
            self._account.errors(f"copying to {task.container}/{task.name}"),
            suppress(ResourceExistsError, ResourceModifiedError),
        ):
            self._blob(task.container, task.name).start_copy_from_url(
                source, metadata=task.metadata, match_condition=MatchConditions.IfMissing
            )

    def _complete(self, task: _Task, properties: BlobProperties) -> bool:
        """Write the footer, then the mark; return whether nobody else changed the blob in between."""
        number = int(properties.page_blob_sequence_number or 0)
        self._seeds.write_footer(task.container, task.name, task.disk.capacity_bytes, number)
        blob = self._blob(task.container, task.name)
        with self._account.errors(f"marking {task.container}/{task.name}", ErrorKind.SEED_MISSING):
            written = blob.get_blob_properties()
            if written.creation_time != properties.creation_time:
                return False
            try:
                blob.set_blob_metadata(
                    {**task.metadata, _COMPLETE: task.point.cycle_key},
                    etag=written.etag,
                    match_condition=MatchConditions.IfNotModified,
                )
            except ResourceModifiedError:
                return False
        return True

    def _find(self, task: _Task) -> BlobProperties | None:
        with self._account.errors(f"reading {task.container}/{task.name}"):
            try:
                return self._blob(task.container, task.name).get_blob_properties()
            except ResourceNotFoundError:
                return None

    # --- giving up

    def _give_up(self, tasks: list[_Task]) -> None:
        """Abort and delete what is half-made. What cannot be deleted now carries no mark; the job's clean-up deletes it."""
        for task in tasks:
            with suppress(DeltaferryError):
                properties = self._find(task)
                found = metadata_of(properties) if properties is not None else {}
                if task.owns(found) and _COMPLETE not in found:
                    self._abort_and_delete(task.container, task.name)

    def _abort_and_delete(self, container: str, name: str, *, whatever_it_is: bool = False) -> None:
        blob = self._blob(container, name)
        with self._account.errors(f"deleting {container}/{name}"):
            try:
                properties = blob.get_blob_properties()
                if properties.copy.status == "pending" and properties.copy.id:
                    with suppress(ResourceExistsError):  # 409 NoPendingCopyOperation: it ended a moment ago
                        blob.abort_copy(properties.copy.id)
                    properties = blob.get_blob_properties()
                if whatever_it_is:
                    blob.delete_blob(delete_snapshots="include")
                    return
            except ResourceNotFoundError:
                return
        self._delete(container, name, properties)

    def _delete(self, container: str, name: str, properties: BlobProperties) -> None:
        """Delete a blob unless somebody has changed it since it was looked at: another attempt may have begun it again."""
        with (
            self._account.errors(f"deleting {container}/{name}"),
            suppress(ResourceNotFoundError, ResourceModifiedError),
        ):
            self._blob(container, name).delete_blob(
                delete_snapshots="include", etag=properties.etag, match_condition=MatchConditions.IfNotModified
            )

    def _pause(self, beat: Beat) -> None:
        until = time.monotonic() + self._poll_s
        while (left_s := until - time.monotonic()) > 0:
            time.sleep(min(left_s, _BEAT_S))
            beat()

    def _blob(self, container: str, name: str) -> BlobClient:
        return self._account.client.get_blob_client(container, name)


def _copied_bytes(properties: BlobProperties) -> int:
    """Return the bytes copied of `<copied>/<total>`."""
    copied = str(properties.copy.progress or "").partition("/")[0]
    return int(copied) if copied.isdecimal() else 0
