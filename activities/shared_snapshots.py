"""The snapshots of a replication group: of all members at once, or of none.

What takes its time, and may fail, is done for all members first; then all snapshots are asked for at the same moment. A
member that fails does so in the answer: what became of the others has to be known, since their snapshots exist.
"""

import contextvars
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import TypeVar

from temporalio import activity

from activities.adapters import Site
from activities.datastore_guard import require_room
from activities.failures import translated
from activities.held_snapshots import (
    clear_leftovers,
    note_snapshot,
    noted_snapshot,
    placement,
    require_replicable,
)
from activities.progress import Heartbeats
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.naming import SNAPSHOT_DESCRIPTION, snapshot_name
from deltaferry.model.shortage import ShortOfSpaceError
from deltaferry.model.vm import Snapshot
from workflows.messages.group import TakenMember, TakenTogether, TogetherInput, TogetherMember

R = TypeVar("R")


class SharedSnapshots:
    """Takes snapshots of several VMs of a site together."""

    def __init__(self, sites: Mapping[str, Site]) -> None:
        self._sites = sites

    @activity.defn
    @translated
    def take_together(self, request: TogetherInput) -> TakenTogether:
        """Take every member's snapshot, each under the name of its cycle, or none where one of them is not ready for it.

        A retry finds those that exist. Nothing is removed here that was taken here: whoever asked has it removed.
        """
        beats = Heartbeats(f"taking {len(request.members)} snapshots at once")
        site = self._sites[request.members[0].replication.ref.site]
        refused = _each(request.members, lambda member: _prepared(site, member, beats))
        if any(refused):
            found = _each(request.members, lambda member: _found(site, member))
            return TakenTogether(tuple(one or other for one, other in zip(refused, found, strict=True)))
        return TakenTogether(tuple(_each(request.members, lambda member: _taken(site, member, beats))))


def _each(members: Sequence[TogetherMember], work: Callable[[TogetherMember], R]) -> list[R]:
    """Do something for all members at the same time; an error of one is raised when all have ended."""
    with ThreadPoolExecutor(max_workers=len(members), thread_name_prefix="together") as pool:
        contexts = [contextvars.copy_context() for _ in members]  # a heartbeat finds its activity by it
        asked = [pool.submit(context.run, work, member) for context, member in zip(contexts, members, strict=True)]
    return [one.result() for one in asked]


def _prepared(site: Site, member: TogetherMember, beats: Heartbeats) -> TakenMember | None:
    """Pass the gates of a member's snapshot; return why it does not pass them, or None."""
    ref = member.replication.ref
    try:
        vm = site.hypervisor.read_vm(ref.instance_uuid)
        require_replicable(vm, member.replication.disks, ref)
        if noted_snapshot(site, ref, member.cycle_key) is not None:
            return None
        if member.granted.datastores and placement(vm) != member.granted:
            raise DeltaferryError(ErrorKind.OPERATION_REFUSED, f"The VM {vm.name!r} was moved since slots were granted for it.")
        clear_leftovers(site, ref, beats.beat, keep=snapshot_name(ref, member.cycle_key))
        require_room(site, ref, member.expected_growth)
    except DeltaferryError as error:
        return _failed(member, error)
    return None


def _found(site: Site, member: TogetherMember) -> TakenMember:
    """Return the snapshot that an earlier attempt has taken of a member, if it has."""
    ref = member.replication.ref
    try:
        vm = site.hypervisor.read_vm(ref.instance_uuid)
    except DeltaferryError as error:
        return _failed(member, error)
    name = snapshot_name(ref, member.cycle_key)
    earlier = next((snapshot for snapshot in vm.snapshots if snapshot.name == name), None)
    return _made(member, earlier) if earlier is not None else TakenMember(member.cycle_key, None)


def _taken(site: Site, member: TogetherMember, beats: Heartbeats) -> TakenMember:
    ref = member.replication.ref
    try:
        noted = noted_snapshot(site, ref, member.cycle_key)
        if noted is not None:
            return _made(member, site.hypervisor.read_snapshot(ref.instance_uuid, noted))
        name = snapshot_name(ref, member.cycle_key)
        snapshot = site.hypervisor.take_snapshot(ref.instance_uuid, name, SNAPSHOT_DESCRIPTION, beats.beat)
        note_snapshot(site, ref, member.cycle_key, snapshot)
    except DeltaferryError as error:
        return _failed(member, error)
    return _made(member, snapshot)


def _made(member: TogetherMember, snapshot: Snapshot) -> TakenMember:
    return TakenMember(member.cycle_key, datetime.fromisoformat(snapshot.created_at))


def _failed(member: TogetherMember, error: DeltaferryError) -> TakenMember:
    short = error.datastores if isinstance(error, ShortOfSpaceError) else ()
    return TakenMember(member.cycle_key, None, error.kind, f"{error.kind.value}: {error.detail}", tuple(short))
