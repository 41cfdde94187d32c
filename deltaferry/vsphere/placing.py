"""Finding the place that a VM shall be made at: host or cluster, resource pool, datastore, folder, networks, by their names."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from deltaferry.model.elsewhere import AskedPlace, FoundDatastore, FoundNetwork, FoundPlace, Named
from deltaferry.vsphere.datastores import refresh
from deltaferry.vsphere.properties import ObjectProperties, moref, read_kinds, read_objects, unescaped
from deltaferry.vsphere.session import Session
from deltaferry.vsphere.tasks import no_beat
from deltaferry.vsphere.vocabulary import ManagedObject, vim

_HOST = ("name", "parent", "runtime", "datastore", "network")
_PATHS: dict[Any, tuple[str, ...]] = {
    vim.HostSystem: _HOST,
    vim.ComputeResource: ("name", "parent", "resourcePool"),
    vim.ResourcePool: ("name", "parent", "owner"),
    vim.Folder: ("name", "parent"),
    vim.Datacenter: ("name", "vmFolder"),
    vim.VirtualMachine: ("name", "parent", "config.instanceUuid"),
}


class _Site:
    """The inventory's objects by moref, and what the place needs to know of them."""

    def __init__(self, rows: Sequence[ObjectProperties]) -> None:
        self.rows = {row.moref: row for row in rows}

    def of(self, kind: Any) -> list[ObjectProperties]:
        return [row for row in self.rows.values() if isinstance(row.reference, kind)]

    def named(self, kind: Any, name: str) -> list[ObjectProperties]:
        return [row for row in self.of(kind) if _name(row) == name]

    def above(self, row: ObjectProperties) -> list[str]:
        """Return the morefs of a row's ancestors, nearest first."""
        found: list[str] = []
        parent = row.values.get("parent")
        while parent is not None and moref(parent) not in found:
            found.append(moref(parent))
            held = self.rows.get(found[-1])
            parent = held.values.get("parent") if held is not None else None
        return found


def find_place(session: Session, asked: AskedPlace) -> FoundPlace:
    """Return what the inventory has of the names that were asked for; nothing is changed."""
    site = _Site(read_kinds(session, _PATHS, no_beat))
    computes = _computes(site, asked)
    named = tuple(Named(row.moref, _name(row)) for row in computes)
    known = sorted(_name(row) for row in site.of(vim.HostSystem if asked.host else vim.ClusterComputeResource))
    if len(computes) != 1:
        return FoundPlace(named, known_computes=tuple(known))
    compute = computes[0]
    resource, members = _members(site, compute)
    stores = _datastores(session, members)
    wanted = _refreshed(session, [store for store in stores if store.name == asked.datastore])
    hosts = [
        row for row in members if _is_up(row) and {moref(store) for store in row.get("datastore")} & {s.moref for s in wanted}
    ]
    networks = _networks(session, hosts[0]) if hosts else ()
    folders = _folders(site, asked.folder, site.above(compute))
    return FoundPlace(
        computes=named,
        hosts=tuple(Named(row.moref, _name(row)) for row in hosts),
        pools=_pools(site, resource, asked.resource_pool),
        datastores=tuple(wanted),
        folders=folders,
        taken_by=_taken(site, folders[0].moref, asked.name) if len(folders) == 1 else (),
        networks=tuple(network for network in networks if network.name in asked.networks),
        known_datastores=tuple(sorted(store.name for store in stores)),
        known_networks=tuple(sorted({network.name for network in networks})),
    )


def _computes(site: _Site, asked: AskedPlace) -> list[ObjectProperties]:
    return site.named(vim.HostSystem, asked.host) if asked.host else site.named(vim.ClusterComputeResource, asked.cluster)


def _members(site: _Site, compute: ObjectProperties) -> tuple[ObjectProperties, list[ObjectProperties]]:
    """Return the compute resource, and its hosts that are meant, by name: the one that was named, or all of a cluster."""
    if isinstance(compute.reference, vim.HostSystem):
        return site.rows[moref(compute.get("parent"))], [compute]
    hosts = [
        row for row in site.of(vim.HostSystem) if row.get("parent") is not None and moref(row.get("parent")) == compute.moref
    ]
    return compute, sorted(hosts, key=_name)


def _is_up(host: ObjectProperties) -> bool:
    runtime = host.get("runtime")
    return runtime.connectionState == "connected" and not runtime.inMaintenanceMode


def _pools(site: _Site, resource: ObjectProperties, wanted: str) -> tuple[Named, ...]:
    """Return the compute resource's own pool, or those below it that are called as wanted; vApps are none."""
    root = site.rows[moref(resource.get("resourcePool"))]
    if not wanted:
        return (Named(root.moref, _name(root)),)
    owned = (
        row
        for row in site.of(vim.ResourcePool)
        if not isinstance(row.reference, vim.VirtualApp) and moref(row.get("owner")) == resource.moref
    )
    return tuple(Named(row.moref, _name(row)) for row in owned if _name(row) == wanted)


def _datastores(session: Session, hosts: Iterable[ObjectProperties]) -> list[FoundDatastore]:
    mounted: dict[str, ManagedObject] = {moref(store): store for host in hosts for store in host.get("datastore") or ()}
    found = []
    for row in read_objects(session, list(mounted.values()), ["summary"]):
        summary = row.get("summary")
        name, room = unescaped(summary.name), (int(summary.capacity), int(summary.freeSpace))
        found.append(FoundDatastore(row.moref, name, *room, accessible=bool(summary.accessible)))
    return found


def _refreshed(session: Session, stores: Sequence[FoundDatastore]) -> list[FoundDatastore]:
    """Return datastores with the room of now: vCenter brings that up to date by itself only now and then."""
    references = [session.object(vim.Datastore, store.moref) for store in stores]
    for reference in references:
        refresh(reference)
    free = {row.moref: int(row.get("summary").freeSpace) for row in read_objects(session, references, ["summary"])}
    return [replace(store, free_bytes=free[store.moref]) for store in stores]


def _networks(session: Session, host: ObjectProperties) -> tuple[FoundNetwork, ...]:
    """Return a host's networks; a distributed port group carries the UUID of its switch, which an adapter has to name."""
    networks = list(host.get("network") or ())
    standard = [network for network in networks if not isinstance(network, vim.dvs.DistributedVirtualPortgroup)]
    groups = [network for network in networks if isinstance(network, vim.dvs.DistributedVirtualPortgroup)]
    found = [FoundNetwork(row.moref, _name(row)) for row in read_objects(session, standard, ["name"])]
    rows = read_objects(session, groups, ["name", "config.distributedVirtualSwitch"])
    switches = {moref(row.get("config.distributedVirtualSwitch")): row.get("config.distributedVirtualSwitch") for row in rows}
    uuids = {row.moref: str(row.get("uuid")) for row in read_objects(session, list(switches.values()), ["uuid"])}
    found += [FoundNetwork(row.moref, _name(row), uuids[moref(row.get("config.distributedVirtualSwitch"))]) for row in rows]
    return tuple(found)


def _folders(site: _Site, path: str, above: Sequence[str]) -> tuple[Named, ...]:
    """Return the folders at a path below the VM folder of the datacenter that is among `above`."""
    centre = next(row for row in site.of(vim.Datacenter) if row.moref in above)
    level = [site.rows[moref(centre.get("vmFolder"))]]
    for name in (part for part in path.split("/") if part):
        upper = {row.moref for row in level}
        level = [
            row for row in site.named(vim.Folder, name) if row.get("parent") is not None and moref(row.get("parent")) in upper
        ]
    return tuple(Named(row.moref, _name(row)) for row in level)


def _taken(site: _Site, folder: str, name: str) -> tuple[str, ...]:
    """Return what is called so in a folder; vCenter tells no two names apart by case alone."""
    taken = []
    for row in (*site.of(vim.VirtualMachine), *site.of(vim.Folder)):
        parent = row.values.get("parent")
        if parent is None or moref(parent) != folder or _name(row).casefold() != name.casefold():
            continue
        is_vm = isinstance(row.reference, vim.VirtualMachine)
        taken.append(f"the VM {row.values.get('config.instanceUuid') or row.moref}" if is_vm else "a folder")
    return tuple(taken)


def _name(row: ObjectProperties) -> str:
    return unescaped(row.values.get("name") or "")
