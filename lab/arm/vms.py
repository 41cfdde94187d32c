"""Microsoft.Compute/virtualMachines: made of existing disks and NICs, started, stopped and deleted."""

import uuid
from collections.abc import Callable

from lab.arm.calls import Call, Reply
from lab.arm.disk_content import DiskContent
from lab.arm.disk_rules import check_tags
from lab.arm.errors import ArmError, Json, change_not_allowed, not_allowed
from lab.arm.guests import GuestDisk, Guests
from lab.arm.operations import Operations, now_text
from lab.arm.resource_ids import ResourceId, same, upper_group
from lab.arm.vm_rules import VmParts, check_quota, check_vm
from lab.arm.vm_sizes import SIZES
from lab.arm.world import Resource, World

_KEPT = (
    "hardwareProfile", "storageProfile", "networkProfile", "securityProfile", "licenseType", "additionalCapabilities",
    "diagnosticsProfile", "userData", "extensionsTimeBudget", "priority", "evictionPolicy",
)  # fmt: skip
_POWER = {
    "start": "running",
    "restart": "running",
    "poweroff": "stopped",
    "deallocate": "deallocated",
}


class VirtualMachines:
    """Serves VMs. Power states are kept beside the documents, since a GET shows them only as instance view."""

    type = "Microsoft.Compute/virtualMachines"

    def __init__(self, world: World, operations: Operations, guests: Guests) -> None:
        self._world, self._operations, self._guests = world, operations, guests
        self._power: dict[str, str] = {}

    def power(self, resource_id: ResourceId) -> str:
        """Return a VM's power state: `creating`, `running`, `stopped`, `deallocated`."""
        return self._power.get(resource_id.key, "creating")

    def put(self, resource_id: ResourceId, body: Json, call: Call) -> Reply:
        """Create a VM and start it, or update one."""
        location = self._world.check_location(body.get("location"), self.type)
        resource_id.check_name()
        existing = self._world.find(resource_id)
        running = self._operations.running(resource_id.key)
        if existing is not None and existing.body["location"] != location:
            raise ArmError(
                409,
                "InvalidResourceLocation",
                f"The resource '{resource_id.leaf}' already exists in location '{existing.body['location']}'.",
            )
        if running is not None and running.action != "virtualmachines.create":
            raise ArmError(409, "ConflictingUserInput", f"VM '{resource_id.leaf}' is being changed by another operation.")
        parts = check_vm(self._world, resource_id, body, location)
        if existing is not None:
            self._check_update(existing, body, parts)
            if running is not None:
                return self._operations.accepted(call, running, 200, self._document(existing, call))
        check_quota(self._world, parts.size, resource_id, location)
        vm = existing or Resource(
            resource_id, self.type, {"location": location, "properties": {"vmId": str(uuid.uuid4()), "timeCreated": now_text()}}
        )
        created = existing is None or existing.properties["provisioningState"] == "Failed"
        if existing is not None and self._disk_ids(existing) != [disk.id.key for disk in parts.disks]:
            self._guests.stop(existing, "its disks change")
        self._describe(vm, body, parts, "Creating" if created else "Updating")
        self._world.add(vm)
        self._release_unused(vm, parts)
        self._attach(vm, parts)

        def commit() -> Json:
            vm.properties["provisioningState"] = "Succeeded"
            if created:
                self._set_power(vm, "running")
            self.start_guest(vm)
            return self._document(vm, call)

        def fail() -> None:
            vm.properties["provisioningState"] = "Failed"

        verb = "create" if created else "update"
        operation = self._operations.start(f"virtualmachines.{verb}", resource_id.key, location, commit=commit, fail=fail)
        return self._operations.accepted(call, operation, 201 if existing is None else 200, self._document(vm, call))

    def patch(self, resource_id: ResourceId, body: Json, call: Call) -> Reply:
        """Update tags; of other changes only PUT is known."""
        vm = self._world.get(resource_id)
        if set(body) - {"tags"}:
            raise ArmError(400, "BadRequest", "Only tags can be changed by PATCH here.")
        check_tags(body.get("tags"))
        vm.body["tags"] = dict(body.get("tags") or {})
        return Reply(200, self._document(vm, call))

    def delete(self, resource_id: ResourceId, call: Call) -> Reply:
        """Delete a VM; disks and NICs go with it where their deleteOption says so, and are set free otherwise."""
        vm = self._world.find(resource_id)
        if vm is None:
            return Reply(204)
        running = self._operations.running(resource_id.key)
        if running is not None and running.action == "virtualmachines.delete":
            return self._operations.accepted(call, running)
        if running is not None:
            raise ArmError(409, "ConflictingUserInput", f"VM '{resource_id.leaf}' is being changed by another operation.")
        vm.properties["provisioningState"] = "Deleting"

        def fail() -> None:
            vm.properties["provisioningState"] = "Failed"

        operation = self._operations.start(
            "virtualmachines.delete", resource_id.key, vm.body["location"], commit=lambda: self._remove(vm), fail=fail
        )
        return self._operations.accepted(call, operation)

    def action(self, resource_id: ResourceId, name: str, body: Json, call: Call) -> Reply:
        """Serve power operations, `instanceView` and `vmSizes`."""
        vm = self._world.get(resource_id)
        if call.method == "GET" and name == "instanceview":
            return Reply(200, self._instance_view(vm))
        if call.method == "GET" and name == "vmsizes":
            return Reply(200, {"value": [size.document() for size in SIZES.values()]})
        if call.method != "POST" or name not in _POWER:
            raise ArmError(404, "InvalidResourceType", f"The action '{name}' is not known for {self.type}.")
        if self._operations.running(resource_id.key) is not None:
            raise ArmError(409, "ConflictingUserInput", f"VM '{resource_id.leaf}' is being changed by another operation.")
        if name == "start":
            self._check_access(vm)
        if name == "restart" and self.power(resource_id) != "running":
            raise not_allowed(f"Cannot restart VM '{resource_id.leaf}': it is not running.")
        if name == "poweroff" and self.power(resource_id) == "deallocated":
            raise not_allowed(f"Cannot power off VM '{resource_id.leaf}': it is deallocated.")

        def commit() -> None:
            if name != "start":
                self._guests.stop(vm, f"the VM is to {name}")
            self._set_power(vm, _POWER[name])
            self.start_guest(vm)

        operation = self._operations.start(f"virtualmachines.{name}", resource_id.key, vm.body["location"], commit=commit)
        return self._operations.accepted(call, operation)

    def _check_access(self, vm: Resource) -> None:
        """Refuse to start a VM while somebody reads one of its disks through a signature."""
        for disk_id in self._disk_ids(vm):
            disk = self._world.find(disk_id)
            if disk is not None and disk.properties["diskState"] == "ActiveSAS":
                raise not_allowed(
                    f"There is an active shared access signature outstanding for disk {disk.id.leaf}. "
                    f"Call EndGetAccess before starting VM {vm.id.leaf}."
                )

    def start_guest(self, vm: Resource) -> None:
        """Let a VM's guest write if the VM runs and its guest is switched on; no-op if it writes already."""
        if self.power(vm.id) != "running":
            return
        found = [self._world.find(disk_id) for disk_id in self._disk_ids(vm)]
        entries = [{"lun": -1}, *vm.properties["storageProfile"]["dataDisks"]]
        self._guests.start(
            vm,
            [
                GuestDisk(entry["lun"] + 1, disk.content, disk.properties["diskSizeBytes"])
                for entry, disk in zip(entries, found, strict=True)
                if disk is not None and isinstance(disk.content, DiskContent)
            ],
        )

    @staticmethod
    def _disk_ids(vm: Resource) -> list[str]:
        storage = vm.properties["storageProfile"]
        return [entry["managedDisk"]["id"].lower() for entry in (storage["osDisk"], *storage["dataDisks"])]

    def document(self, vm: Resource, expand: str) -> Json:
        """Return a VM as a GET shows it, with `$expand=instanceView` if asked for."""
        document = vm.document()
        if expand.lower() == "instanceview":
            document["properties"] = {**vm.properties, "instanceView": self._instance_view(vm)}
        return document

    def _document(self, vm: Resource, call: Call) -> Json:
        return self.document(vm, call.query.get("$expand", ""))

    def _instance_view(self, vm: Resource) -> Json:
        state, power = vm.properties["provisioningState"], self.power(vm.id)
        word = {"Succeeded": "succeeded", "Failed": "failed", "Deleting": "deleting"}.get(state, "updating")
        statuses: list[Json] = [
            {
                "code": f"ProvisioningState/{word}",
                "level": "Error" if word == "failed" else "Info",
                "displayStatus": f"Provisioning {word}",
            }
        ]
        if power != "creating":
            statuses.append({"code": f"PowerState/{power}", "level": "Info", "displayStatus": f"VM {power}"})
        return {"statuses": statuses, "hyperVGeneration": self._os_disk_generation(vm)}

    def _os_disk_generation(self, vm: Resource) -> str:
        disk = self._world.find(vm.properties["storageProfile"]["osDisk"]["managedDisk"]["id"])
        return str(disk.properties.get("hyperVGeneration", "V1")) if disk is not None else "V1"

    def _check_update(self, vm: Resource, body: Json, parts: VmParts) -> None:
        if not same(vm.properties["storageProfile"]["osDisk"]["managedDisk"]["id"], str(parts.os_disk.id)):
            raise change_not_allowed("osDisk.managedDisk.id")
        if (vm.body.get("zones") or []) != (body.get("zones") or []):
            raise change_not_allowed("zones")
        nics = [entry["id"].lower() for entry in vm.properties["networkProfile"]["networkInterfaces"]]
        if sorted(nics) != sorted(nic.id.key for nic in parts.nics) and self.power(vm.id) == "running":
            raise not_allowed("Network interfaces can only be changed while the VM is deallocated.")

    def _describe(self, vm: Resource, body: Json, parts: VmParts, state: str) -> None:
        given: Json = body["properties"]
        vm.body["tags"] = dict(body.get("tags") or {})
        if body.get("zones"):
            vm.body["zones"] = list(body["zones"])
        for name in _KEPT:
            if given.get(name) is not None:
                vm.properties[name] = given[name]
        vm.properties["hardwareProfile"] = {**given["hardwareProfile"], "vmSize": parts.size.name}
        storage = given["storageProfile"]
        vm.properties["storageProfile"] = {
            **storage,
            "osDisk": _disk_entry(storage["osDisk"], parts.os_disk),
            "dataDisks": [
                _disk_entry(entry, disk) for entry, disk in zip(storage.get("dataDisks") or [], parts.data_disks, strict=True)
            ],
        }
        vm.properties["provisioningState"] = state

    def _attach(self, vm: Resource, parts: VmParts) -> None:
        for disk in parts.disks:
            disk.body["managedBy"] = upper_group(vm.id)
            disk.properties["diskState"] = "Reserved" if self.power(vm.id) == "deallocated" else "Attached"
        for nic in parts.nics:
            nic.properties["virtualMachine"] = {"id": str(vm.id)}

    def _release_unused(self, vm: Resource, parts: VmParts) -> None:
        wanted = {resource.id.key for resource in (*parts.disks, *parts.nics)}
        self._release(vm, lambda resource: resource.id.key not in wanted)

    def _release(self, vm: Resource, chosen: Callable[[Resource], bool]) -> None:
        for disk in self._world.of_kind("disks"):
            if same(disk.body.get("managedBy"), str(vm.id)) and chosen(disk):
                del disk.body["managedBy"]
                disk.properties["diskState"] = "Unattached"
        for nic in self._world.of_kind("networkinterfaces"):
            user = nic.properties.get("virtualMachine")
            if user and same(user["id"], str(vm.id)) and chosen(nic):
                del nic.properties["virtualMachine"]

    def _set_power(self, vm: Resource, power: str) -> None:
        self._power[vm.id.key] = power
        for disk in self._world.of_kind("disks"):
            if same(disk.body.get("managedBy"), str(vm.id)):
                disk.properties["diskState"] = "Reserved" if power == "deallocated" else "Attached"

    def _remove(self, vm: Resource) -> None:
        self._guests.stop(vm, "the VM is deleted")
        storage = vm.properties["storageProfile"]
        entries = [storage["osDisk"], *storage["dataDisks"]]
        doomed = [entry["managedDisk"]["id"] for entry in entries if entry.get("deleteOption") == "Delete"]
        doomed += [
            entry["id"]
            for entry in vm.properties["networkProfile"]["networkInterfaces"]
            if (entry.get("properties") or {}).get("deleteOption") == "Delete"
        ]
        self._release(vm, lambda resource: True)
        for reference in doomed:
            resource = self._world.find(reference)
            if resource is not None:
                self._world.remove(resource)
        self._world.remove(vm)
        self._power.pop(vm.id.key, None)


def _disk_entry(entry: Json, disk: Resource) -> Json:
    return {
        "name": disk.id.leaf,
        "caching": "None",
        "deleteOption": "Detach",
        **entry,
        "managedDisk": {"id": upper_group(disk.id), "storageAccountType": disk.body["sku"]["name"]},
        "diskSizeGB": disk.properties["diskSizeGB"],
    }
