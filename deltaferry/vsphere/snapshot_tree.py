"""A VM's snapshots out of vSphere's tree."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from deltaferry.model.vm import Snapshot
from deltaferry.vsphere.properties import moref, unescaped

_BEGINNING = datetime.min.replace(tzinfo=UTC)


def snapshots_of(information: Any) -> tuple[Snapshot, ...]:
    """Return all snapshots of a VM's `snapshot` property, oldest first, without their disks."""
    trees = sorted(
        _trees(information.rootSnapshotList or ()) if information else (), key=lambda tree: tree.createTime or _BEGINNING
    )
    return tuple(
        Snapshot(
            moref=moref(tree.snapshot),
            name=unescaped(tree.name),
            description=tree.description or "",
            has_children=bool(tree.childSnapshotList),
            created_at=tree.createTime.astimezone(UTC).isoformat() if tree.createTime else "",
            quiesced=bool(tree.quiesced),
        )
        for tree in trees
    )


def _trees(level: Any) -> Iterator[Any]:
    for tree in level:
        yield tree
        yield from _trees(tree.childSnapshotList or ())
