"""Networks, subnets and NICs."""

import pytest
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError


def refusal(azure, request):
    with pytest.raises(HttpResponseError) as refused:
        azure.network.network_interfaces.begin_create_or_update(azure.group, azure.name("nic"), request)
    return refused.value.error.code


def address(nic):
    return nic.properties.ip_configurations[0].properties.private_ip_address


def test_dynamic_addresses_begin_at_the_fifth_and_stay_with_their_nic(azure):
    nics = azure.network.network_interfaces
    names = [azure.name("nic") for _ in range(3)]
    request = azure.nic_request("tiny")
    made = [nics.begin_create_or_update(azure.group, name, request).result() for name in names]
    assert [address(nic) for nic in made] == ["10.0.9.4", "10.0.9.5", "10.0.9.6"]
    assert address(nics.begin_create_or_update(azure.group, names[1], request).result()) == "10.0.9.5"
    assert refusal(azure, request) == "SubnetIsFull"
    nics.begin_delete(azure.group, names[0]).result()
    again = nics.begin_create_or_update(azure.group, azure.name("nic"), request).result()
    assert address(again) == "10.0.9.4"
    for name in (*names[1:], again.name):
        nics.begin_delete(azure.group, name).result()


def test_static_addresses_are_checked(azure):
    def static(wanted):
        return azure.nic_request(privateIPAllocationMethod="Static", privateIPAddress=wanted)

    made = azure.network.network_interfaces.begin_create_or_update(azure.group, azure.name("nic"), static("10.0.0.200")).result()
    assert address(made) == "10.0.0.200"
    assert refusal(azure, static("10.0.0.200")) == "PrivateIPAddressIsAllocated"
    assert refusal(azure, static("10.0.1.7")) == "PrivateIPAddressNotInSubnet"
    assert refusal(azure, static("10.0.0.1")) == "PrivateIPAddressInReservedRange"
    assert refusal(azure, static("nonsense")) == "InvalidIPAddressFormat"


def test_a_nic_needs_a_subnet_in_its_region(azure):
    request = azure.nic_request()
    assert refusal(azure, request | {"location": "far"}) == "InvalidResourceReference"
    request["properties"]["ipConfigurations"][0]["properties"]["subnet"]["id"] += "x"
    assert refusal(azure, request) == "InvalidResourceReference"
    assert refusal(azure, request | {"location": "nowhere"}) == "LocationNotAvailableForResourceType"


def test_networks_and_subnets_are_made_shown_and_deleted_only_when_unused(azure):
    networks, name = azure.network.virtual_networks, azure.name("vnet")
    request = {
        "location": "lab",
        "properties": {
            "addressSpace": {"addressPrefixes": ["10.9.0.0/16"]},
            "subnets": [{"name": "one", "properties": {"addressPrefix": "10.9.1.0/24"}}],
        },
    }
    networks.begin_create_or_update(azure.group, name, request).result()
    second = azure.network.subnets.begin_create_or_update(
        azure.group, name, "two", {"properties": {"addressPrefix": "10.9.2.0/24"}}
    ).result()
    assert [subnet.name for subnet in networks.get(azure.group, name).properties.subnets] == ["one", "two"]
    assert [subnet.name for subnet in azure.network.subnets.list(azure.group, name)] == ["one", "two"]
    with pytest.raises(HttpResponseError) as refused:
        azure.network.subnets.begin_create_or_update(azure.group, name, "three", {"properties": {"addressPrefix": "10.9.2.0/25"}})
    assert refused.value.error.code == "NetcfgInvalidSubnet"
    configuration = {"name": "ip", "properties": {"subnet": {"id": second.id}}}
    nic = {"location": "lab", "properties": {"ipConfigurations": [configuration]}}
    azure.network.network_interfaces.begin_create_or_update(azure.group, f"{name}-nic", nic).result()
    with pytest.raises(HttpResponseError) as refused:
        azure.network.subnets.begin_delete(azure.group, name, "two")
    assert refused.value.error.code == "InUseSubnetCannotBeDeleted"
    azure.network.network_interfaces.begin_delete(azure.group, f"{name}-nic").result()
    networks.begin_delete(azure.group, name).result()
    with pytest.raises(ResourceNotFoundError):
        networks.get(azure.group, name)
