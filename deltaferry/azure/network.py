"""Virtual networks, which must exist, and network interfaces, which are made for a target VM."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from azure.core.exceptions import ResourceNotFoundError
from azure.mgmt.network.models import (
    IPAllocationMethod,
    NetworkInterface,
    NetworkInterfaceIPConfiguration,
    NetworkInterfaceIPConfigurationPropertiesFormat,
    NetworkInterfacePropertiesFormat,
    Subnet,
)

from deltaferry.azure.arm import ArmClients, carries, failed, require_tags, same_id
from deltaferry.azure.errors import arm_errors
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.ports.access import Beat

_NETWORK_ID = re.compile(
    r"/subscriptions/(?P<subscription>[^/]+)/resourceGroups/(?P<group>[^/]+)"
    r"/providers/Microsoft\.Network/virtualNetworks/(?P<name>[^/]+)/?",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class NetworkRef:
    """Which virtual network: its resource group and name."""

    resource_group: str
    name: str

    @property
    def key(self) -> tuple[str, str]:
        """Return what is equal for one network: Resource Manager's names do not tell upper from lower case."""
        return self.resource_group.lower(), self.name.lower()


def nic_name(vm_name: str) -> str:
    """Return the name of a target VM's network interface: at most 80 characters, as the VM's has at most 64."""
    return f"{vm_name}-nic"


class Networks:
    """Virtual networks and network interfaces of one subscription."""

    def __init__(self, arm: ArmClients) -> None:
        self._arm = arm

    def resolve(self, resource_group: str, network: str) -> NetworkRef:
        """Return the network that a name in the VM's resource group, or a whole resource id, stands for.

        Raises BAD_INPUT for the id of something else, or of another subscription: a VM's network must be in its own.
        """
        if not network.startswith("/"):
            return NetworkRef(resource_group, network)
        match = _NETWORK_ID.fullmatch(network)
        if match is None or match["subscription"].lower() != self._arm.settings.subscription_id.lower():
            raise DeltaferryError(
                ErrorKind.BAD_INPUT,
                f"{network} is not the id of a virtual network of subscription {self._arm.settings.subscription_id}",
            )
        return NetworkRef(match["group"], match["name"])

    def network_exists(self, ref: NetworkRef) -> bool:
        """Return whether a virtual network exists."""
        with arm_errors(f"reading virtual network {ref.name}"):
            try:
                self._arm.network.virtual_networks.get(ref.resource_group, ref.name)
            except ResourceNotFoundError:
                return False
            return True

    def find_subnet(self, ref: NetworkRef, name: str) -> str | None:
        """Return a subnet's resource id, or None."""
        with arm_errors(f"reading subnet {ref.name}/{name}"):
            try:
                return self._arm.network.subnets.get(ref.resource_group, ref.name, name).id
            except ResourceNotFoundError:
                return None

    def create_nic(
        self, resource_group: str, vm_name: str, network: str, subnet: str, tags: Mapping[str, str], beat: Beat
    ) -> str:
        """Return the id of a VM's network interface, creating it with a dynamic address.

        One that is in that subnet already is left as it is. Raises AZURE_CONFLICT, AZURE_NOT_FOUND.
        """
        name = nic_name(vm_name)
        existing = self._settled(resource_group, name, beat)
        if existing is not None:
            require_tags(f"network interface {name}", existing.tags, tags)
        ref = self.resolve(resource_group, network)
        subnet_id = self.find_subnet(ref, subnet)
        if subnet_id is None:
            raise DeltaferryError(ErrorKind.AZURE_NOT_FOUND, f"network {ref.name} in {ref.resource_group} has no subnet {subnet}")
        if existing is not None and existing.id and not failed(_state(existing)) and same_id(_subnet_id(existing), subnet_id):
            return existing.id
        address = NetworkInterfaceIPConfigurationPropertiesFormat(
            subnet=Subnet(id=subnet_id), private_ip_allocation_method=IPAllocationMethod.DYNAMIC, primary=True
        )
        request = NetworkInterface(
            location=self._arm.settings.location,
            tags=dict(tags),
            properties=NetworkInterfacePropertiesFormat(
                ip_configurations=[NetworkInterfaceIPConfiguration(name="ipconfig1", properties=address)]
            ),
        )
        nic = self._arm.run(
            f"creating network interface {name}",
            lambda polling: self._arm.network.network_interfaces.begin_create_or_update(
                resource_group, name, request, polling=polling
            ),
            beat,
        )
        if not nic.id:
            raise DeltaferryError(ErrorKind.AZURE_FAILED, f"network interface {name} came without an id")
        return nic.id

    def delete_nic(self, resource_group: str, vm_name: str, tags: Mapping[str, str], beat: Beat) -> None:
        """Delete a VM's network interface if it carries the tags; no-op if it does not, or is gone."""
        name = nic_name(vm_name)
        nic = self._settled(resource_group, name, beat)
        if nic is None or not carries(nic.tags, tags):
            return
        self._arm.run(
            f"deleting network interface {name}",
            lambda polling: self._arm.network.network_interfaces.begin_delete(resource_group, name, polling=polling),
            beat,
        )

    def _settled(self, resource_group: str, name: str, beat: Beat) -> NetworkInterface | None:
        return self._arm.settled(lambda: self._find(resource_group, name), _state, beat)

    def _find(self, resource_group: str, name: str) -> NetworkInterface | None:
        with arm_errors(f"reading network interface {name}"):
            try:
                return self._arm.network.network_interfaces.get(resource_group, name)
            except ResourceNotFoundError:
                return None


def _state(nic: NetworkInterface) -> str | None:
    state = nic.properties.provisioning_state if nic.properties else None
    return None if state is None else str(getattr(state, "value", state))


def _subnet_id(nic: NetworkInterface) -> str | None:
    configurations = (nic.properties.ip_configurations if nic.properties else None) or []
    subnets = [entry.properties.subnet for entry in configurations if entry.properties and entry.properties.subnet]
    return subnets[0].id if subnets else None
