"""How an inventory, a plan for many VMs, and what became of it look in a terminal and as JSON."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from console.inventories import KnownSite
from console.output import local_time
from deltaferry.model.inventory import DiscoveredVm
from deltaferry.model.vm import PowerState
from deltaferry.planning.enable_plan import EnablePlan, Verdict
from deltaferry.planning.findings import Severity
from deltaferry.planning.phrases import count_text, duration_text, size_text

NOT_CHECKED = (
    "Not checked here: the vSphere user's privileges on each VM, and names, network and resource group in Azure. "
    "Enabling checks them, and everything again."
)
_NOTHING = "–"  # noqa: RUF001 - the sign for nothing
_STYLES = {Verdict.ENABLED: "green", Verdict.ALREADY: "", Verdict.REFUSED: "bold red"}
_POWER = {PowerState.ON: "on", PowerState.OFF: "off", PowerState.SUSPENDED: "suspended"}


@dataclass(frozen=True, slots=True)
class EnabledVm:
    """One VM's outcome."""

    vm: str
    instance_uuid: str
    became: Verdict
    workflow_id: str
    """Of its replication; empty where there is none."""
    sentence: str = ""
    """Why it was refused, or what replicates it already."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DiskRow:
    """A disk of a listed VM."""

    label: str
    capacity_bytes: int
    committed_bytes: int | None
    datastore: str
    backing: str
    mode: str
    thin: bool | None


@dataclass(frozen=True, slots=True)
class VmRow:
    """A VM of the inventory, for programs."""

    name: str
    instance_uuid: str
    folder: str
    datacenter: str
    cluster: str
    host: str
    power: str
    guest_id: str
    guest: str
    firmware: str
    hardware_version: int
    cpus: int
    memory_mib: int
    tools: str
    change_tracking: bool
    disks: tuple[DiskRow, ...]
    capacity_bytes: int
    expected_bytes: int
    snapshots: tuple[str, ...]
    """Of others."""
    our_snapshots: tuple[str, ...]
    attributes: tuple[tuple[str, str], ...]
    annotation: str
    replicated_by: str


def vm_row(known: KnownSite, item: DiscoveredVm) -> VmRow:
    """Return a VM as `discover --json` prints it."""
    vm = item.vm
    storage = {stored.key: stored for stored in item.storage}
    return VmRow(
        name=vm.name,
        instance_uuid=vm.instance_uuid,
        folder=item.folder,
        datacenter=item.datacenter,
        cluster=item.cluster,
        host=vm.host,
        power=_POWER[vm.power],
        guest_id=vm.guest_id,
        guest=vm.guest_full_name,
        firmware=vm.firmware.value,
        hardware_version=vm.hardware_version,
        cpus=vm.cpus,
        memory_mib=vm.memory_mib,
        tools=item.tools.value,
        change_tracking=vm.cbt_enabled,
        disks=tuple(
            DiskRow(
                disk.label,
                disk.capacity_bytes,
                stored.committed_bytes,
                disk.datastore,
                stored.backing.value,
                stored.mode,
                stored.thin,
            )
            for disk in vm.disks
            if (stored := storage.get(disk.key)) is not None
        ),
        capacity_bytes=item.capacity_bytes,
        expected_bytes=item.expected_bytes,
        snapshots=item.other_snapshots,
        our_snapshots=item.our_snapshots,
        attributes=item.attributes,
        annotation=vm.annotation,
        replicated_by=known.replicated_by(item),
    )


def inventory_view(known: KnownSite, chosen: Sequence[DiscoveredVm]) -> RenderableType:
    """Return the list of VMs, with the inventory's age."""
    found = known.inventory.found
    table = Table(
        "VM", "folder", "power", "host", "datastores", "disks", "size", "used", "CBT", "snapshots", "tools", "guest", "firmware",
        "replicated", box=None, pad_edge=False,
    )  # fmt: skip
    for item in chosen:
        vm = item.vm
        cells = (
            vm.name, item.folder, _POWER[vm.power], vm.host, ", ".join(item.datastores), str(len(vm.disks)),
            size_text(item.capacity_bytes), size_text(item.expected_bytes), "on" if vm.cbt_enabled else "off", _snapshots(item),
            item.tools.value, vm.guest_full_name or vm.guest_id or "not set", vm.firmware.value, "yes" if known.replicated_by(item) else _NOTHING,
        )  # fmt: skip
        table.add_row(*map(Text, cells))
    which = (
        f"{len(chosen)} of {count_text(len(found.vms), 'VM')}" if len(chosen) != len(found.vms) else count_text(len(chosen), "VM")
    )
    parts: list[RenderableType] = [table, Text()] if chosen else []
    parts.append(
        Text(
            f"{which} of {known.name}, as of {local_time(known.inventory.read_at)}, {duration_text(known.age)} ago (--refresh reads anew)."
        )
    )
    for left in found.unreadable:
        parts.append(Text(f"Not listed: {left.name or left.moref}: {left.reason}.", style="yellow"))
    return Group(*parts)


def _snapshots(item: DiscoveredVm) -> str:
    counts = [f"{len(item.other_snapshots)}"] if item.other_snapshots else []
    counts += [f"{len(item.our_snapshots)} ours"] if item.our_snapshots else []
    return ", ".join(counts) or _NOTHING


def plan_view(known: KnownSite, plan: EnablePlan) -> RenderableType:
    """Return what enabling these VMs will mean."""
    table = Table("VM", "folder", "host", "datastores", "disks", "size", "to read", "will be", box=None, pad_edge=False)
    for vm in plan.vms:
        on = ", ".join(f"{name} ({count})" if count > 1 else name for name, count in vm.datastores)
        cells = (vm.name, vm.folder, vm.host, on, str(vm.disks), size_text(vm.capacity_bytes), size_text(vm.read_bytes))
        table.add_row(*map(Text, cells), Text(vm.verdict.value, style=_STYLES[vm.verdict]))
    copied = sum(vm.verdict is Verdict.ENABLED for vm in plan.vms)
    lines: list[RenderableType] = [table, Text()]
    lines += _findings(plan)
    lines.append(
        Text(
            f"{count_text(copied, 'VM')} to copy: {count_text(plan.disks, 'disk')}, {size_text(plan.capacity_bytes)}, "
            f"of which {size_text(plan.read_bytes)} at most have to be read.",
            style="bold",
        )
    )
    lines.append(Text(plan.rate.sentence))
    lines.append(Text(_time(plan)))
    lines += [Text(f"Limit: {limit.sentence}", style="yellow") for limit in plan.limits]
    lines.append(Text(NOT_CHECKED))
    lines.append(Text(f"Reckoned from the inventory of {local_time(known.inventory.read_at)}, {duration_text(known.age)} ago."))
    return Group(*lines)


def _findings(plan: EnablePlan) -> list[RenderableType]:
    lines: list[RenderableType] = []
    for vm in plan.vms:
        if vm.replicated_by:
            lines.append(Text(f"{vm.name}: {vm.replicated_by} replicates it already."))
            continue
        for finding in vm.findings:
            if finding.severity is not Severity.INFO:
                style = "red" if finding.severity is Severity.ERROR else "yellow"
                lines.append(Text(f"{vm.name}: [{finding.code.value}] {finding.cause} {finding.remedy}", style=style))
    return [*lines, Text()] if lines else []


def _time(plan: EnablePlan) -> str:
    if plan.side_by_side_s is None:
        return "A limit of zero lets nothing start."
    at_best, in_turn = (duration_text(timedelta(seconds=round(value, 1))) for value in (plan.side_by_side_s, plan.in_turn_s))
    return f"Estimated time: {at_best} if all run side by side as far as the limits allow, {in_turn} one after another."


def outcomes_view(outcomes: Sequence[EnabledVm]) -> RenderableType:
    """Return what became of each VM, and how many of each."""
    table = Table("VM", "was", "replication", "why", box=None, pad_edge=False)
    for item in outcomes:
        why = " ".join((item.sentence, *(f"Warning: {warning}" for warning in item.warnings))).strip()
        table.add_row(
            Text(item.vm), Text(item.became.value, style=_STYLES[item.became]), Text(item.workflow_id or _NOTHING), Text(why)
        )
    counts = {became: sum(item.became is became for item in outcomes) for became in Verdict}
    return Group(table, Text(), Text(", ".join(f"{count} {became.value}" for became, count in counts.items()) + "."))
