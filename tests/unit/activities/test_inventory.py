"""Taking an inventory and reading it back, on a real Azurite; what vCenter has is what each test says."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import cast
from uuid import uuid4

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.adapters import Site, Stores
from activities.inventory import Inventory, last_inventory
from deltaferry.azure.object_store import BlobObjectStore
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.inventory import DiscoveredSite, InventorySummary, UnreadableVm
from deltaferry.model.naming import SITES_CONTAINER, inventory_name
from deltaferry.model.replication import Store
from deltaferry.model.vm import Claim, DatastoreSpace, PowerState
from deltaferry.ports.access import Beat
from deltaferry.ports.data_plane import DataPlane
from deltaferry.ports.hypervisor import DiskExports, Hypervisor
from deltaferry.ports.stores import KeyWrapper, SeedStore
from tests.unit.azure.conftest import start_azurite
from tests.unit.planning.discovered import GIB, discovered, disk, snapshot
from workflows.messages.site import SiteProfile

_HOUR = timedelta(hours=1)

FOUND = DiscoveredSite(
    vms=(
        discovered("db", power=PowerState.OFF, committed=3 * GIB, claim=Claim("lab", "0" * 16), cbt_enabled=True, host="esxi-2"),
        discovered(
            "web", disks=(disk(0), disk(1, 10 * GIB, "ds2")), snapshots=(snapshot("old"),), attributes=(("owner", "shöp"),)
        ),
    ),
    datastores=(DatastoreSpace("ds1", 100 * GIB, 50 * GIB),),
    unreadable=(UnreadableVm("vm-9", "", "the site's user lacks System.Read"),),
)


class SaidVcenter:
    """A vCenter of which a test says what it has."""

    def __init__(self) -> None:
        self.found: DiscoveredSite | DeltaferryError = FOUND

    def read_inventory(self, beat: Beat) -> DiscoveredSite:
        beat()
        if isinstance(self.found, DeltaferryError):
            raise self.found
        return self.found


class Discovery:
    """A site of an installation of its own."""

    def __init__(self, gateway: BlobObjectStore) -> None:
        self.vcenter, self.gateway, self.installation = SaidVcenter(), gateway, uuid4().hex[:12]
        stores = Stores(gateway, gateway, cast("SeedStore", None), cast("KeyWrapper", None))
        self.profile = SiteProfile(self.installation, "lon1", "appliance", "west", _HOUR, _HOUR, 52, 8, 15)
        hypervisor = cast("Hypervisor", self.vcenter)
        site = Site(self.profile, hypervisor, cast("DiskExports", None), stores, cast("DataPlane", None), _HOUR, 1)
        self.step = Inventory({"lon1": site}).take_inventory

    def take(self) -> InventorySummary:
        taken: InventorySummary = ActivityEnvironment().run(self.step, self.profile)
        return taken

    @property
    def key(self) -> str:
        return f"{SITES_CONTAINER}/{inventory_name(self.installation, 'lon1')}"

    def rewrite(self, **values: object) -> None:
        """Change fields of the stored object."""
        self.gateway.put(self.key, json.dumps({**json.loads(self.gateway.get(self.key)), **values}).encode())


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BlobObjectStore]:
    azurite = start_azurite(tmp_path_factory.mktemp("azurite"))
    yield BlobObjectStore(azurite.account(), Store.GATEWAY)
    azurite.process.stop()


@pytest.fixture
def site(gateway: BlobObjectStore) -> Discovery:
    return Discovery(gateway)


def test_what_was_found_is_read_back_as_it_was(site: Discovery) -> None:
    began = datetime.now(UTC)
    taken = site.take()
    inventory = last_inventory(site.gateway, site.installation, "lon1")
    assert inventory is not None
    assert inventory.found == FOUND
    assert (inventory.installation, inventory.site, inventory.version) == (site.installation, "lon1", 1)
    assert began <= inventory.read_at == taken.read_at <= datetime.now(UTC)


def test_the_summary_counts_and_refers_to_the_object(site: Discovery) -> None:
    taken = site.take()
    assert (taken.ref.key, taken.ref.store) == (site.key, Store.GATEWAY)
    assert len(site.gateway.get(site.key)) == taken.size_bytes
    counts = (taken.vms, taken.powered_on, taken.replicated, taken.tracked, taken.with_snapshots, taken.hosts, taken.disks)
    assert counts == (2, 1, 1, 1, 1, 2, 3)
    assert (taken.capacity_bytes, taken.expected_bytes, taken.unreadable) == (90 * GIB, 53 * GIB, 1)


def test_a_new_inventory_takes_the_place_of_the_last_one(site: Discovery) -> None:
    assert last_inventory(site.gateway, site.installation, "lon1") is None
    site.take()
    site.vcenter.found = replace(FOUND, vms=FOUND.vms[:1])
    site.take()
    inventory = last_inventory(site.gateway, site.installation, "lon1")
    assert inventory is not None
    assert inventory.found.vms == FOUND.vms[:1]


def test_a_reading_that_fails_leaves_the_last_inventory(site: Discovery) -> None:
    site.take()
    site.vcenter.found = DeltaferryError(ErrorKind.VSPHERE_UNREACHABLE, "no answer")
    with pytest.raises(ApplicationError) as caught:
        site.take()
    assert caught.value.type == "VsphereUnreachable"
    inventory = last_inventory(site.gateway, site.installation, "lon1")
    assert inventory is not None
    assert inventory.found == FOUND


def test_a_field_of_a_later_release_is_ignored(site: Discovery) -> None:
    site.take()
    site.rewrite(weather="fine")
    inventory = last_inventory(site.gateway, site.installation, "lon1")
    assert inventory is not None
    assert inventory.found == FOUND


@pytest.mark.parametrize(
    ("values", "says"), [({"version": 2}, "its version is 2, not 1"), ({"found": {"vms": []}}, "it has 2 errors")]
)
def test_an_inventory_that_cannot_be_read_is_refused_whole(site: Discovery, values: dict[str, object], says: str) -> None:
    site.take()
    site.rewrite(**values)
    with pytest.raises(DeltaferryError) as caught:
        last_inventory(site.gateway, site.installation, "lon1")
    assert caught.value.kind is ErrorKind.STORE_OBJECT_MISSING
    assert says in caught.value.detail
    assert "deltaferry discover lon1 --refresh" in caught.value.detail


def test_one_that_is_no_json_is_refused_too(site: Discovery) -> None:
    site.take()
    site.gateway.put(site.key, b'{"version": 1, "installation": "lab"')
    with pytest.raises(DeltaferryError) as caught:
        last_inventory(site.gateway, site.installation, "lon1")
    assert caught.value.kind is ErrorKind.STORE_OBJECT_MISSING
