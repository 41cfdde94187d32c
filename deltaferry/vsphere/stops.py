"""Whether a VM lost power or was forcibly shut down, by its events (docs/decisions/0013-unclean-power-off.md)."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from deltaferry.vsphere.locating import locate
from deltaferry.vsphere.session import Session
from deltaferry.vsphere.vocabulary import ManagedObject, vim

SHUTDOWN_WITHIN = timedelta(hours=1)
"""A power-off belongs to the guest shutdown before it if that was asked for not longer ago."""

_ON = "VmPoweredOnEvent"
_GUEST_SHUTDOWN = "VmGuestShutdownEvent"
_STOPPING = "VmStoppingEvent"
"""A hard power-off that somebody asked for begins."""
_OFF = "VmPoweredOffEvent"

_LOST_POWER = {
    "VmPowerOffOnIsolationEvent": "vSphere HA powered it off on an isolated host",
    "VmRestartedOnAlternateHostEvent": "its host failed, and vSphere HA restarted it on another one",
    "com.vmware.vc.ha.VmRestartedByHAEvent": "its host failed, and vSphere HA restarted it on another one",
    "VmFailoverFailed": "its host failed, and vSphere HA could not restart it",
}
"""What tells of a lost power by itself."""


def unclean_stops(session: Session, instance_uuid: str, since: datetime, ours: Sequence[datetime]) -> tuple[str, ...]:
    """Return one sentence for each time after `since` that a VM stopped without its guest having shut down.

    `ours` are instants at which we began to power it off: the first power-off after each is left out. All times are
    the endpoint's. Raises NoPermission where the user may not read events.
    """
    vm = locate(session, instance_uuid)
    begin = since - SHUTDOWN_WITHIN
    expected = sorted(instant for instant in ours if instant >= begin)
    sentences = []
    asked: datetime | None = None
    for event in _events(session, vm, begin):
        at, kind = event.createdTime.astimezone(UTC), _kind(event)
        if kind == _GUEST_SHUTDOWN:
            asked = at
        elif kind in (_ON, _STOPPING):
            asked = None
        elif kind == _OFF:
            clean = asked is not None and at - asked <= SHUTDOWN_WITHIN
            asked = None
            begun = [instant for instant in expected if instant <= at]
            expected = expected[len(begun) :]
            if at > since and not clean and not begun:
                sentences.append(
                    f"At {at:%Y-%m-%d %H:%M:%S} UTC it was powered off, and its guest had not shut down{_by(event)}."
                )
        elif at > since:
            sentences.append(f"At {at:%Y-%m-%d %H:%M:%S} UTC {_LOST_POWER[kind]}.")
    return tuple(sentences)


def _events(session: Session, vm: ManagedObject, begin: datetime) -> list[Any]:
    """Return the VM's events of power, oldest first; vSphere promises no order. An endpoint without events has none."""
    manager = session.content().eventManager
    if manager is None:
        return []
    spec = vim.event.EventFilterSpec(
        entity=vim.event.EventFilterSpec.ByEntity(entity=vm, recursion="self"),
        time=vim.event.EventFilterSpec.ByTime(beginTime=begin),
        eventTypeId=[_ON, _GUEST_SHUTDOWN, _STOPPING, _OFF, *_LOST_POWER],
    )
    return sorted(manager.QueryEvents(spec) or (), key=lambda event: (event.createdTime, event.key))


def _kind(event: Any) -> str:
    return str(event.eventTypeId) if isinstance(event, vim.event.EventEx) else str(type(event)._wsdlName)


def _by(event: Any) -> str:
    return f" (by {event.userName})" if event.userName else ""
