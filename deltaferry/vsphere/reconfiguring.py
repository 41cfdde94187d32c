"""Changing a VM's configuration by compare-and-set: read, decide, write if nobody wrote in between."""

from collections.abc import Callable, Sequence
from typing import Any

from deltaferry.ports.access import Beat
from deltaferry.vsphere.properties import ObjectProperties, read_object
from deltaferry.vsphere.session import Session
from deltaferry.vsphere.tasks import wait_for_task
from deltaferry.vsphere.vocabulary import ManagedObject, vim

_ATTEMPTS = 5


def reconfigure(
    session: Session, vm: ManagedObject, paths: Sequence[str], decide: Callable[[ObjectProperties], Any | None], beat: Beat
) -> bool:
    """Read `paths`, let `decide` make a ConfigSpec of them (None: nothing to do), and apply it; return whether it was.

    The spec carries the configuration's version, so that vSphere refuses it when somebody else changed the VM
    meanwhile; then everything is read and decided again. Raises ConcurrentAccess if that happens every time.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        row = read_object(session, vm, [*paths, "config.changeVersion"])
        spec = decide(row)
        if spec is None:
            return False
        spec.changeVersion = row.get("config.changeVersion")
        try:
            wait_for_task(session, vm.ReconfigVM_Task(spec), beat)
        except vim.fault.ConcurrentAccess:
            if attempt == _ATTEMPTS:
                raise
        else:
            return True
    return False
