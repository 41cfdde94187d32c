"""Microsoft.Network/networkInterfaces: NICs with their private addresses."""

import uuid
from typing import Any

from lab.arm.addresses import allocate, check_static, parse_prefix
from lab.arm.calls import Call, Reply
from lab.arm.disk_rules import check_tags
from lab.arm.errors import ArmError, Json
from lab.arm.networks import check_same_region, missing_reference
from lab.arm.operations import Operations
from lab.arm.resource_ids import ResourceId, parse_id, same
from lab.arm.world import Resource, World


class NetworkInterfaces:
    """Serves NICs."""

    type = "Microsoft.Network/networkInterfaces"

    def __init__(self, world: World, operations: Operations) -> None:
        self._world, self._operations = world, operations

    def put(self, resource_id: ResourceId, body: Json, call: Call) -> Reply:
        """Create or update a NIC; addresses are taken at once."""
        location = self._world.check_location(body.get("location"), self.type)
        check_tags(body.get("tags"))
        existing = self._world.find(resource_id)
        if existing is not None and existing.body["location"] != location:
            raise ArmError(
                409,
                "InvalidResourceLocation",
                f"The resource '{resource_id.leaf}' already exists in location '{existing.body['location']}'.",
            )
        running = self._operations.running(resource_id.key)
        if running is not None and running.action == "networkinterfaces.delete":
            raise ArmError(409, "AnotherOperationInProgress", f"Another operation on {resource_id} is in progress.")
        resource_id.check_name()
        configurations = self._configurations(resource_id, body.get("properties") or {}, location, existing)
        nic = existing or Resource(
            resource_id,
            self.type,
            {
                "location": location,
                "properties": {"resourceGuid": str(uuid.uuid4()), "enableIPForwarding": False, "hostedWorkloads": []},
            },
        )
        nic.body.update(tags=dict(body.get("tags") or {}), etag=f'W/"{uuid.uuid4()}"')
        nic.properties.update(
            ipConfigurations=configurations,
            provisioningState="Updating",
            enableAcceleratedNetworking=bool((body.get("properties") or {}).get("enableAcceleratedNetworking", False)),
        )
        self._world.add(nic)

        def commit() -> Json:
            nic.properties["provisioningState"] = "Succeeded"
            return nic.document()

        def fail() -> None:
            if existing is None:
                self._world.remove(nic)
            else:
                nic.properties["provisioningState"] = "Failed"

        verb = "update" if existing else "create"
        operation = self._operations.start(f"networkinterfaces.{verb}", resource_id.key, location, commit=commit, fail=fail)
        return self._operations.accepted(call, operation, 200 if existing else 201, nic.document())

    def patch(self, resource_id: ResourceId, body: Json, call: Call) -> Reply:
        """Update tags."""
        nic = self._world.get(resource_id)
        check_tags(body.get("tags"))
        nic.body["tags"] = dict(body.get("tags") or {})
        return Reply(200, nic.document())

    def delete(self, resource_id: ResourceId, call: Call) -> Reply:
        """Delete a NIC that no VM has."""
        nic = self._world.find(resource_id)
        if nic is None:
            return Reply(204)
        vm = nic.properties.get("virtualMachine")
        if vm:
            raise ArmError(400, "NicInUse", f"Network Interface {nic.id} is used by existing resource {vm['id']}.")
        running = self._operations.running(resource_id.key)
        if running is not None and running.action == "networkinterfaces.delete":
            return self._operations.accepted(call, running)
        nic.properties["provisioningState"] = "Deleting"
        operation = self._operations.start(
            "networkinterfaces.delete",
            resource_id.key,
            nic.body["location"],
            commit=lambda: self._world.remove(nic),
            fail=lambda: nic.properties.update(provisioningState="Failed"),
        )
        return self._operations.accepted(call, operation)

    def action(self, resource_id: ResourceId, name: str, body: Json, call: Call) -> Reply:
        """Refuse: no actions are known."""
        raise ArmError(404, "InvalidResourceType", f"The action '{name}' is not known for {self.type}.")

    def _configurations(self, resource_id: ResourceId, properties: Json, location: str, existing: Resource | None) -> list[Json]:
        wanted = properties.get("ipConfigurations") or []
        if not wanted:
            raise ArmError(
                400,
                "NetworkInterfaceMustHaveOneIpConfiguration",
                f"Network interface {resource_id} must have one or more IP configurations.",
            )
        if any(not configuration.get("name") for configuration in wanted):
            raise ArmError(400, "InvalidRequestFormat", "Cannot parse the request: an IP configuration has no name.")
        had = {c["name"]: c["properties"] for c in existing.properties["ipConfigurations"]} if existing else {}
        return [
            self._configuration(resource_id, number, configuration, had.get(configuration["name"]), location)
            for number, configuration in enumerate(wanted)
        ]

    def _configuration(self, resource_id: ResourceId, number: int, wanted: Json, had: Json | None, location: str) -> Json:
        properties: Json = wanted.get("properties") or {}
        reference = str((properties.get("subnet") or {}).get("id", ""))
        parsed = parse_id(reference)
        subnet = self._world.find(reference)
        if parsed is None or parsed.kind != "subnets" or subnet is None:
            raise missing_reference(reference)
        network = self._world.get(ResourceId(parsed.subscription, parsed.group, parsed.namespace, parsed.type, parsed.name))
        check_same_region(network, location, reference)
        prefix = parse_prefix(subnet.properties["addressPrefix"])
        used = self._used(subnet, resource_id)
        method = properties.get("privateIPAllocationMethod", "Dynamic")
        if str(method).lower() == "static":
            address = check_static(properties.get("privateIPAddress"), prefix, used, subnet.id.leaf)
        elif had is not None and same(had["subnet"]["id"], reference):
            address = had["privateIPAddress"]
        else:
            address = allocate(prefix, used, subnet.id.leaf)
        return {
            "name": wanted["name"],
            "id": f"{resource_id}/ipConfigurations/{wanted['name']}",
            "etag": f'W/"{uuid.uuid4()}"',
            "properties": {
                "provisioningState": "Succeeded",
                "subnet": {"id": str(subnet.id)},
                "privateIPAddress": address,
                "privateIPAllocationMethod": "Static" if str(method).lower() == "static" else "Dynamic",
                "privateIPAddressVersion": "IPv4",
                "primary": bool(properties.get("primary", number == 0)),
            },
        }

    def _used(self, subnet: Resource, besides: ResourceId) -> list[Any]:
        return [
            configuration["properties"]["privateIPAddress"]
            for nic in self._world.of_kind("networkinterfaces")
            if nic.id.key != besides.key
            for configuration in nic.properties["ipConfigurations"]
            if same(configuration["properties"]["subnet"]["id"], str(subnet.id))
        ]
