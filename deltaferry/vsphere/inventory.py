"""A site's whole inventory in one paged retrieval: never a call per VM.

One container view holds the VMs and all that they refer to (hosts, clusters, folders, datastores, networks), so that
hundreds of VMs cost a handful of calls: a view, a page for each hundred objects, and one for the custom attributes' names.
An object that is deleted meanwhile is missing in the pages, has a fault in place of its properties, or fails the reading,
which is then done once more.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from deltaferry.model.inventory import BackingKind, DiscoveredSite, DiscoveredVm, DiskStorage, ToolsState, UnreadableVm
from deltaferry.model.vm import DatastoreSpace
from deltaferry.ports.access import Beat
from deltaferry.vsphere.devices import virtual_disks
from deltaferry.vsphere.properties import ObjectProperties, moref, read_kinds, read_object, unescaped
from deltaferry.vsphere.session import Session
from deltaferry.vsphere.vms import VM_PATHS, source_vm
from deltaferry.vsphere.vocabulary import ManagedObject, vim, vmodl

_Disk = vim.vm.device.VirtualDisk

_PATHS: dict[Any, tuple[str, ...]] = {
    vim.VirtualMachine: (
        *VM_PATHS, "parent", "parentVApp", "customValue", "guest.toolsVersionStatus2", "layoutEx.disk", "layoutEx.file", "summary.storage",
    ),
    vim.HostSystem: ("name", "parent"),
    vim.ComputeResource: ("name",),
    vim.Folder: ("name", "parent"),
    vim.Datacenter: ("name", "parent"),
    vim.VirtualApp: ("name", "parentFolder", "parentVApp"),
    vim.Datastore: ("name", "summary"),
    vim.Network: ("name",),
}  # fmt: skip

_BACKINGS: tuple[tuple[Any, BackingKind], ...] = (
    (_Disk.FlatVer1BackingInfo, BackingKind.FLAT),
    (_Disk.FlatVer2BackingInfo, BackingKind.FLAT),
    (_Disk.SparseVer1BackingInfo, BackingKind.SPARSE),
    (_Disk.SparseVer2BackingInfo, BackingKind.SPARSE),
    (_Disk.SeSparseBackingInfo, BackingKind.SE_SPARSE),
    (_Disk.RawDiskMappingVer1BackingInfo, BackingKind.RAW_DEVICE),
    (_Disk.RawDiskVer2BackingInfo, BackingKind.RAW_DEVICE),
)

_EXTENT = "diskExtent"
"""The type of the files in a VM's layout that hold a disk's blocks."""


def read_inventory(session: Session, beat: Beat) -> DiscoveredSite:
    """Return every VM of the site that is no template. VMs that vanish meanwhile are left out."""
    try:
        return _read(session, beat)
    except vmodl.fault.ManagedObjectNotFound:
        return _read(session, beat)


def _read(session: Session, beat: Beat) -> DiscoveredSite:
    names = attribute_names(session)
    beat()
    return discovered(read_kinds(session, _PATHS, beat), names)


def attribute_names(session: Session) -> dict[int, str]:
    """Return the names of the custom attributes by key; none on a stand-alone ESXi host, which has no such thing."""
    manager = session.content().customFieldsManager
    if manager is None:
        return {}
    fields = _known(read_object(session, manager, ["field"]), "field") or ()
    return {int(field.key): str(field.name) for field in fields}


def discovered(rows: Iterable[ObjectProperties], attributes: Mapping[int, str]) -> DiscoveredSite:
    """Return what a retrieval's rows say."""
    rows = tuple(rows)
    around = _surroundings(rows)
    vms, unreadable = [], []
    for row in rows:
        if not isinstance(row.reference, vim.VirtualMachine):
            continue
        try:
            found = _vm(row, around, attributes)
        except vmodl.fault.ManagedObjectNotFound:
            continue  # deleted while the site was read
        except vim.fault.NoPermission as fault:
            unreadable.append(UnreadableVm(row.moref, _name(row), f"the site's user lacks {fault.privilegeId or 'System.Read'}"))
            continue
        if isinstance(found, UnreadableVm):
            unreadable.append(found)
        elif found is not None:
            vms.append(found)
    return DiscoveredSite(
        vms=tuple(sorted(vms, key=lambda item: (item.vm.name, item.vm.instance_uuid))),
        datastores=tuple(sorted(_spaces(rows), key=lambda space: space.name)),
        unreadable=tuple(sorted(unreadable, key=lambda item: (item.name, item.moref))),
    )


@dataclass(frozen=True, slots=True)
class _Surroundings:
    """What VMs refer to, by moref."""

    names: Mapping[str, str]
    parents: Mapping[str, str]
    """Of hosts, folders, datacenters and vApps; a host's is its cluster, or its stand-alone compute resource."""
    clusters: frozenset[str]
    datacenters: frozenset[str]

    def cluster_of(self, host: ManagedObject | None) -> str:
        above = self.parents.get(moref(host), "") if host is not None else ""
        return self.names.get(above, "") if above in self.clusters else ""

    def place_of(self, container: ManagedObject | None) -> tuple[str, str]:
        """Return a folder's or vApp's path below the datacenter's VM folder, and the datacenter's name."""
        path: list[str] = []
        current = moref(container) if container is not None else ""
        while current in self.names and current not in self.datacenters and len(path) < len(self.names):
            path.append(self.names[current])
            current = self.parents.get(current, "")
        path.reverse()
        if current in self.datacenters:
            del path[:1]  # the VM folder itself, which people do not see in vCenter
        return "/" + "/".join(path), self.names.get(current, "")


def _surroundings(rows: Iterable[ObjectProperties]) -> _Surroundings:
    names: dict[str, str] = {}
    parents: dict[str, str] = {}
    clusters, datacenters = set(), set()
    for row in rows:
        reference = row.reference
        if isinstance(reference, vim.VirtualMachine):
            continue
        names[row.moref] = _name(row)
        above = _known(row, "parentVApp") or _known(row, "parentFolder") or _known(row, "parent")
        if above is not None:
            parents[row.moref] = moref(above)
        if isinstance(reference, vim.ClusterComputeResource):
            clusters.add(row.moref)
        elif isinstance(reference, vim.Datacenter):
            datacenters.add(row.moref)
    return _Surroundings(names, parents, frozenset(clusters), frozenset(datacenters))


def _vm(row: ObjectProperties, around: _Surroundings, attributes: Mapping[int, str]) -> DiscoveredVm | UnreadableVm | None:
    if row.get("config.template"):
        return None
    if not row.get("config.instanceUuid"):
        return UnreadableVm(
            row.moref, _name(row), "vCenter cannot read its configuration now: it is inaccessible, or just being made"
        )
    vm = source_vm(row, around.names)
    folder, datacenter = around.place_of(_known(row, "parentVApp") or _known(row, "parent"))
    usage = _known(row, "summary.storage")
    return DiscoveredVm(
        vm=vm,
        folder=folder,
        datacenter=datacenter,
        cluster=around.cluster_of(row.get("runtime.host")),
        tools=_tools(row, running=vm.tools_running),
        attributes=_attributes(_known(row, "customValue") or (), attributes),
        storage=_storage(row),
        uncommitted_bytes=int(usage.uncommitted) if usage is not None and usage.uncommitted is not None else None,
    )


def _tools(row: ObjectProperties, *, running: bool) -> ToolsState:
    if running:
        return ToolsState.RUNNING
    missing = _known(row, "guest.toolsVersionStatus2") == "guestToolsNotInstalled"
    return ToolsState.MISSING if missing else ToolsState.STOPPED


def _attributes(values: Iterable[Any], names: Mapping[int, str]) -> tuple[tuple[str, str], ...]:
    given = ((names.get(int(item.key), ""), str(getattr(item, "value", "") or "")) for item in values)
    return tuple(sorted((name, value) for name, value in given if name and value))


def _storage(row: ObjectProperties) -> tuple[DiskStorage, ...]:
    committed = _committed(_known(row, "layoutEx.disk") or (), _known(row, "layoutEx.file") or ())
    disks = sorted(virtual_disks(row.get("config.hardware.device") or ()), key=lambda disk: int(disk.key))
    return tuple(
        DiskStorage(
            key=int(disk.key),
            backing=next((kind for backing, kind in _BACKINGS if isinstance(disk.backing, backing)), BackingKind.OTHER),
            mode=str(getattr(disk.backing, "diskMode", "") or ""),
            thin=getattr(disk.backing, "thinProvisioned", None),
            committed_bytes=committed.get(int(disk.key)),
        )
        for disk in disks
    )


def _committed(layouts: Iterable[Any], files: Iterable[Any]) -> dict[int, int]:
    """Return by disk key what its extents take, those of its snapshots' chain too (`VirtualMachineFileLayoutEx`)."""
    sizes = {int(file.key): int(file.size or 0) for file in files if file.type == _EXTENT}
    found: dict[int, int] = {}
    for layout in layouts:
        keys = {int(key) for unit in layout.chain or () for key in unit.fileKey or ()} & sizes.keys()
        if keys:
            found[int(layout.key)] = sum(sizes[key] for key in keys)
    return found


def _spaces(rows: Iterable[ObjectProperties]) -> Iterable[DatastoreSpace]:
    for row in rows:
        if isinstance(row.reference, vim.Datastore):
            summary = _known(row, "summary")
            if summary is not None:
                yield DatastoreSpace(unescaped(summary.name), int(summary.capacity), int(summary.freeSpace))


def _name(row: ObjectProperties) -> str:
    return unescaped(_known(row, "name") or "")


def _known(row: ObjectProperties, path: str) -> Any:
    """Return a property that may stay unknown: None where it is unset, or could not be read."""
    return None if path in row.faults else row.values.get(path)
