"""Another place for a VM that comes home: each reason against it is a sentence, and all of them come at once."""

from dataclasses import replace

import pytest

from deltaferry.model.elsewhere import AskedPlace, FoundDatastore, FoundNetwork, FoundPlace, Named
from deltaferry.model.hardware import NicHardware, NicKind, VmHardware
from deltaferry.model.units import MIB
from deltaferry.model.vm import Firmware
from deltaferry.planning.elsewhere import networks_of, objection_to, refusals

_GIB = 1024 * MIB
_NICS = (
    NicHardware(4000, NicKind.VMXNET3, "VM Network", True),
    NicHardware(4001, NicKind.E1000E, "backup", False),
    NicHardware(4002, NicKind.E1000E, "VM Network", True),
)
_HARDWARE = VmHardware("web-01", "debian12_64Guest", Firmware.EFI, 19, 2, 2048, (), (), _NICS)
_MAPPING = {"VM Network": "prod"}
_ASKED = AskedPlace("ds2", "web-01", host="esx-2", folder="/prod", networks=("prod", "backup"))
_FOUND = FoundPlace(
    computes=(Named("host-1", "esx-2"),),
    hosts=(Named("host-1", "esx-2"),),
    pools=(Named("resgroup-1", "Resources"),),
    datastores=(FoundDatastore("datastore-2", "ds2", 100 * _GIB, 40 * _GIB),),
    folders=(Named("group-v9", "prod"),),
    networks=(FoundNetwork("network-1", "prod"), FoundNetwork("dvportgroup-7", "backup", "50 2f")),
    known_computes=("esx-1", "esx-2"),
    known_datastores=("ds1", "ds2"),
    known_networks=("backup", "prod"),
)


def test_adapters_are_on_the_network_that_is_mapped_and_else_on_that_of_before() -> None:
    assert networks_of(_HARDWARE, _MAPPING) == ("prod", "backup", "prod")


def test_a_place_with_all_that_is_asked_for_is_accepted_to_the_last_byte() -> None:
    assert refusals(_ASKED, _FOUND, _HARDWARE, _MAPPING, 40 * _GIB) == ()


@pytest.mark.parametrize(
    ("asked", "found", "told"),
    [
        (_ASKED, replace(_FOUND, computes=()), "The site has no host 'esx-2' (there are 'esx-1', 'esx-2')."),
        (
            replace(_ASKED, host="", cluster="c1"),
            replace(_FOUND, computes=(Named("a", "c1"), Named("b", "c1")), pools=(), datastores=(), folders=(), hosts=()),
            "The site has 2 clusters 'c1': name a host of the one that is meant.",
        ),
        (_ASKED, replace(_FOUND, hosts=()), "The host 'esx-2' is not connected or is in maintenance."),
        (
            replace(_ASKED, host="", cluster="c1"),
            replace(_FOUND, hosts=()),
            "The cluster 'c1' has no host that is connected and out of maintenance.",
        ),
        (replace(_ASKED, resource_pool="gold"), replace(_FOUND, pools=()), "'esx-2' has no resource pool 'gold'."),
        (
            replace(_ASKED, resource_pool="gold"),
            replace(_FOUND, pools=(Named("a", "gold"), Named("b", "gold"))),
            "'esx-2' has 2 resource pools 'gold': leave it out, or rename one of them.",
        ),
        (_ASKED, replace(_FOUND, datastores=()), "'esx-2' mounts no datastore 'ds2' (there are 'ds1', 'ds2')."),
        (_ASKED, replace(_FOUND, datastores=_FOUND.datastores * 2), "'esx-2' mounts 2 datastores 'ds2'"),
        (
            _ASKED,
            replace(_FOUND, datastores=(replace(_FOUND.datastores[0], accessible=False),)),
            "The datastore 'ds2' is not accessible.",
        ),
        (
            _ASKED,
            replace(_FOUND, datastores=(replace(_FOUND.datastores[0], free_bytes=39 * _GIB),)),
            "The datastore 'ds2' has 39 GiB free of 100 GiB, and the disks may grow to 40 GiB: free 1 GiB, or name another datastore.",
        ),
        (_ASKED, replace(_FOUND, folders=()), "There is no VM folder '/prod'"),
        (_ASKED, replace(_FOUND, folders=_FOUND.folders * 2), "There are 2 VM folders '/prod'"),
        (
            _ASKED,
            replace(_FOUND, taken_by=("the VM 5021f0",)),
            "The name 'web-01' is taken in the folder '/prod' by the VM 5021f0: give the new VM another name.",
        ),
        (
            _ASKED,
            replace(_FOUND, networks=_FOUND.networks[1:]),
            "The host 'esx-2' has no network 'prod' (there are 'backup', 'prod'): map 'VM Network' to one that it has.",
        ),
        (
            _ASKED,
            replace(_FOUND, networks=(*_FOUND.networks, _FOUND.networks[0])),
            "The host 'esx-2' has 2 networks 'prod': map the adapter to one whose name is unique.",
        ),
    ],
)
def test_what_is_missing_or_not_the_only_one_is_a_refusal(asked: AskedPlace, found: FoundPlace, told: str) -> None:
    (sentence,) = refusals(asked, found, _HARDWARE, _MAPPING, 40 * _GIB)
    assert sentence.startswith(told)


def test_a_network_that_the_vm_was_not_on_cannot_be_mapped() -> None:
    (sentence,) = refusals(_ASKED, _FOUND, _HARDWARE, {**_MAPPING, "VM network": "prod"}, 1)
    assert sentence == "No adapter of the VM was on 'VM network': its networks were 'VM Network', 'backup'."


def test_all_reasons_come_at_once() -> None:
    wrong = replace(_FOUND, pools=(), datastores=(), hosts=(), folders=(), networks=())
    assert len(refusals(replace(_ASKED, resource_pool="gold"), wrong, _HARDWARE, _MAPPING, 1)) == 3


def test_a_long_list_of_what_there_is_is_cut() -> None:
    many = replace(_FOUND, computes=(), known_computes=tuple(f"esx-{number}" for number in range(20)))
    (sentence,) = refusals(_ASKED, many, _HARDWARE, _MAPPING, 1)
    assert sentence.endswith("'esx-7' and 12 more).")


@pytest.mark.parametrize(
    ("host", "cluster", "told"),
    [
        ("esx-1", None, ""),
        (None, "c1", ""),
        (None, None, "neither a host nor a cluster"),
        ("esx-1", "c1", "a host and a cluster"),
    ],
)
def test_a_place_names_a_host_or_a_cluster(host: str | None, cluster: str | None, told: str) -> None:
    objection = objection_to(host, cluster)
    assert told in objection and bool(told) == bool(objection)
