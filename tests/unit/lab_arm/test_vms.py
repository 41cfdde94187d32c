"""Virtual machines of existing disks."""

import pytest
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError


def refusal(azure, request, name=None):
    with pytest.raises(HttpResponseError) as refused:
        azure.compute.virtual_machines.begin_create_or_update(azure.group, name or azure.name("vm"), request)
    return refused.value.status_code, refused.value.error.code


@pytest.fixture
def parts(azure):
    return azure.empty_disk(azure.name("os"), boot=True), azure.nic(azure.name("nic"))


def test_a_vm_of_attached_disks_runs_after_creation_and_owns_its_disks(azure, parts):
    data = azure.empty_disk(azure.name("data"))
    name = azure.name("vm")
    vm = azure.compute.virtual_machines.begin_create_or_update(azure.group, name, azure.vm_request(*parts, data=(data,))).result()
    assert vm.properties.provisioning_state == "Succeeded"
    assert azure.power(name) == {"PowerState/running"}
    disk = azure.compute.disks.get(azure.group, data.rsplit("/", 1)[1])
    assert disk.properties.disk_state == "Attached"
    assert disk.managed_by.lower() == vm.id.lower()
    nic = azure.network.network_interfaces.get(azure.group, parts[1].rsplit("/", 1)[1])
    assert nic.properties.virtual_machine.id == vm.id
    expanded = azure.compute.virtual_machines.get(azure.group, name, expand="instanceView")
    assert "PowerState/running" in {status.code for status in expanded.properties.instance_view.statuses}


def test_the_same_put_again_changes_nothing(azure, parts):
    name, request = azure.name("vm"), azure.vm_request(*parts)
    first = azure.compute.virtual_machines.begin_create_or_update(azure.group, name, request).result()
    second = azure.compute.virtual_machines.begin_create_or_update(azure.group, name, request).result()
    assert first.properties.vm_id == second.properties.vm_id
    assert azure.power(name) == {"PowerState/running"}


def test_an_attached_disk_is_neither_deleted_nor_attached_again_nor_read(azure, parts):
    azure.compute.virtual_machines.begin_create_or_update(azure.group, azure.name("vm"), azure.vm_request(*parts)).result()
    disk = parts[0].rsplit("/", 1)[1]
    with pytest.raises(HttpResponseError) as refused:
        azure.compute.disks.begin_delete(azure.group, disk)
    assert refused.value.error.code == "OperationNotAllowed"
    with pytest.raises(HttpResponseError) as refused:
        azure.compute.disks.begin_grant_access(azure.group, disk, {"access": "Read", "durationInSeconds": 60})
    assert refused.value.error.code == "Conflict"
    with pytest.raises(HttpResponseError) as refused:
        azure.network.network_interfaces.begin_delete(azure.group, parts[1].rsplit("/", 1)[1])
    assert refused.value.error.code == "NicInUse"
    assert refusal(azure, azure.vm_request(parts[0], azure.nic(azure.name("nic")))) == (409, "ConflictingUserInput")
    assert refusal(azure, azure.vm_request(azure.empty_disk(azure.name("os"), boot=True), parts[1])) == (400, "NicInUse")


def test_what_a_vm_is_made_of_must_exist_and_fit(azure, parts):
    os_disk, nic = parts
    assert refusal(azure, azure.vm_request(os_disk + "x", nic)) == (404, "ResourceNotFound")
    assert refusal(azure, azure.vm_request(os_disk, nic + "x")) == (400, "InvalidResourceReference")
    assert refusal(azure, azure.vm_request(os_disk, nic, size="Standard_Huge")) == (400, "InvalidParameter")
    assert refusal(azure, azure.vm_request(os_disk, nic, size="Standard_D2_v3")) == (400, "BadRequest"), (
        "generation 2 does not boot there"
    )
    with_profile = azure.vm_request(os_disk, nic)
    with_profile["properties"]["osProfile"] = {"computerName": "x"}
    assert refusal(azure, with_profile) == (400, "InvalidParameter")
    no_type = azure.vm_request(os_disk, nic)
    del no_type["properties"]["storageProfile"]["osDisk"]["osType"]
    assert refusal(azure, no_type) == (400, "InvalidParameter")
    for name in ("v" * 65, "vm-", "_vm"):
        assert refusal(azure, azure.vm_request(os_disk, nic), name) == (400, "InvalidParameter")
    assert refusal(azure, azure.vm_request(azure.empty_disk(azure.name("raw")), nic)) == (400, "InvalidParameter"), "no osType"
    many = tuple(azure.empty_disk(azure.name("data")) for _ in range(3))
    assert refusal(azure, azure.vm_request(os_disk, nic, data=many, size="Standard_B1s")) == (409, "OperationNotAllowed")


def test_a_disk_in_upload_cannot_be_attached(azure, parts):
    name = azure.name("upload")
    properties = {"osType": "Linux", "creationData": {"createOption": "Upload", "uploadSizeBytes": (21 << 20) + 512}}
    disk = azure.compute.disks.begin_create_or_update(azure.group, name, {"location": "lab", "properties": properties}).result()
    assert refusal(azure, azure.vm_request(disk.id, parts[1])) == (409, "OperationNotAllowed")


def test_a_vm_and_its_disks_share_a_zone(azure, parts):
    request = azure.vm_request(*parts) | {"zones": ["1"]}
    assert refusal(azure, request) == (400, "BadRequest")
    zonal = azure.empty_disk(azure.name("os"), boot=True, zones=["1"])
    request = azure.vm_request(zonal, parts[1]) | {"zones": ["1"]}
    vm = azure.compute.virtual_machines.begin_create_or_update(azure.group, azure.name("vm"), request).result()
    assert vm.zones == ["1"]


def test_a_quota_refuses_a_vm_before_anything_is_made(azure, parts):
    azure.control.set_quota(cores=1)
    name = azure.name("vm")
    assert refusal(azure, azure.vm_request(*parts), name) == (409, "OperationNotAllowed")
    with pytest.raises(ResourceNotFoundError):
        azure.compute.virtual_machines.get(azure.group, name)


def test_a_failed_creation_leaves_a_failed_vm_that_can_be_put_again(azure, parts):
    azure.control.fail_next("virtualmachines.create", "AllocationFailed")
    name, request = azure.name("vm"), azure.vm_request(*parts)
    poller = azure.compute.virtual_machines.begin_create_or_update(azure.group, name, request)
    with pytest.raises(HttpResponseError) as failure:
        poller.result()
    assert failure.value.error.code == "AllocationFailed"
    assert azure.compute.virtual_machines.get(azure.group, name).properties.provisioning_state == "Failed"
    azure.compute.virtual_machines.begin_create_or_update(azure.group, name, request).result()
    assert azure.power(name) == {"PowerState/running"}


def test_power_operations_move_the_vm_and_its_disks(azure):
    name = azure.name("vm")
    azure.vm(name)
    vms = azure.compute.virtual_machines
    vms.begin_power_off(azure.group, name).result()
    assert azure.power(name) == {"PowerState/stopped"}
    vms.begin_deallocate(azure.group, name).result()
    assert azure.power(name) == {"PowerState/deallocated"}
    assert azure.compute.disks.get(azure.group, f"{name}-os").properties.disk_state == "Reserved"
    vms.begin_start(azure.group, name).result()
    assert azure.power(name) == {"PowerState/running"}


@pytest.mark.parametrize("option", ["Detach", "Delete"])
def test_deleting_a_vm_follows_the_delete_options(azure, option):
    name = azure.name("vm")
    azure.vm(name, delete=option)
    azure.compute.virtual_machines.begin_delete(azure.group, name).result()
    with pytest.raises(ResourceNotFoundError):
        azure.compute.virtual_machines.get(azure.group, name)
    left = {resource.id.rsplit("/", 1)[1] for resource in azure.control.resources()}
    assert ({f"{name}-os", f"{name}-nic"} <= left) is (option == "Detach")
    if option == "Detach":
        assert azure.compute.disks.get(azure.group, f"{name}-os").properties.disk_state == "Unattached"
        azure.network.network_interfaces.begin_delete(azure.group, f"{name}-nic").result()
    azure.compute.virtual_machines.begin_delete(azure.group, name).result()


def test_sizes_are_listed(azure):
    sizes = {size.name: size for size in azure.compute.virtual_machine_sizes.list("lab")}
    assert sizes["Standard_D2s_v5"].max_data_disk_count == 4
    assert "Standard_D2s_v5" in {sku.name for sku in azure.compute.resource_skus.list(filter="location eq 'lab'")}
