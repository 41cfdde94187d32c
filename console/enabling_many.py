"""Enabling many VMs at once: which ones, what it will mean, and the doing, which goes on when one is refused."""

import asyncio
import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from temporalio.client import Client

from console import client as replicating
from console.discovery_views import EnabledVm
from console.inventories import KnownSite, measured, selection_of, site_facts
from console.outcomes import EXPECTED, CommandError, ExitCode, command_error
from console.output import Output
from deltaferry.model.errors import ErrorKind
from deltaferry.model.inventory import DiscoveredVm
from deltaferry.planning.enable_list import ListedVm, ListError, found_in, read_list
from deltaferry.planning.enable_plan import EnablePlan, Verdict, Wanted, plan
from deltaferry.planning.measured_rate import rate_of
from deltaferry.planning.phrases import count_text
from workflows.messages.operator_input import EnableInput, TargetProperties
from workflows.messages.site import EnableResult
from workflows.refusals import bad_input_sentence

_AT_ONCE = 8
"""So many are checked and started side by side: each check asks vCenter and Azure a few things."""
_MAX_LIST_BYTES = 4 * 1024**2
_PROPERTIES = tuple(field.name for field in dataclasses.fields(TargetProperties))
_TARGET = TypeAdapter(TargetProperties)


@dataclass(frozen=True, slots=True)
class Which:
    """Which VMs: exactly one of the three is given."""

    vm: str | None = None
    where: str | None = None
    csv: Path | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """A VM to enable, and with which input."""

    vm: DiscoveredVm
    request: EnableInput


def read_lines(which: Which) -> tuple[ListedVm, ...]:
    """Return the lines of a list, none without one. Raises CommandError with a sentence for each wrong line."""
    if which.csv is None:
        return ()
    try:
        data = which.csv.read_bytes()
    except OSError as error:
        raise CommandError(
            ExitCode.NOT_FOUND, f"The file {which.csv} cannot be read: {error.strerror or type(error).__name__}."
        ) from None
    if len(data) > _MAX_LIST_BYTES:
        raise _bad_list(which.csv, ["It is larger than 4 MiB."])
    try:
        return read_list(data.decode("utf-8"), _PROPERTIES)
    except UnicodeDecodeError:
        raise _bad_list(which.csv, ["It is not UTF-8 text: save it as CSV UTF-8."]) from None
    except ListError as error:
        raise _bad_list(which.csv, error.sentences) from None


def choose(
    known: KnownSite, which: Which, lines: Sequence[ListedVm], target: TargetProperties, *, auto_repair: bool
) -> tuple[Choice, ...]:
    """Return the VMs to enable. Raises CommandError where there is none, or a line of the list is wrong."""
    if which.csv is not None:
        if target.vm_name is not None:
            raise CommandError(
                ExitCode.USAGE,
                "A list cannot be given one --target-vm-name.",
                "Write the names in its column vm_name.",
                ErrorKind.BAD_INPUT,
            )
        return _listed(known, which.csv, lines, target, auto_repair=auto_repair)
    vms = _chosen(known, which)
    if len(vms) > 1 and target.vm_name is not None:
        raise CommandError(
            ExitCode.USAGE,
            f"{len(vms)} VMs cannot all be named {target.vm_name!r} in Azure.",
            "Leave --target-vm-name out, or give each its own in the column vm_name of a list (--csv).",
            ErrorKind.BAD_INPUT,
        )
    return tuple(Choice(vm, EnableInput(vm.vm.instance_uuid, known.name, target, auto_repair)) for vm in vms)


async def planned(client: Client, known: KnownSite, choices: Sequence[Choice]) -> EnablePlan:
    """Return what enabling these VMs will mean."""
    facts = await site_facts(client, known)
    wanted = [
        Wanted(
            vm=choice.vm,
            target_name=choice.request.target.vm_name or choice.vm.vm.name,
            declared_os=choice.request.target.os_type,
            replicated_by=known.replicated_by(choice.vm),
        )
        for choice in choices
    ]
    return plan(wanted, facts, rate_of(await measured(client, known)))


async def enable_all(client: Client, known: KnownSite, choices: Sequence[Choice], output: Output) -> tuple[EnabledVm, ...]:
    """Enable every VM that is not replicated already; one that is refused keeps no other from being enabled."""
    room = asyncio.Semaphore(_AT_ONCE)

    async def one(choice: Choice) -> EnabledVm:
        replicated_by = known.replicated_by(choice.vm)
        if replicated_by:
            return _outcome(choice, Verdict.ALREADY, f"{replicated_by} replicates it already.", known)
        async with room:
            outcome = await _enable(client, known, choice)
        output.note(f"{outcome.vm}: {outcome.became.value}")
        return outcome

    return tuple(await asyncio.gather(*map(one, choices)))


async def _enable(client: Client, known: KnownSite, choice: Choice) -> EnabledVm:
    try:
        handle = await replicating.start_enable(client, choice.request)
        result: EnableResult = await handle.result()
    except EXPECTED as error:
        ended = command_error(error)
        became = Verdict.ALREADY if ended.kind is ErrorKind.ALREADY_PROTECTED else Verdict.REFUSED
        return _outcome(choice, became, " ".join(filter(None, (ended.sentence, ended.remedy))), known)
    warnings = tuple(
        f"[{finding.code}] {finding.cause} {finding.remedy}" for finding in result.warnings if finding.severity == "warning"
    )
    return EnabledVm(result.vm_name, result.instance_uuid, Verdict.ENABLED, result.workflow_id, warnings=warnings)


def _outcome(choice: Choice, became: Verdict, sentence: str, known: KnownSite) -> EnabledVm:
    uuid = choice.vm.vm.instance_uuid
    return EnabledVm(choice.vm.vm.name, uuid, became, known.replications.get(uuid, ""), sentence)


def _chosen(known: KnownSite, which: Which) -> tuple[DiscoveredVm, ...]:
    vms = known.inventory.found.vms
    selection = selection_of(which.where)
    if selection is not None:
        found = selection.among(known.candidates())
        if not found:
            raise CommandError(
                ExitCode.NOT_FOUND,
                f"The expression chooses none of the {count_text(len(vms), 'VM')} in the inventory of {known.name}.",
                f"`deltaferry discover {known.name}` lists them.",
                ErrorKind.VM_NOT_FOUND,
            )
        return found
    reference = which.vm or ""
    found = tuple(item for item in vms if reference == item.vm.name or reference.lower() == item.vm.instance_uuid.lower())
    if not found:
        raise CommandError(
            ExitCode.NOT_FOUND,
            f"The inventory of {known.name} has no VM with the name or instance UUID {reference!r}.",
            "Give --refresh if it is new.",
            ErrorKind.VM_NOT_FOUND,
        )
    if len(found) > 1:
        uuids = ", ".join(sorted(item.vm.instance_uuid for item in found))
        raise CommandError(
            ExitCode.USAGE,
            f"{len(found)} VMs are named {reference!r}.",
            f"Give one of these instance UUIDs: {uuids}.",
            ErrorKind.VM_AMBIGUOUS,
        )
    return found


def _listed(
    known: KnownSite, file: Path, lines: Sequence[ListedVm], target: TargetProperties, *, auto_repair: bool
) -> tuple[Choice, ...]:
    mistakes: list[str] = []
    targets: dict[int, TargetProperties] = {}
    for line in lines:
        try:
            targets[line.line] = _TARGET.validate_python(_merged(target, line))
        except ValidationError as error:
            mistakes.append(f"Line {line.line}: {bad_input_sentence('target properties', TargetProperties, error)}.")
    try:
        pairs = found_in(lines, known.inventory.found.vms)
    except ListError as error:
        mistakes += [*error.sentences, "Give --refresh if a VM is newer than the inventory."]
        pairs = ()
    if mistakes:
        raise _bad_list(file, mistakes)
    return tuple(Choice(vm, EnableInput(vm.vm.instance_uuid, known.name, targets[line.line], auto_repair)) for line, vm in pairs)


def _merged(target: TargetProperties, line: ListedVm) -> dict[str, Any]:
    """Return the properties for a line: those for all, in whose place its own stand; tags are joined."""
    common = {name: value for name in _PROPERTIES if (value := getattr(target, name)) is not None}
    tags = {**target.tags, **dict(line.properties.get("tags") or {})}  # type: ignore[arg-type]
    return {**common, **line.properties, "tags": tags}


def _bad_list(file: Path, sentences: Iterable[str]) -> CommandError:
    told = tuple(sentences)
    return CommandError(
        ExitCode.USAGE, "\n".join([f"{file} cannot be used, and nothing was started.", *told]), kind=ErrorKind.BAD_INPUT
    )
