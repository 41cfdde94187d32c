"""What the source VM is made of, kept beside the commit record: a VM that is gone from its site can be made again (spec §8)."""

from pydantic import TypeAdapter

from activities.adapters import Site
from deltaferry.model.hardware import VmHardware
from deltaferry.model.naming import SOURCE_HARDWARE, gateway_container
from deltaferry.model.replication import ReplicationRef

_HARDWARE = TypeAdapter(VmHardware)


def remember_hardware(site: Site, ref: ReplicationRef) -> None:
    """Store what the source VM is made of now; nothing is written where that is stored already."""
    key = f"{gateway_container(ref)}/{SOURCE_HARDWARE}"
    now = _HARDWARE.dump_json(site.hypervisor.read_hardware(ref.instance_uuid))
    if site.stores.gateway.get_if_exists(key) != now:
        site.stores.gateway.put(key, now)


def remembered_hardware(site: Site, ref: ReplicationRef) -> VmHardware | None:
    """Return what the source VM was made of when a cycle last looked; None where none has."""
    stored = site.stores.gateway.get_if_exists(f"{gateway_container(ref)}/{SOURCE_HARDWARE}")
    return None if stored is None else _HARDWARE.validate_json(stored)
