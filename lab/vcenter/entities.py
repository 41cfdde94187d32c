"""The inventory's managed entities, all but the VMs: folders, datacenter, cluster, resource pool, hosts, datastores, networks."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from lab.vcenter.soap import API_VERSION
from lab.vcenter.vmodl_values import complete
from lab.vcenter.vocabulary import vim
from lab.vcenter.world import LabObject, World, data_object, now

_BLOCK = 512
"""The unit of st_blocks, whatever the file system's own block size."""


class ManagedEntity(LabObject):
    """Anything in the inventory tree: it has a name and a parent."""

    def __init__(self, reference: Any, name: str, parent: "ManagedEntity | None") -> None:
        super().__init__(reference)
        self.name = name
        self.parent = parent
        self.tasks: Callable[[], list[Any]] = list
        """Returns the references of the entity's recent tasks; set by whoever has a task manager."""
        self.readers.update(
            {
                "name": lambda: self.name,
                "parent": lambda: None if self.parent is None else self.parent.reference,
                "overallStatus": lambda: "green",
                "configStatus": lambda: "green",
                "effectiveRole": lambda: [-1],
                "alarmActionsEnabled": lambda: True,
                "recentTask": lambda: self.tasks(),
            }
        )

    def path(self) -> str:
        """Return the inventory path, without the root folder: `Lab/vm/web-01`."""
        names: list[str] = []
        current: ManagedEntity | None = self
        while current is not None and current.parent is not None:
            names.insert(0, current.name)
            current = current.parent
        return "/".join(names)


class Folder(ManagedEntity):
    """A folder; its children register themselves."""

    def __init__(self, world: World, moref: str, name: str, parent: ManagedEntity | None, child_types: list[Any]) -> None:
        super().__init__(vim.Folder(moref), name, parent)
        self.readers["childType"] = lambda: child_types
        self.readers["childEntity"] = lambda: [
            item.reference for item in world.all() if isinstance(item, ManagedEntity) and item.parent is self
        ]


class Datacenter(ManagedEntity):
    """The datacenter with its four folders."""

    def __init__(self, world: World, moref: str, name: str, parent: Folder) -> None:
        super().__init__(vim.Datacenter(moref), name, parent)
        self.vm_folder = Folder(world, "group-v3", "vm", self, [vim.Folder, vim.VirtualMachine, vim.VirtualApp])
        self.host_folder = Folder(world, "group-h4", "host", self, [vim.Folder, vim.ComputeResource])
        self.datastore_folder = Folder(world, "group-s5", "datastore", self, [vim.Folder, vim.Datastore])
        self.network_folder = Folder(world, "group-n6", "network", self, [vim.Folder, vim.Network])
        self.readers.update(
            {
                "vmFolder": lambda: self.vm_folder.reference,
                "hostFolder": lambda: self.host_folder.reference,
                "datastoreFolder": lambda: self.datastore_folder.reference,
                "networkFolder": lambda: self.network_folder.reference,
                "datastore": lambda: references(world, Datastore),
                "network": lambda: references(world, Network),
                "configuration": lambda: complete(vim.Datacenter.ConfigInfo()),
            }
        )


class Cluster(ManagedEntity):
    """The cluster that all hosts are in, with its root resource pool."""

    def __init__(self, world: World, moref: str, name: str, parent: Folder) -> None:
        super().__init__(vim.ClusterComputeResource(moref), name, parent)
        self.pool = ResourcePool(world, "resgroup-8", self)
        self.readers.update(
            {
                "host": lambda: references(world, Host),
                "datastore": lambda: references(world, Datastore),
                "network": lambda: references(world, Network),
                "resourcePool": lambda: self.pool.reference,
                "summary": lambda: self._summary(world),
            }
        )

    def _summary(self, world: World) -> Any:
        hosts = len(references(world, Host))
        return complete(
            data_object(
                vim.ClusterComputeResource.Summary,
                numHosts=hosts,
                numEffectiveHosts=hosts,
                numCpuCores=16 * hosts,
                overallStatus="green",
            )
        )


class ResourcePool(ManagedEntity):
    """The cluster's root resource pool."""

    def __init__(self, world: World, moref: str, owner: Cluster) -> None:
        super().__init__(vim.ResourcePool(moref), "Resources", owner)
        self.readers["owner"] = lambda: owner.reference
        self.readers["config"] = _unlimited
        self.readers["runtime"] = lambda: complete(vim.ResourcePool.RuntimeInfo())
        self.readers["summary"] = lambda: complete(
            data_object(
                vim.ResourcePool.Summary, name=self.name, config=_unlimited(), runtime=complete(vim.ResourcePool.RuntimeInfo())
            )
        )
        self.readers["vm"] = lambda: [item.reference for item in world.all() if isinstance(item.reference, vim.VirtualMachine)]


def _unlimited() -> Any:
    """Return a resource configuration without reservation or limit."""
    allocation = data_object(
        vim.ResourceAllocationInfo,
        reservation=0,
        expandableReservation=True,
        limit=-1,
        shares=vim.SharesInfo(shares=4000, level="normal"),
    )
    return complete(data_object(vim.ResourceConfigSpec, cpuAllocation=allocation, memoryAllocation=allocation))


class Host(ManagedEntity):
    """An ESXi host."""

    def __init__(self, world: World, moref: str, name: str, parent: Cluster) -> None:
        super().__init__(vim.HostSystem(moref), name, parent)
        self.readers.update(
            {
                "runtime": self._runtime,
                "summary": self._summary,
                "datastore": lambda: references(world, Datastore),
                "network": lambda: references(world, Network),
                "vm": lambda: [
                    item.reference
                    for item in world.all()
                    if isinstance(item.reference, vim.VirtualMachine) and getattr(item, "host", None) is self
                ],
            }
        )

    def _runtime(self) -> Any:
        return complete(
            data_object(vim.host.RuntimeInfo, connectionState="connected", powerState="poweredOn", inMaintenanceMode=False)
        )

    def _summary(self) -> Any:
        product = data_object(vim.AboutInfo, name="VMware ESXi", fullName="VMware ESXi 8.0.1 (lab)", version="8.0.1")
        product.apiVersion, product.apiType, product.vendor = API_VERSION, "HostAgent", "lab"
        hardware = data_object(
            vim.host.Summary.HardwareSummary,
            vendor="lab",
            model="lab",
            uuid="00000000-0000-0000-0000-000000000000",
            memorySize=64 << 30,
            cpuModel="lab",
            cpuMhz=2400,
            numCpuPkgs=1,
            numCpuCores=16,
            numCpuThreads=32,
        )
        return complete(
            data_object(
                vim.host.Summary,
                host=self.reference,
                hardware=hardware,
                runtime=self._runtime(),
                config=data_object(vim.host.Summary.ConfigSummary, name=self.name, port=902, product=product),
                overallStatus="green",
                rebootRequired=False,
            )
        )


class Datastore(ManagedEntity):
    """A datastore: a directory whose used blocks are taken off the capacity.

    What it tells of its room is of its last refresh: one that was asked for, or that of every `datastore_update_s`.
    """

    def __init__(self, world: World, moref: str, name: str, parent: Folder, directory: Path, capacity_bytes: int) -> None:
        super().__init__(vim.Datastore(moref), name, parent)
        self.directory = directory
        self.capacity_bytes = capacity_bytes
        self.filler_bytes = 0
        """Bytes that are taken without a file, to fill the datastore for a test."""
        self.accessible = True
        """While false no host reaches it, and its numbers mean nothing."""
        self._world = world
        self._told: _Room | None = None
        self.readers.update(
            {
                "summary": self._summary,
                "info": self._info,
                "host": self._mounts,
                "vm": lambda: [item.reference for item in world.all() if self in getattr(item, "datastores", ())],
                "capability": lambda: complete(vim.Datastore.Capability()),
            }
        )

    def used_bytes(self) -> int:
        """Return the bytes that the datastore's files really take, holes left out, and the filler."""
        used = self.filler_bytes
        for parent, _, names in os.walk(self.directory):
            for name in names:
                try:
                    used += (Path(parent) / name).stat().st_blocks * _BLOCK
                except FileNotFoundError:  # removed by a consolidation meanwhile
                    continue
        return used

    def free_bytes(self) -> int:
        """Return the room that is left."""
        return max(0, self.capacity_bytes - self.used_bytes())

    def refresh(self) -> None:
        """Bring what is told of the room up to date."""
        self._told = _Room(self.capacity_bytes, self.free_bytes(), now())

    def _room(self) -> "_Room":
        update_s = self._world.times.datastore_update_s
        if self._told is None or (now() - self._told.at).total_seconds() >= update_s:
            self.refresh()
        assert self._told is not None
        return self._told

    def _url(self) -> str:
        return f"ds:///vmfs/volumes/{self.moref}/"

    def _summary(self) -> Any:
        room = self._room()
        return complete(
            data_object(
                vim.Datastore.Summary,
                datastore=self.reference,
                name=self.name,
                url=self._url(),
                capacity=room.capacity_bytes if self.accessible else 0,
                freeSpace=room.free_bytes if self.accessible else 0,
                accessible=self.accessible,
                multipleHostAccess=True,
                type="VMFS",
                maintenanceMode="normal",
            )
        )

    def _info(self) -> Any:
        room = self._room()
        return complete(
            data_object(
                vim.host.VmfsDatastoreInfo,
                name=self.name,
                url=self._url(),
                freeSpace=room.free_bytes,
                timestamp=room.at,
                maxFileSize=64 << 40,
                maxMemoryFileSize=64 << 40,
            )
        )

    def _mounts(self) -> list[Any]:
        mount = data_object(vim.host.MountInfo, path=f"/vmfs/volumes/{self.moref}", accessMode="readWrite", accessible=True)
        return [
            complete(data_object(vim.Datastore.HostMount, key=host, mountInfo=mount)) for host in references(self._world, Host)
        ]


@dataclass(frozen=True, slots=True)
class _Room:
    """A datastore's room as of one moment."""

    capacity_bytes: int
    free_bytes: int
    at: datetime


class Network(ManagedEntity):
    """A standard port group."""

    def __init__(self, world: World, moref: str, name: str, parent: Folder) -> None:
        super().__init__(vim.Network(moref), name, parent)
        self.readers.update(
            {
                "summary": lambda: data_object(
                    vim.Network.Summary, network=self.reference, name=self.name, accessible=True, ipPoolName=""
                ),
                "host": lambda: references(world, Host),
                "vm": lambda: [item.reference for item in world.all() if self in getattr(item, "networks", ())],
            }
        )


def references(world: World, kind: type[ManagedEntity]) -> list[Any]:
    """Return the references of all entities of a class."""
    return [item.reference for item in world.all() if isinstance(item, kind)]
