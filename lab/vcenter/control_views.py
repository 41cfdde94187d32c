"""What the control port shows, as its client returns it."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DiskState:
    """A disk as it is now."""

    key: int
    label: str
    capacity_bytes: int
    file_name: str
    tracking_uuid: str | None
    allocated_bytes: int
    controller: str = "ParaVirtualSCSIController 0"
    """Class and bus."""


@dataclass(frozen=True, slots=True)
class SnapshotState:
    """A snapshot."""

    moref: str
    name: str


@dataclass(frozen=True, slots=True)
class NicState:
    """A network adapter."""

    key: int
    network: str
    connected: bool
    start_connected: bool
    kind: str = "VirtualVmxnet3"


@dataclass(frozen=True, slots=True)
class VmState:
    """A VM as it is now, also what no vSphere API tells."""

    moref: str
    name: str
    instance_uuid: str
    host: str
    power: str
    annotation: str
    change_tracking: bool
    consolidation_needed: bool
    extra_config: Mapping[str, str]
    snapshots: tuple[SnapshotState, ...]
    disks: tuple[DiskState, ...]
    nics: tuple[NicState, ...]


@dataclass(frozen=True, slots=True)
class ConnectionState:
    """An open NBD connection."""

    export: str
    bytes_read: int
    uses_nfc_budget: bool


@dataclass(frozen=True, slots=True)
class HostState:
    """An ESXi host's NBD server."""

    name: str
    nbd_port: int
    refused_for_budget: int
    held_reads: int
    connections: tuple[ConnectionState, ...]


@dataclass(frozen=True, slots=True)
class DatastoreState:
    """A datastore's room."""

    name: str
    capacity_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class OccupancyState:
    """What was in use, each time that something more came into use, oldest first."""

    readers: tuple[Mapping[str, tuple[str, ...]], ...]
    """Host to the exports that were open there from outside."""
    snapshots: tuple[Mapping[str, Mapping[str, int]], ...]
    """Datastore to VM name to how many of its disks had a snapshot, or were not consolidated yet."""


@dataclass(frozen=True, slots=True)
class VcenterState:
    """Everything."""

    sessions: int
    vms: tuple[VmState, ...]
    datastores: tuple[DatastoreState, ...]
    hosts: tuple[HostState, ...]

    def vm(self, name: str) -> VmState:
        """Return the first VM of a name. Raises LookupError."""
        for vm in self.vms:
            if vm.name == name:
                return vm
        raise LookupError(f"the lab has no VM called {name}")
