"""Waiting: for a task to end, or for a property to change.

pyVim's own WaitForTask cannot be interrupted, has no timeout and shares one filter with everybody. Here every wait has a
property collector of its own, asks for updates a few seconds at a time, and lets the caller's `beat` run in between.
"""

import logging
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from typing import Any

from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.ports.access import Beat
from deltaferry.vsphere.errors import VSPHERE_ERRORS, fault_name
from deltaferry.vsphere.properties import moref, read_referenced
from deltaferry.vsphere.session import Session
from deltaferry.vsphere.vocabulary import ManagedObject, vim, vmodl

_log = logging.getLogger(__name__)

POLL_S = 5
"""How long the server may hold one WaitForUpdatesEx, so that `beat` runs every few seconds."""

_LOST_SESSIONS = 3
"""How often one wait begins again because its session, and the collector with it, was lost."""

CREATE_SNAPSHOT_TASKS = frozenset({"CreateSnapshot_Task", "CreateSnapshotEx_Task"})
"""Names of the operations that make a snapshot."""
MERGING_TASKS = frozenset({"RemoveSnapshot_Task", "RemoveAllSnapshots_Task", "ConsolidateVMDisks_Task"})
"""Names of the operations that merge delta disks."""

_SESSION_LOST: tuple[type[Exception], ...] = (
    vmodl.fault.RequestCanceled,
    vmodl.fault.ManagedObjectNotFound,
    vmodl.query.InvalidCollectorVersion,
)
"""How a wait learns that its session ended: while it waited, or when it asked its collector again in a new session."""

_query = vmodl.query.PropertyCollector


def no_beat() -> None:
    """Stand for a beat in waits that are too short to need one."""


def wait_for_task(session: Session, task: ManagedObject, beat: Beat) -> Any:
    """Wait until a task ends and return its result, as the update brought it: a task object expires soon after.

    Raises the task's own fault; ManagedObjectNotFound if the task object is gone already.
    """
    with closing(_changes(session, task, ["info"], beat)) as changes:
        for values in changes:
            info = values.get("info")
            if info is None or info.state in ("queued", "running"):
                continue
            if info.state == "error":
                raise info.error if info.error is not None else vmodl.fault.SystemError(reason="")
            return info.result
    raise DeltaferryError(ErrorKind.VSPHERE_FAULT, f"task {moref(task)} vanished before it ended")


def wait_for_value(session: Session, reference: ManagedObject, path: str, wanted: Any, beat: Beat, limit_s: float) -> bool:
    """Wait until a property has a value; return False if it has not after `limit_s`."""
    until = time.monotonic() + limit_s
    with closing(_changes(session, reference, [path], beat)) as changes:
        for values in changes:
            if values.get(path) == wanted:
                return True
            if time.monotonic() >= until:
                return False
    return False


def wait_for_running(session: Session, vm: ManagedObject, names: frozenset[str], beat: Beat) -> None:
    """Wait for the VM's unfinished tasks of these operations, whoever started them, and whatever they come to.

    A task outlives its caller: what an attempt that died has started is still running, or has just ended.
    """
    for task in _running(session, vm, names):
        try:
            wait_for_task(session, task, beat)
        except vmodl.fault.ManagedObjectNotFound:
            _log.info("task %s ended before it could be waited for", moref(task))
        except vmodl.MethodFault as fault:
            _log.info("task %s, which was running already, ended with %s", moref(task), fault_name(fault))


def _running(session: Session, vm: ManagedObject, names: frozenset[str]) -> list[ManagedObject]:
    running = []
    for row in read_referenced(session, vm, "recentTask", vim.Task, ["info"]):
        info = row.get("info")
        if info is not None and info.state in ("queued", "running") and _operation(info) in names:
            running.append(row.reference)
    return running


def _operation(info: Any) -> str:
    """Return the WSDL name of the method that made a task: pyVmomi hands out the method itself where it knows it."""
    name = info.name
    return str(getattr(getattr(name, "info", None), "wsdlName", name))


def _changes(
    session: Session, reference: ManagedObject, paths: Sequence[str], beat: Beat
) -> Generator[Mapping[str, Any], None, None]:
    """Yield the object's properties at first and after every change, and an empty mapping when nothing changed for a while.

    Ends when the object leaves the collector's sight.
    """
    lost = 0
    while True:
        number = session.number
        try:
            yield from _changes_in_one_session(session, reference, paths, beat)
            return
        except _SESSION_LOST as fault:
            lost += 1
            gone = isinstance(fault, vmodl.fault.ManagedObjectNotFound) and session.number == number
            if gone or lost > _LOST_SESSIONS:
                raise
            _log.info("the session was lost while waiting for %s: waiting in the new one", moref(reference))


def _changes_in_one_session(
    session: Session, reference: ManagedObject, paths: Sequence[str], beat: Beat
) -> Generator[Mapping[str, Any], None, None]:
    collector = session.content().propertyCollector.CreatePropertyCollector()
    try:
        spec = _query.FilterSpec(
            objectSet=[_query.ObjectSpec(obj=reference, skip=False)],
            propSet=[_query.PropertySpec(type=type(reference), all=False, pathSet=list(paths))],
        )
        collector.CreateFilter(spec, False)
        version = ""
        while True:
            beat()
            update = collector.WaitForUpdatesEx(version, _query.WaitOptions(maxWaitSeconds=POLL_S))
            if update is None:
                yield {}
                continue
            version = update.version
            values: dict[str, Any] = {}
            for changed in (item for one in update.filterSet or () for item in one.objectSet or ()):
                if changed.kind == "leave":
                    return
                values.update({change.name: change.val for change in changed.changeSet or ()})
            yield values
    finally:
        _destroy(collector)


def _destroy(collector: ManagedObject) -> None:
    try:
        collector.DestroyPropertyCollector()
    except VSPHERE_ERRORS as error:
        _log.debug("a property collector was gone before it was destroyed: %s", type(error).__name__)
