"""Another place for a VM that comes home: what is asked for in full, and every reason why it cannot be made there (spec §8)."""

from collections.abc import Iterator, Mapping, Sequence

from deltaferry.model.elsewhere import AskedPlace, FoundPlace
from deltaferry.model.hardware import VmHardware
from deltaferry.planning.phrases import size_text

_SHOWN = 8


def networks_of(hardware: VmHardware, mapping: Mapping[str, str]) -> tuple[str, ...]:
    """Return the network of each adapter: as mapped, else as before."""
    return tuple(mapping.get(nic.network, nic.network) for nic in hardware.nics)


def objection_to(host: str | None, cluster: str | None) -> str:
    """Return what is wrong with a place as it was written; empty if nothing is."""
    if host and cluster:
        return "The location names a host and a cluster: give the one on which the VM shall run, and leave the other out."
    if not host and not cluster:
        return "The location names neither a host nor a cluster: give one of them, with the datastore."
    return ""


def refusals(
    asked: AskedPlace, found: FoundPlace, hardware: VmHardware, mapping: Mapping[str, str], disks_bytes: int
) -> tuple[str, ...]:
    """Return a sentence for each reason why the VM cannot be made there, all of them at once."""
    return tuple(
        (
            *_compute(asked, found),
            *_pool(asked, found),
            *_datastore(asked, found, disks_bytes),
            *_folder(asked, found),
            *_networks(found, hardware, mapping),
        )
    )


def _compute(asked: AskedPlace, found: FoundPlace) -> Iterator[str]:
    kind, name = ("host", asked.host) if asked.host else ("cluster", asked.cluster)
    if not found.computes:
        yield f"The site has no {kind} {name!r}{_instead(found.known_computes)}."
    elif len(found.computes) > 1:
        yield f"The site has {len(found.computes)} {kind}s {name!r}: name a host of the one that is meant."
    elif not found.hosts and found.datastores:
        state = "is not connected or is in maintenance" if asked.host else "has no host that is connected and out of maintenance"
        yield f"The {kind} {name!r} {state}."


def _pool(asked: AskedPlace, found: FoundPlace) -> Iterator[str]:
    if len(found.computes) != 1 or len(found.pools) == 1:
        return
    where = asked.host or asked.cluster
    if not found.pools:
        yield f"{where!r} has no resource pool {asked.resource_pool!r}."
    else:
        yield f"{where!r} has {len(found.pools)} resource pools {asked.resource_pool!r}: leave it out, or rename one of them."


def _datastore(asked: AskedPlace, found: FoundPlace, disks_bytes: int) -> Iterator[str]:
    if len(found.computes) != 1:
        return
    where = asked.host or asked.cluster
    if not found.datastores:
        yield f"{where!r} mounts no datastore {asked.datastore!r}{_instead(found.known_datastores)}."
    elif len(found.datastores) > 1:
        yield f"{where!r} mounts {len(found.datastores)} datastores {asked.datastore!r}: name a host that mounts one of them."
    elif not found.datastores[0].accessible:
        yield f"The datastore {asked.datastore!r} is not accessible."
    elif found.datastores[0].free_bytes < disks_bytes:
        store = found.datastores[0]
        yield (
            f"The datastore {asked.datastore!r} has {size_text(store.free_bytes)} free of {size_text(store.capacity_bytes)}, "
            f"and the disks may grow to {size_text(disks_bytes)}: free {size_text(disks_bytes - store.free_bytes)}, "
            "or name another datastore."
        )


def _folder(asked: AskedPlace, found: FoundPlace) -> Iterator[str]:
    if len(found.computes) != 1:
        return
    if not found.folders:
        yield f"There is no VM folder {asked.folder!r}: give its path below the datacenter's VM folder, such as '/prod/web'."
    elif len(found.folders) > 1:
        yield f"There are {len(found.folders)} VM folders {asked.folder!r}: give the path of one of them."
    elif found.taken_by:
        yield (
            f"The name {asked.name!r} is taken in the folder {asked.folder or '/'!r} by {' and '.join(found.taken_by)}: "
            "give the new VM another name."
        )


def _networks(found: FoundPlace, hardware: VmHardware, mapping: Mapping[str, str]) -> Iterator[str]:
    unused = [name for name in mapping if all(nic.network != name for nic in hardware.nics)]
    if unused:
        had = ", ".join(repr(name) for name in dict.fromkeys(nic.network for nic in hardware.nics)) or "none"
        yield f"No adapter of the VM was on {', '.join(repr(name) for name in unused)}: its networks were {had}."
    if not found.hosts:
        return
    for name in dict.fromkeys(networks_of(hardware, mapping)):
        matches = sum(network.name == name for network in found.networks)
        if not matches:
            before = next(nic.network for nic in hardware.nics if mapping.get(nic.network, nic.network) == name)
            yield (
                f"The host {found.hosts[0].name!r} has no network {name!r}{_instead(found.known_networks)}: "
                f"map {before!r} to one that it has."
            )
        elif matches > 1:
            yield f"The host {found.hosts[0].name!r} has {matches} networks {name!r}: map the adapter to one whose name is unique."


def _instead(known: Sequence[str]) -> str:
    """Return what there is, in brackets."""
    if not known:
        return ""
    more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
    return f" (there are {', '.join(repr(name) for name in known[:_SHOWN])}{more})"
