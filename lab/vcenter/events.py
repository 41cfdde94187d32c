"""What happened to VMs, as the event manager tells it."""

from datetime import UTC, datetime
from typing import Any

from lab.vcenter.virtual_machine import VirtualMachine
from lab.vcenter.vmodl_values import complete
from lab.vcenter.vocabulary import vim
from lab.vcenter.world import LabObject, World, data_object, now

RESTARTED_BY_HA = "com.vmware.vc.ha.VmRestartedByHAEvent"
"""The `eventTypeId` of what vSphere HA says of a VM that it started again on another host."""

_KEPT = 5000
_PAGE = 1000
"""QueryEvents returns the newest events, at most so many."""

_PREFIX = "vim.event."


class EventLog(LabObject):
    """The event manager: events of VMs' power, the oldest forgotten first."""

    def __init__(self, world: World) -> None:
        super().__init__(vim.event.EventManager("EventManager"))
        self._world = world
        self._events: list[Any] = []
        self.readers["maxCollector"] = lambda: 32
        self.readers["latestEvent"] = lambda: self._events[-1] if self._events else None

    def write(self, kind: Any, vm: VirtualMachine, message: str, user: str = "", **values: Any) -> None:
        """Write an event of a VM; `user` is empty for what no user of vCenter asked for."""
        with self._world.lock:
            key = self._world.number()
            event = data_object(
                kind,
                key=key,
                chainId=key,
                createdTime=now(),
                userName=user,
                vm=vim.event.VmEventArgument(name=vm.name, vm=vm.reference),
                fullFormattedMessage=message,
                **values,
            )
            if isinstance(event, vim.event.VmEvent):
                event.template = False
            self._events.append(complete(event))
            del self._events[:-_KEPT]

    def query(self, wanted: Any) -> list[Any]:
        """Return the events that an EventFilterSpec selects, newest first. Raises ManagedObjectNotFound."""
        with self._world.lock:
            entity = None if wanted.entity is None else self._world.get(wanted.entity.entity)
            chosen = [event for event in reversed(self._events) if _matches(event, wanted, entity)]
        return chosen[: min(wanted.maxCount or _PAGE, _PAGE)]


def _matches(event: Any, wanted: Any, entity: LabObject | None) -> bool:
    if isinstance(entity, VirtualMachine) and event.vm.vm._moId != entity.moref:
        return False
    if wanted.eventTypeId and not _names(event).intersection(wanted.eventTypeId):
        return False
    return wanted.time is None or _within(event.createdTime, wanted.time.beginTime, wanted.time.endTime)


def _names(event: Any) -> set[str]:
    """Return what an event's type is called in a filter."""
    if isinstance(event, vim.event.EventEx):
        return {event.eventTypeId}
    name = str(type(event)._wsdlName)
    return {name, _PREFIX + name}


def _within(at: datetime, begin: datetime | None, end: datetime | None) -> bool:
    return all((begin is None or at >= _aware(begin), end is None or at <= _aware(end)))


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
