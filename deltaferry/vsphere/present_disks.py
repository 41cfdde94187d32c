"""The disks of a powered-off VM as they are, without a snapshot."""

from datetime import UTC, datetime

from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.vm import PowerState, Snapshot
from deltaferry.vsphere.devices import snapshot_disks
from deltaferry.vsphere.locating import locate
from deltaferry.vsphere.properties import read_object
from deltaferry.vsphere.session import Session
from deltaferry.vsphere.vocabulary import vim

_POWER = "runtime.powerState"
_DEVICES = "config.hardware.device"


def clock(session: Session) -> datetime:
    """Return the endpoint's time: what vSphere's own times are compared with."""
    told: datetime = session.object(vim.ServiceInstance, "ServiceInstance").CurrentTime()
    return told.astimezone(UTC)


def read_present_disks(session: Session, instance_uuid: str) -> Snapshot:
    """Return a powered-off VM's disks in a snapshot's form: no moref, the endpoint's time, the present backings.

    Power and disks are of one reading. Raises SOURCE_MOVED_ON unless the VM is off.
    """
    vm = locate(session, instance_uuid)
    at = clock(session)
    row = read_object(session, vm, [_POWER, _DEVICES])
    power = PowerState(str(row.get(_POWER)))
    if power is not PowerState.OFF:
        raise DeltaferryError(
            ErrorKind.SOURCE_MOVED_ON, f"VM {instance_uuid} is {power.value}: its disks change while they are read"
        )
    return Snapshot("", "", "", False, at.isoformat(), snapshot_disks(row.get(_DEVICES) or ()))
