"""Puts the endpoint together from its seed: subscription, locations, resource groups and networks."""

import json
import ssl
from dataclasses import dataclass
from pathlib import Path

from lab.arm.automation import Automation
from lab.arm.calls import Provider
from lab.arm.disk_access import DiskAccess
from lab.arm.disks import Disks
from lab.arm.errors import Json
from lab.arm.faults import Faults, Times
from lab.arm.groups import group_document
from lab.arm.guests import Guests
from lab.arm.interfaces import NetworkInterfaces
from lab.arm.networks import Subnets, VirtualNetworks, put_subnet
from lab.arm.operations import Operations
from lab.arm.page_plane import PagePlane
from lab.arm.resource_ids import ResourceId
from lab.arm.routing import Router
from lab.arm.server import ArmServer
from lab.arm.snapshots import Snapshots
from lab.arm.throttling import Buckets
from lab.arm.vms import VirtualMachines
from lab.arm.world import Resource, World, normal_location, read_accounts

DEFAULT_SEED: Json = {
    "subscription_id": "00000000-0000-0000-0000-000000000001",
    "locations": ["lab"],
    "resource_groups": [{"name": "rg-target", "location": "lab"}],
    "virtual_networks": [
        {
            "resource_group": "rg-target",
            "name": "vnet",
            "location": "lab",
            "address_prefixes": ["10.0.0.0/16"],
            "subnets": [
                {"name": "default", "address_prefix": "10.0.0.0/24"},
                {"name": "isolated", "address_prefix": "10.0.1.0/24"},
            ],
        }
    ],
    "automation_accounts": [
        {
            "resource_group": "rg-target",
            "name": "automation",
            "runbooks": [{"name": "Update-Dns", "seconds": 1.0, "output": "updated\n"}],
        }
    ],
}
"""What exists when no seed is given; a seed file has the same shape."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line decides. The repr hides the tokens' values by not holding them."""

    directory: Path
    certificate: Path
    key: Path
    ca: Path
    accounts: Path
    seed: Path | None
    times: Times
    throttling_scale: float
    guest_bytes_per_second: int = 0
    """What the guests of VMs write; 0: nothing, unless switched on for a VM."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The endpoint's parts that the control endpoint needs as well."""

    server: ArmServer
    world: World
    operations: Operations
    buckets: Buckets
    vms: VirtualMachines
    guests: Guests


def assemble(options: Options, token: str) -> Parts:
    """Return the endpoint, listening but not yet serving."""
    seed = json.loads(options.seed.read_text(encoding="utf-8")) if options.seed else DEFAULT_SEED
    (options.directory / "disks").mkdir(parents=True, exist_ok=True)
    locations = tuple(seed["locations"])
    world = World(
        subscription_id=seed["subscription_id"],
        locations=locations,
        directory=options.directory,
        faults=Faults(times=options.times),
        accounts=read_accounts(options.accounts, locations[0]),
    )
    _sow(world, seed)
    operations = Operations(world)
    access = DiskAccess(world, operations)
    (options.directory / "guests").mkdir(exist_ok=True)
    guests = Guests(options.directory / "guests", options.guest_bytes_per_second)
    vms = VirtualMachines(world, operations, guests)
    providers: list[Provider] = [
        Disks(world, operations, access, ssl.create_default_context(cafile=str(options.ca))),
        Snapshots(world, operations, access),
        vms,
        VirtualNetworks(world, operations),
        Subnets(world, operations),
        NetworkInterfaces(world, operations),
    ]
    buckets = Buckets(options.throttling_scale)
    router = Router(world, operations, buckets, providers, Automation(world, seed.get("automation_accounts", [])), token)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.minimum_version = ssl.TLSVersion.TLSv1_2
    serving.load_cert_chain(options.certificate, options.key)
    return Parts(ArmServer(router, PagePlane(world, access), world.faults, serving), world, operations, buckets, vms, guests)


def _sow(world: World, seed: Json) -> None:
    for group in seed.get("resource_groups", []):
        world.groups[group["name"].lower()] = group_document(
            world, group["name"], normal_location(group["location"]), group.get("tags", {})
        )
    for network in seed.get("virtual_networks", []):
        network_id = ResourceId(
            world.subscription_id, network["resource_group"], "Microsoft.Network", "virtualNetworks", network["name"]
        )
        resource = Resource(
            network_id,
            VirtualNetworks.type,
            {
                "location": normal_location(network["location"]),
                "tags": {},
                "properties": {
                    "addressSpace": {"addressPrefixes": list(network["address_prefixes"])},
                    "provisioningState": "Succeeded",
                },
            },
        )
        world.add(resource)
        for subnet in network["subnets"]:
            put_subnet(world, resource, subnet["name"], {"addressPrefix": subnet["address_prefix"]})
