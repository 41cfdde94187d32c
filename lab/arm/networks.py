"""Microsoft.Network/virtualNetworks and their subnets."""

import uuid

from lab.arm.addresses import parse_prefix
from lab.arm.calls import Call, Reply
from lab.arm.disk_rules import check_tags
from lab.arm.errors import ArmError, Json
from lab.arm.operations import Operations
from lab.arm.resource_ids import ResourceId, same
from lab.arm.world import Resource, World, normal_location


def subnet_users(world: World, subnet_id: ResourceId) -> list[str]:
    """Return the ids of the IP configurations in a subnet."""
    return [
        f"{nic.id}/ipConfigurations/{configuration['name']}"
        for nic in world.of_kind("networkinterfaces")
        for configuration in nic.properties["ipConfigurations"]
        if same(configuration["properties"]["subnet"]["id"], str(subnet_id))
    ]


class VirtualNetworks:
    """Serves virtual networks; their subnets are resources of their own, shown inside."""

    type = "Microsoft.Network/virtualNetworks"

    def __init__(self, world: World, operations: Operations) -> None:
        self._world, self._operations = world, operations

    def put(self, resource_id: ResourceId, body: Json, call: Call) -> Reply:
        """Create or replace a network; `subnets` in the body are created with it."""
        location = self._world.check_location(body.get("location"), self.type)
        check_tags(body.get("tags"))
        existing = self._world.find(resource_id)
        if existing is not None and existing.body["location"] != location:
            raise ArmError(
                409,
                "InvalidResourceLocation",
                f"The resource '{resource_id.leaf}' already exists in location '{existing.body['location']}'.",
            )
        resource_id.check_name()
        properties = body.get("properties") or {}
        prefixes = (properties.get("addressSpace") or {}).get("addressPrefixes") or []
        if not prefixes:
            raise ArmError(400, "InvalidRequestFormat", "Cannot parse the request: addressSpace.addressPrefixes is required.")
        for prefix in prefixes:
            parse_prefix(prefix)
        network = existing or Resource(
            resource_id, self.type, {"location": location, "properties": {"resourceGuid": str(uuid.uuid4())}}
        )
        network.body["tags"] = dict(body.get("tags") or {})
        network.properties.update(addressSpace={"addressPrefixes": list(prefixes)}, provisioningState="Succeeded")
        self._world.add(network)
        for subnet in properties.get("subnets") or []:
            put_subnet(self._world, network, subnet.get("name", ""), subnet.get("properties") or {})
        document = network_document(self._world, network)
        operation = self._operations.start("virtualnetworks.create", resource_id.key, location, commit=lambda: document)
        return self._operations.accepted(call, operation, 200 if existing else 201, document)

    def patch(self, resource_id: ResourceId, body: Json, call: Call) -> Reply:
        """Update tags."""
        network = self._world.get(resource_id)
        check_tags(body.get("tags"))
        network.body["tags"] = dict(body.get("tags") or {})
        return Reply(200, network_document(self._world, network))

    def delete(self, resource_id: ResourceId, call: Call) -> Reply:
        """Delete a network none of whose subnets is in use."""
        network = self._world.find(resource_id)
        if network is None:
            return Reply(204)
        subnets = subnets_of(self._world, network)
        for subnet in subnets:
            _check_unused(self._world, subnet)

        def commit() -> None:
            for resource in [*subnets, network]:
                self._world.remove(resource)

        operation = self._operations.start("virtualnetworks.delete", resource_id.key, network.body["location"], commit=commit)
        return self._operations.accepted(call, operation)

    def action(self, resource_id: ResourceId, name: str, body: Json, call: Call) -> Reply:
        """Refuse: no actions are known."""
        raise ArmError(404, "InvalidResourceType", f"The action '{name}' is not known for {self.type}.")


class Subnets:
    """Serves subnets."""

    type = "Microsoft.Network/virtualNetworks/subnets"

    def __init__(self, world: World, operations: Operations) -> None:
        self._world, self._operations = world, operations

    def put(self, resource_id: ResourceId, body: Json, call: Call) -> Reply:
        """Create or replace a subnet of an existing network."""
        network = self._network(resource_id)
        existed = self._world.find(resource_id) is not None
        subnet = put_subnet(self._world, network, resource_id.leaf, body.get("properties") or {})
        document = subnet_document(subnet)
        operation = self._operations.start("subnets.create", resource_id.key, network.body["location"], commit=lambda: document)
        return self._operations.accepted(call, operation, 200 if existed else 201, document)

    def patch(self, resource_id: ResourceId, body: Json, call: Call) -> Reply:
        """Refuse, as Network does."""
        raise ArmError(405, "HttpMethodNotAllowed", "The requested HTTP method is not allowed on this resource.")

    def delete(self, resource_id: ResourceId, call: Call) -> Reply:
        """Delete a subnet that is not in use."""
        subnet = self._world.find(resource_id)
        if subnet is None:
            return Reply(204)
        _check_unused(self._world, subnet)
        location = self._network(resource_id).body["location"]
        operation = self._operations.start("subnets.delete", resource_id.key, location, commit=lambda: self._world.remove(subnet))
        return self._operations.accepted(call, operation)

    def action(self, resource_id: ResourceId, name: str, body: Json, call: Call) -> Reply:
        """Refuse: no actions are known."""
        raise ArmError(404, "InvalidResourceType", f"The action '{name}' is not known for {self.type}.")

    def _network(self, resource_id: ResourceId) -> Resource:
        return self._world.get(
            ResourceId(resource_id.subscription, resource_id.group, resource_id.namespace, resource_id.type, resource_id.name)
        )


def put_subnet(world: World, network: Resource, name: str, properties: Json) -> Resource:
    """Create or replace a subnet. Raises NetcfgInvalidSubnet where its prefix is outside the network or overlaps another."""
    network_id = network.id
    subnet_id = ResourceId(
        network_id.subscription, network_id.group, network_id.namespace, network_id.type, network_id.name, "subnets", name
    )
    subnet_id.check_name()
    prefix = parse_prefix(properties.get("addressPrefix") or (properties.get("addressPrefixes") or [None])[0])
    spaces = [parse_prefix(space) for space in network.properties["addressSpace"]["addressPrefixes"]]
    others = [
        parse_prefix(other.properties["addressPrefix"]) for other in subnets_of(world, network) if other.id.key != subnet_id.key
    ]
    if not any(prefix.subnet_of(space) for space in spaces) or any(prefix.overlaps(other) for other in others):
        raise ArmError(400, "NetcfgInvalidSubnet", f"Subnet '{name}' is not valid in virtual network '{network_id.leaf}'.")
    existing = world.find(subnet_id)
    if existing is not None and existing.properties["addressPrefix"] != str(prefix):
        _check_unused(world, existing)
    subnet = existing or Resource(subnet_id, Subnets.type, {"properties": {}})
    subnet.properties.update(addressPrefix=str(prefix), provisioningState="Succeeded")
    world.add(subnet)
    return subnet


def subnets_of(world: World, network: Resource) -> list[Resource]:
    """Return a network's subnets."""
    return [subnet for subnet in world.of_kind("subnets") if subnet.id.key.startswith(f"{network.id.key}/subnets/")]


def subnet_document(subnet: Resource) -> Json:
    """Return a subnet as a GET shows it."""
    return subnet.document()


def network_document(world: World, network: Resource) -> Json:
    """Return a network as a GET shows it, with its subnets."""
    document = network.document()
    document["properties"] = {**network.properties, "subnets": [subnet_document(subnet) for subnet in subnets_of(world, network)]}
    return document


def _check_unused(world: World, subnet: Resource) -> None:
    users = subnet_users(world, subnet.id)
    if users:
        raise ArmError(
            400, "InUseSubnetCannotBeDeleted", f"Subnet {subnet.id.leaf} is in use by {users[0]} and cannot be deleted."
        )


def check_same_region(network: Resource, location: str, subnet_id: str) -> None:
    """Raise InvalidResourceReference where a network is in another region than what refers to it."""
    if normal_location(network.body["location"]) != location:
        raise missing_reference(subnet_id)


def missing_reference(reference: str) -> ArmError:
    """Return Network's refusal of an id that names nothing in the region."""
    return ArmError(
        400,
        "InvalidResourceReference",
        f"Resource {reference} referenced by the request was not found. "
        "Please make sure that the referenced resource exists, and that both resources are in the same region.",
    )
