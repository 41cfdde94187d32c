"""Asking a guest to hold its writes back while its snapshot is taken: who can be asked, what for, and for how long.

A request is ignored without a word where VMware Tools do not run, so that they are looked at first; what was obtained is
what vSphere says of the snapshot afterwards (`Snapshot.quiesced`).
Sources: vSphere API, CreateSnapshotEx_Task, GuestQuiesceSpec (`timeout` 5 to 240 minutes), WindowsQuiesceSpec and its
VssBackupContext; VSS_BACKUP_TYPE of the Windows SDK.
"""

import time
from datetime import timedelta
from typing import Any

from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.quiescing import QuiesceOrder
from deltaferry.ports.access import Beat
from deltaferry.vsphere.properties import read_object
from deltaferry.vsphere.session import Session
from deltaferry.vsphere.vocabulary import ManagedObject, vim

VSS_BT_COPY = 5
"""VSS_BACKUP_TYPE: a copy. Applications do not count it as a backup, so that log chains stay as they are."""

VSS_CTX_BACKUP = "ctx_backup"
"""With the writers of the applications. `ctx_auto` would go on without them, and not say so, where they cannot take part."""

_SHORTEST_MIN, _LONGEST_MIN = 5, 240

_PATHS = ("runtime.powerState", "guest.toolsRunningStatus", "guest.toolsVersionStatus2", "capability.quiescedSnapshotsSupported")

_STARTING = "guestToolsExecutingScripts"


def specification(session: Session, vm: ManagedObject, order: QuiesceOrder) -> Any:
    """Return how vSphere is asked to quiesce a VM's guest.

    Raises GUEST_TOOLS_UNAVAILABLE, with a sentence, where nobody in the guest would hear it.
    """
    row = read_object(session, vm, _PATHS)
    if row.get("runtime.powerState") != "poweredOn":
        raise _nobody_there("The VM does not run.")
    status = row.get("guest.toolsRunningStatus")
    if status != "guestToolsRunning":
        if row.get("guest.toolsVersionStatus2") == "guestToolsNotInstalled":
            raise _nobody_there("VMware Tools are not installed in the guest.")
        if status == _STARTING:
            raise _nobody_there("VMware Tools were just starting in the guest.")
        raise _nobody_there("VMware Tools do not run in the guest.")
    if row.get("capability.quiescedSnapshotsSupported") is False:
        raise _nobody_there("vSphere does not quiesce the guest of this VM.")
    minutes = min(max(round(order.limit / timedelta(minutes=1)), _SHORTEST_MIN), _LONGEST_MIN)
    if not order.windows:
        return vim.vm.GuestQuiesceSpec(timeout=minutes)
    return vim.vm.WindowsQuiesceSpec(
        timeout=minutes,
        vssBackupType=VSS_BT_COPY,
        vssBackupContext=VSS_CTX_BACKUP,
        vssBootableSystemState=True,
        vssPartialFileSupport=False,
    )


def patient(beat: Beat, patience: timedelta, late: Exception) -> Beat:
    """Return a beat for a wait that raises `late` once the wait has lasted so long."""
    until = time.monotonic() + patience.total_seconds()

    def beat_in_time() -> None:
        beat()
        if time.monotonic() >= until:
            raise late

    return beat_in_time


def too_late(order: QuiesceOrder) -> DeltaferryError:
    """Return the error of a guest that was waited for long enough."""
    minutes = order.patience / timedelta(minutes=1)
    return DeltaferryError(
        ErrorKind.QUIESCE_FAILED, f"The quiesced snapshot had not been taken after {minutes:g} min, and was given up."
    )


def _nobody_there(sentence: str) -> DeltaferryError:
    return DeltaferryError(ErrorKind.GUEST_TOOLS_UNAVAILABLE, sentence)
