"""What enabling many VMs will mean, before anything is done: what stands in the way, how much is copied, how long, and which limits bind.

It is reckoned from the inventory and from what the site's cycles measured. What only enabling itself can find out (privileges
on each VM, the target in Azure, hosts that cannot be reached) is not judged here. Everything here is pure.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from deltaferry.model.inventory import DiscoveredVm
from deltaferry.model.vm import DatastoreSpace
from deltaferry.planning.appliances import assign
from deltaferry.planning.datastores import shortage
from deltaferry.planning.findings import Finding, FindingCode, Severity
from deltaferry.planning.measured_rate import Rate
from deltaferry.planning.phrases import count_text, duration_text, size_text
from deltaferry.planning.prerequisites import CheckFacts, check
from deltaferry.planning.slots import Lease, Priority, SlotLimits, SlotRequest, grant

_SOME_DAY = datetime(2000, 1, 1, tzinfo=UTC)
"""All are asked for at the same instant: nothing ages in the reckoning."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A VM that somebody wants to enable."""

    vm: DiscoveredVm
    target_name: str
    declared_os: str | None = None
    replicated_by: str = ""
    """What replicates it already; empty if nothing does."""


@dataclass(frozen=True, slots=True)
class SiteFacts:
    """What the plan needs to know of the site."""

    installation: str
    appliances: Mapping[str, int]
    """How many replications each carries already."""
    limits: SlotLimits
    datastores: Mapping[str, DatastoreSpace]
    throttle_bytes_per_s: float | None = None
    """What each appliance may send now; None for as much as the line takes."""


class Verdict(StrEnum):
    """What will become of a VM, as far as is known now."""

    ENABLED = "enabled"
    ALREADY = "replicated already"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class PlannedVm:
    """One line of the plan."""

    name: str
    instance_uuid: str
    folder: str
    host: str
    datastores: tuple[tuple[str, int], ...]
    """(name, number of the VM's disks on it)."""
    disks: int
    capacity_bytes: int
    read_bytes: int
    """What the first copy reads at most."""
    target_name: str
    verdict: Verdict
    replicated_by: str
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class BindingLimit:
    """A limit that makes some of the VMs wait, or stop."""

    limit: str
    where: str
    wanted: int
    allowed: int
    sentence: str


@dataclass(frozen=True, slots=True)
class EnablePlan:
    """The plan; sums and times are of the VMs that will be copied."""

    vms: tuple[PlannedVm, ...]
    disks: int
    capacity_bytes: int
    read_bytes: int
    rate: Rate
    side_by_side_s: float | None
    """As many at once as the limits allow, and each as fast as if it were alone; None where a limit lets nothing start."""
    in_turn_s: float
    """One after the other: what it takes if one VM's rate is all that appliance and line can carry."""
    limits: tuple[BindingLimit, ...]


def plan(wanted: Sequence[Wanted], site: SiteFacts, rate: Rate) -> EnablePlan:
    """Return what enabling these VMs will mean."""
    names = Counter(item.target_name.casefold() for item in wanted)
    vms = tuple(_planned(item, site, names) for item in wanted)
    copied = [vm for vm in vms if vm.verdict is Verdict.ENABLED]
    read_bytes = sum(vm.read_bytes for vm in copied)
    carried = _carried(copied, site)
    at_best_s = _side_by_side_s(copied, carried, site, rate.bytes_per_s)
    return EnablePlan(
        vms=vms,
        disks=sum(vm.disks for vm in copied),
        capacity_bytes=sum(vm.capacity_bytes for vm in copied),
        read_bytes=read_bytes,
        rate=rate,
        side_by_side_s=at_best_s,
        in_turn_s=read_bytes / rate.bytes_per_s,
        limits=(*_binding(copied, carried, site), *_throttle(read_bytes, at_best_s, site)),
    )


def _planned(item: Wanted, site: SiteFacts, names: Mapping[str, int]) -> PlannedVm:
    vm = item.vm.vm
    on = Counter(disk.datastore for disk in vm.disks)
    facts = CheckFacts(
        target_name=item.target_name,
        installation=site.installation,
        declared_os=item.declared_os,
        datastores=tuple(site.datastores[name] for name in sorted(on) if name in site.datastores),
    )
    findings = check(vm, facts)
    if item.replicated_by:
        findings = tuple(finding for finding in findings if finding.code is not FindingCode.ALREADY_PROTECTED)
    if names[item.target_name.casefold()] > 1:
        findings += (
            Finding(
                FindingCode.TARGET_NAME_TAKEN,
                Severity.WARNING,
                f"{names[item.target_name.casefold()]} of the chosen VMs get the name '{item.target_name}' in Azure.",
                "Give them target names of their own before they are migrated: the column vm_name of a list, or `deltaferry target`.",
            ),
        )
    return PlannedVm(
        name=vm.name,
        instance_uuid=vm.instance_uuid,
        folder=item.vm.folder,
        host=vm.host,
        datastores=tuple(sorted(on.items())),
        disks=len(vm.disks),
        capacity_bytes=item.vm.capacity_bytes,
        read_bytes=item.vm.expected_bytes,
        target_name=item.target_name,
        verdict=_verdict(item, findings),
        replicated_by=item.replicated_by,
        findings=findings,
    )


def _verdict(item: Wanted, findings: Iterable[Finding]) -> Verdict:
    if item.replicated_by:
        return Verdict.ALREADY
    refused = any(finding.severity is Severity.ERROR for finding in findings)
    return Verdict.REFUSED if refused else Verdict.ENABLED


def _carried(vms: Iterable[PlannedVm], site: SiteFacts) -> dict[str, str]:
    """Return by instance UUID which appliance will carry a VM; one that has to wait for room counts for the least loaded."""
    loads = dict(site.appliances)
    carried = {}
    for vm in vms:
        appliance = assign(loads, site.limits) or min(loads, key=lambda name: (loads[name], name))
        loads[appliance] += 1
        carried[vm.instance_uuid] = appliance
    return carried


def _side_by_side_s(vms: Sequence[PlannedVm], carried: Mapping[str, str], site: SiteFacts, bytes_per_s: float) -> float | None:
    """Return when the last first copy ends if the arbiter's own rule lets them start, in the plan's order."""
    left_s = {vm.instance_uuid: vm.read_bytes / bytes_per_s for vm in vms}
    waiting = {vm.instance_uuid: _request(ticket, vm, carried[vm.instance_uuid]) for ticket, vm in enumerate(vms)}
    leases: dict[str, Lease] = {}
    ends: list[tuple[float, str]] = []
    now_s = 0.0
    while waiting:
        for request in grant(waiting.values(), leases.values(), site.limits, _SOME_DAY):
            del waiting[request.holder]
            leases[request.holder] = _lease(request)
            heapq.heappush(ends, (now_s + left_s[request.holder], request.holder))
        if not ends:
            return None
        now_s, ended = heapq.heappop(ends)
        del leases[ended]
        while ends and ends[0][0] <= now_s:
            del leases[heapq.heappop(ends)[1]]
    return max((end for end, _ in ends), default=now_s)


def _request(ticket: int, vm: PlannedVm, appliance: str) -> SlotRequest:
    return SlotRequest(
        holder=vm.instance_uuid,
        request_id=vm.instance_uuid,
        priority=Priority.INITIAL,
        appliance=appliance,
        host=vm.host,
        disks=vm.disks,
        datastores=vm.datastores,
        ticket=ticket,
        requested_at=_SOME_DAY,
    )


def _lease(request: SlotRequest) -> Lease:
    return Lease(
        lease_id=request.holder,
        holder=request.holder,
        request_id=request.request_id,
        priority=request.priority,
        appliance=request.appliance,
        host=request.host,
        disks=request.disks,
        datastores=request.datastores,
    )


def _binding(vms: Sequence[PlannedVm], carried: Mapping[str, str], site: SiteFacts) -> Iterator[BindingLimit]:
    limits = site.limits
    yield from _replications(len(vms), site)
    appliances: Counter[str] = Counter()
    hosts: Counter[str] = Counter()
    snapshots: Counter[str] = Counter()
    for vm in vms:
        appliances[carried[vm.instance_uuid]] += vm.disks
        hosts[vm.host] += vm.disks
        snapshots.update(dict(vm.datastores))
    for appliance, count in sorted(appliances.items()):
        if count > limits.disks_per_appliance:
            yield BindingLimit(
                "disks_per_appliance", appliance, count, limits.disks_per_appliance,
                f"The appliance {appliance} transfers {count_text(limits.disks_per_appliance, 'disk')} at once; these are {count}.",
            )  # fmt: skip
    for host, count in sorted(hosts.items()):
        if count > limits.disks_per_host:
            yield BindingLimit(
                "disks_per_host", host, count, limits.disks_per_host,
                f"At most {count_text(limits.disks_per_host, 'disk')} of the host {host or '(unknown)'} can be in transfer; these are {count}.",
            )  # fmt: skip
    bulk = limits.bulk_snapshots_per_datastore
    for name, count in sorted(snapshots.items()):
        if count > bulk:
            yield BindingLimit(
                "snapshots_per_datastore", name, count, bulk,
                f"First copies hold {count_text(bulk, 'disk snapshot')} at once on the datastore {name}, two thirds of "
                f"{limits.snapshots_per_datastore}; these need {count}.",
            )  # fmt: skip
    for name in sorted(snapshots):
        space = site.datastores.get(name)
        sentence = shortage(space) if space is not None else None
        if space is not None and sentence is not None:
            yield BindingLimit("datastore_space", name, snapshots[name], 0, f"{sentence} Until then no snapshot is taken there.")


def _replications(more: int, site: SiteFacts) -> Iterator[BindingLimit]:
    limits, together = site.limits, sum(site.appliances.values()) + more
    if together > limits.replications_per_site:
        yield BindingLimit(
            "replications_per_site", "", together, limits.replications_per_site,
            f"A site has at most {limits.replications_per_site} replications; with these it would have {together}: "
            f"{together - limits.replications_per_site} will wait.",
        )  # fmt: skip
    room = limits.replications_per_appliance * len(site.appliances)
    if together > room:
        which = (
            "The site's appliance carries" if len(site.appliances) == 1 else f"The site's {len(site.appliances)} appliances carry"
        )
        yield BindingLimit(
            "replications_per_appliance", "", together, room,
            f"{which} at most {room} replications; with these there would be {together}: {together - room} will wait for a scale-out appliance.",
        )  # fmt: skip


def _throttle(read_bytes: int, at_best_s: float | None, site: SiteFacts) -> Iterator[BindingLimit]:
    """Yield the throttle of now where it is slower than the slots; what is sent is less than what is read, by compression."""
    if site.throttle_bytes_per_s is None or not at_best_s:
        return
    allowed = site.throttle_bytes_per_s * len(site.appliances)
    if read_bytes / at_best_s > allowed:
        yield BindingLimit(
            "throttle", "", int(read_bytes / at_best_s), int(allowed),
            f"The throttle lets the site's appliances send {size_text(int(allowed))}/s now: "
            f"without compression these would take {duration_text(timedelta(seconds=read_bytes / allowed))}.",
        )  # fmt: skip
