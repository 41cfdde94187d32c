"""Making a VM at another place: like the one that it stands for, marked from the first moment, once; and deleting only that."""

import uuid
from dataclasses import replace

import pytest

from deltaferry.model.elsewhere import AskedPlace, NewDisk, NewVm
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.hardware import ControllerKind, DiskController, DiskSlot, NicHardware, NicKind, VmHardware
from deltaferry.model.naming import FAILBACK_KEY
from deltaferry.model.units import MIB
from deltaferry.model.vm import Claim, Firmware, PowerState
from deltaferry.planning.elsewhere import refusals
from deltaferry.vsphere.client import VSphere
from deltaferry.vsphere.tasks import no_beat

from .lab_vcenter import LabVcenter

OURS = Claim("lab", "0123456789abcdef")
THEIRS = Claim("other", "fedcba9876543210")
LINE = "Deltaferry writes this VM's disks."
_ASKED = AskedPlace("ds2", "", host="esxi-2.lab", folder="/Production/Web", networks=("VM Network",))
HARDWARE = VmHardware(
    name="web-01",
    guest_id="debian12_64Guest",
    firmware=Firmware.EFI,
    hardware_version=17,
    cpus=4,
    memory_mib=2048,
    controllers=(
        DiskController(1000, ControllerKind.LSI_SAS, 0),
        DiskController(1002, ControllerKind.PARAVIRTUAL, 2),
        DiskController(15000, ControllerKind.SATA, 0),
        DiskController(201, ControllerKind.IDE, 1),
    ),
    slots=(DiskSlot(2003, 1000, 3), DiskSlot(2033, 1002, 1), DiskSlot(16002, 15000, 2), DiskSlot(3002, 201, 0)),
    nics=(
        NicHardware(4000, NicKind.E1000E, "VM Network", True),
        NicHardware(4001, NicKind.VMXNET3, "VM Network", False),
    ),
    cores_per_socket=2,
    secure_boot=True,
)
DISKS = tuple(NewDisk(slot.disk_key, MIB + 512 * number) for number, slot in enumerate(HARDWARE.slots))


def new_vm(vsphere: VSphere, asked: AskedPlace = _ASKED) -> NewVm:
    """Return a VM of a name that no other has, to be made where there is room for it."""
    name = f"home-{uuid.uuid4().hex[:8]}"
    place = vsphere.find_place(replace(asked, name=name))
    assert refusals(asked, place, HARDWARE, {}, 4 * MIB) == ()
    networks = ("VM Network", "VM Network")
    return NewVm(str(uuid.uuid4()), name, HARDWARE, DISKS, place, networks, OURS, LINE)


def refused(step: object, *arguments: object) -> DeltaferryError:
    with pytest.raises(DeltaferryError) as caught:
        step(*arguments)  # type: ignore[operator]
    return caught.value


def test_a_vm_is_made_like_the_one_that_it_stands_for_and_is_marked_from_the_first_moment(
    vsphere: VSphere, lab: LabVcenter
) -> None:
    new = new_vm(vsphere)
    vsphere.make_vm(new, no_beat)
    made = vsphere.read_vm(new.instance_uuid)
    assert (made.name, made.host, made.power, made.annotation) == (new.name, "esxi-2.lab", PowerState.OFF, LINE)
    assert (made.claim, made.made_for, lab.extra_config(new.instance_uuid)[FAILBACK_KEY]) == (OURS, OURS, "lab/0123456789abcdef")
    assert [(disk.key, disk.capacity_bytes) for disk in made.disks] == sorted((disk.key, disk.capacity_bytes) for disk in DISKS)
    assert {disk.datastore for disk in made.disks} == {"ds2"}
    found = vsphere.read_hardware(new.instance_uuid)
    assert replace(found, nics=(), controllers=(), slots=()) == replace(
        HARDWARE, name=new.name, nics=(), controllers=(), slots=()
    )
    assert set(found.controllers) == set(HARDWARE.controllers) and set(found.slots) == set(HARDWARE.slots)
    assert [(nic.kind, nic.network, nic.start_connected) for nic in found.nics] == [
        (nic.kind, nic.network, nic.start_connected) for nic in HARDWARE.nics
    ]
    assert refused(vsphere.power_on, new.instance_uuid, no_beat).kind is ErrorKind.OPERATION_REFUSED
    vsphere.delete_made_vm(new.instance_uuid, OURS, no_beat)
    assert vsphere.find_vms(new.instance_uuid) == ()


@pytest.mark.parametrize("fault", ["", "create-vm-reply-lost"])
def test_a_vm_is_made_once_whatever_becomes_of_who_asked_for_it(vsphere: VSphere, lab: LabVcenter, fault: str) -> None:
    new = new_vm(vsphere)
    if fault:
        lab.ask_named(fault)
        assert refused(vsphere.make_vm, new, no_beat).kind is ErrorKind.VSPHERE_UNREACHABLE
    else:
        vsphere.make_vm(new, no_beat)
    vsphere.make_vm(new, no_beat)
    assert [vm.instance_uuid for vm in vsphere.find_vms(new.name)] == [new.instance_uuid]
    assert vsphere.find_made_vm(new.instance_uuid, OURS)
    vsphere.delete_made_vm(new.instance_uuid, OURS, no_beat)


def test_where_there_is_no_room_nothing_is_made(vsphere: VSphere, lab: LabVcenter) -> None:
    new = new_vm(vsphere)
    lab.ask_named("create-vm-no-space")
    assert refused(vsphere.make_vm, new, no_beat).kind is ErrorKind.DATASTORE_FULL
    assert not vsphere.find_made_vm(new.instance_uuid, OURS)


def test_a_name_that_was_taken_meanwhile_is_a_refusal(vsphere: VSphere) -> None:
    first = new_vm(vsphere)
    vsphere.make_vm(first, no_beat)
    second = replace(first, instance_uuid=str(uuid.uuid4()))
    error = refused(vsphere.make_vm, second, no_beat)
    assert error.kind is ErrorKind.OPERATION_REFUSED and "was taken in the folder meanwhile" in error.detail
    vsphere.delete_made_vm(first.instance_uuid, OURS, no_beat)


def test_an_instance_uuid_that_another_vm_has_is_never_taken_for_ours(vsphere: VSphere, vm: str) -> None:
    new = replace(new_vm(vsphere), instance_uuid=vm)
    assert refused(vsphere.make_vm, new, no_beat).kind is ErrorKind.ALREADY_PROTECTED
    assert refused(vsphere.find_made_vm, vm, OURS).kind is ErrorKind.ALREADY_PROTECTED


def test_disks_that_vsphere_numbers_otherwise_are_deleted_with_their_vm(vsphere: VSphere) -> None:
    new = new_vm(vsphere)
    disks = (replace(DISKS[0], key=2009), *DISKS[1:])
    slots = (replace(HARDWARE.slots[0], disk_key=2009), *HARDWARE.slots[1:])
    wrong = replace(new, disks=disks, hardware=replace(HARDWARE, slots=slots))
    error = refused(vsphere.make_vm, wrong, no_beat)
    assert error.kind is ErrorKind.OPERATION_REFUSED and "did not make the disks 2009" in error.detail
    assert vsphere.find_vms(new.name) == ()


def test_only_a_vm_that_was_made_for_the_replication_is_deleted_and_never_one_that_is_on(
    vsphere: VSphere, lab: LabVcenter, vm: str
) -> None:
    vsphere.delete_made_vm(vm, OURS, no_beat)
    assert vsphere.read_vm(vm).power is PowerState.ON
    new = new_vm(vsphere)
    vsphere.make_vm(new, no_beat)
    vsphere.delete_made_vm(new.instance_uuid, THEIRS, no_beat)
    vsphere.unmark_failback(new.instance_uuid, OURS, LINE)
    vsphere.power_on(new.instance_uuid, no_beat)
    assert refused(vsphere.delete_made_vm, new.instance_uuid, OURS, no_beat).kind is ErrorKind.OPERATION_REFUSED
    vsphere.power_off(new.instance_uuid, no_beat)
    vsphere.keep_made_vm(new.instance_uuid, OURS)
    vsphere.keep_made_vm(new.instance_uuid, OURS)
    vsphere.delete_made_vm(new.instance_uuid, OURS, no_beat)
    kept = vsphere.read_vm(new.instance_uuid)
    assert (kept.made_for, kept.claim) == (None, OURS)
    lab.control.delete_vm(kept.moref)


def test_a_place_is_found_by_its_names_and_what_is_not_there_is_told(vsphere: VSphere) -> None:
    cluster = replace(_ASKED, host="", cluster="cluster-1", resource_pool="Resources", folder="", name="WEB-01", networks=())
    found = vsphere.find_place(cluster)
    assert [host.name for host in found.hosts] == ["esxi-1.lab", "esxi-2.lab"]
    assert (len(found.pools), len(found.datastores), found.datastores[0].name, found.taken_by) == (1, 1, "ds2", ())
    in_folder = vsphere.find_place(replace(cluster, folder="Production/Web/"))
    assert [taken.partition(" VM ")[0] for taken in in_folder.taken_by] == ["the"]
    assert vsphere.find_place(replace(cluster, folder="", name="Tier")).taken_by == ("a folder",)
    nowhere = vsphere.find_place(replace(cluster, folder="/Production/No", resource_pool="gold", datastore="ds9"))
    assert (nowhere.folders, nowhere.pools, nowhere.datastores, nowhere.hosts) == ((), (), (), ())
    assert nowhere.known_datastores == ("ds1", "ds2")
    assert vsphere.find_place(replace(_ASKED, host="esxi-9.lab")).known_computes == ("esxi-1.lab", "esxi-2.lab")


def test_the_room_of_a_datastore_is_that_of_now(vsphere: VSphere, lab: LabVcenter) -> None:
    vsphere.find_place(replace(_ASKED, name="x"))
    lab.fill_datastore("ds2", 3 * MIB)
    try:
        assert vsphere.find_place(replace(_ASKED, name="x")).datastores[0].free_bytes == 3 * MIB
    finally:
        lab.fill_datastore("ds2", None)


def test_a_datastore_that_no_host_reaches_is_found_and_not_accessible(vsphere: VSphere, lab: LabVcenter) -> None:
    with lab.lost_datastore("ds2"):
        (store,) = vsphere.find_place(replace(_ASKED, name="x")).datastores
        assert not store.accessible


@pytest.mark.parametrize(
    ("privilege", "on"),
    [
        ("VirtualMachine.Inventory.Create", "Web"),
        ("Datastore.AllocateSpace", "ds2"),
        ("Resource.AssignVMToPool", "Resources"),
        ("Network.Assign", "VM Network"),
    ],
)
def test_a_privilege_that_is_missing_at_the_place_is_named_with_the_object(
    vsphere: VSphere, lab: LabVcenter, privilege: str, on: str
) -> None:
    place = vsphere.find_place(replace(_ASKED, name="x"))
    assert vsphere.missing_for_place(place) == ()
    with lab.denied(privilege):
        assert vsphere.missing_for_place(place) == ((privilege, on),)
