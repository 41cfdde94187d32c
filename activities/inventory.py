"""Discovery: reading a site's VMs and keeping the list in the gateway store, whole, as one object."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime

from pydantic import TypeAdapter, ValidationError
from temporalio import activity

from activities.adapters import Site
from activities.failures import translated
from activities.progress import Heartbeats
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.inventory import INVENTORY_VERSION, InventorySummary, SiteInventory, summary
from deltaferry.model.naming import SITES_CONTAINER, inventory_name
from deltaferry.ports.stores import ObjectStore
from workflows.messages.site import SiteProfile

_ADAPTER = TypeAdapter(SiteInventory)


class Inventory:
    """Takes the inventory of a site."""

    def __init__(self, sites: Mapping[str, Site]) -> None:
        self._sites = sites

    @activity.defn
    @translated
    def take_inventory(self, profile: SiteProfile) -> InventorySummary:
        """Read the site's VMs, store the list in place of the last one, and return it in numbers."""
        site = self._sites[profile.site]
        began, read_at = time.monotonic(), datetime.now(UTC)
        found = site.hypervisor.read_inventory(Heartbeats(f"reading the VMs of {profile.site}").beat)
        inventory = SiteInventory(INVENTORY_VERSION, profile.installation, profile.site, read_at, found)
        data = _ADAPTER.dump_json(inventory)
        gateway = site.stores.gateway
        gateway.create_container(SITES_CONTAINER)
        ref = gateway.put(f"{SITES_CONTAINER}/{inventory_name(profile.installation, profile.site)}", data)
        return summary(inventory, ref, len(data), round(time.monotonic() - began, 3))


def last_inventory(gateway: ObjectStore, installation: str, site: str) -> SiteInventory | None:
    """Return a site's last inventory, or None if none was taken yet.

    Raises STORE_OBJECT_MISSING for one that cannot be read: damaged, or written by a release that this one does not know.
    """
    data = gateway.get_if_exists(f"{SITES_CONTAINER}/{inventory_name(installation, site)}")
    if data is None:
        return None
    try:
        inventory = _ADAPTER.validate_json(data)
    except ValidationError as error:
        raise _unusable(site, f"it has {error.error_count()} errors") from None
    if inventory.version != INVENTORY_VERSION:
        raise _unusable(site, f"its version is {inventory.version}, not {INVENTORY_VERSION}")
    return inventory


def _unusable(site: str, problem: str) -> DeltaferryError:
    return DeltaferryError(
        ErrorKind.STORE_OBJECT_MISSING,
        f"The stored inventory of the site {site!r} cannot be used: {problem}. `deltaferry discover {site} --refresh` takes a new one.",
    )
