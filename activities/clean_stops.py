"""Whether the source stopped in a way that change tracking may not have survived (spec §4), and the power-offs that were ours."""

from datetime import datetime

from pydantic import TypeAdapter
from temporalio import activity

from activities.adapters import Site
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.naming import POWER_OFFS, gateway_container
from deltaferry.model.replication import ReplicationRef

_INSTANTS = TypeAdapter(tuple[datetime, ...])


def note_power_off(site: Site, ref: ReplicationRef) -> None:
    """Note, before it is done, that we power the source off: what a migration does itself leads to no resync."""
    instants = (*_power_offs(site, ref), site.hypervisor.clock())
    site.stores.gateway.put(_key(ref), _INSTANTS.dump_json(instants))


class StopWatch:
    """Looks for unclean stops; where events cannot be read, says so once for each VM, and looks no further."""

    def __init__(self) -> None:
        self._unreadable: set[str] = set()

    def require_clean(self, site: Site, ref: ReplicationRef, since: datetime) -> None:
        """Raise SOURCE_LOST_POWER if the source lost power or was forcibly shut down after `since`, but for what we did."""
        try:
            found = site.hypervisor.unclean_stops(ref.instance_uuid, since, _power_offs(site, ref))
        except DeltaferryError as error:
            if error.kind is not ErrorKind.VSPHERE_PERMISSION:
                raise
            if ref.instance_uuid not in self._unreadable:
                self._unreadable.add(ref.instance_uuid)
                activity.logger.warning("whether the source lost power cannot be told: %s", error.detail)
            return
        if found:
            raise DeltaferryError(ErrorKind.SOURCE_LOST_POWER, " ".join(found))


def _power_offs(site: Site, ref: ReplicationRef) -> tuple[datetime, ...]:
    stored = site.stores.gateway.get_if_exists(_key(ref))
    return _INSTANTS.validate_json(stored) if stored is not None else ()


def _key(ref: ReplicationRef) -> str:
    return f"{gateway_container(ref)}/{POWER_OFFS}"
