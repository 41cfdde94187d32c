"""Another place at the site for a VM that comes home: what is asked for, what is found there, and the VM to make (spec §8)."""

from dataclasses import dataclass

from deltaferry.model.hardware import VmHardware
from deltaferry.model.vm import Claim


@dataclass(frozen=True, slots=True)
class AskedPlace:
    """A place by the names that people know. Either `host` or `cluster` is given; empty is not given."""

    datastore: str
    name: str
    host: str = ""
    cluster: str = ""
    resource_pool: str = ""
    folder: str = ""
    """Path below the datacenter's VM folder, such as `/prod/web`; empty for that folder itself."""
    networks: tuple[str, ...] = ()
    """Names of the networks that the VM's adapters will be on, each once."""


@dataclass(frozen=True, slots=True)
class Named:
    """An object of the inventory."""

    moref: str
    name: str


@dataclass(frozen=True, slots=True)
class FoundDatastore:
    """A datastore that the host mounts."""

    moref: str
    name: str
    capacity_bytes: int
    free_bytes: int
    accessible: bool = True


@dataclass(frozen=True, slots=True)
class FoundNetwork:
    """A network that the host has: a standard port group, or a distributed one with its switch's UUID."""

    moref: str
    name: str
    switch_uuid: str = ""


@dataclass(frozen=True, slots=True)
class FoundPlace:
    """What the inventory has of those names. Where it has not exactly one, nothing can be made."""

    computes: tuple[Named, ...]
    """Hosts or clusters of the name."""
    hosts: tuple[Named, ...] = ()
    """Of these, the hosts that are connected, not in maintenance, and mount the datastore: the VM is made on the first."""
    pools: tuple[Named, ...] = ()
    datastores: tuple[FoundDatastore, ...] = ()
    folders: tuple[Named, ...] = ()
    taken_by: tuple[str, ...] = ()
    """What has the wanted name in the folder: `a VM` with its instance UUID, `a folder`."""
    networks: tuple[FoundNetwork, ...] = ()
    """All networks of that host that are called as one of the asked."""
    known_computes: tuple[str, ...] = ()
    known_datastores: tuple[str, ...] = ()
    known_networks: tuple[str, ...] = ()
    """What there is instead, for a sentence."""


@dataclass(frozen=True, slots=True)
class NewDisk:
    """A disk to make: empty, thin."""

    key: int
    """That which it shall have, as its counterpart has."""
    capacity_bytes: int


@dataclass(frozen=True, slots=True)
class NewVm:
    """A VM to make, powered off and marked as ours."""

    instance_uuid: str
    name: str
    hardware: VmHardware
    disks: tuple[NewDisk, ...]
    place: FoundPlace
    """Judged already: each of its lists has its one entry."""
    networks: tuple[str, ...]
    """The network's name of each adapter, in the adapters' order."""
    holder: Claim
    line: str
    """What people read on it."""
