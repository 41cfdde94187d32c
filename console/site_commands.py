"""`site`, `reassign` and `force-release`: a site's settings and slots, looked at and changed while everything runs."""

import dataclasses
import types
import typing
from datetime import datetime, timedelta
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Group
from rich.table import Table
from rich.text import Text
from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

from console.options import ConfigOption, JsonOption, ReasonOption
from console.outcomes import CommandError, ExitCode
from console.session import Session
from deltaferry.model.errors import ErrorKind
from workers.settings_types import parse_duration
from workflows import names
from workflows.messages.operator_input import ForceRelease, ReassignInput, SettingsChange
from workflows.messages.slot import SlotsState
from workflows.refusals import bad_input_sentence
from workflows.slots.presenting import waits_without_appliance

app = typer.Typer()

_ANSWER_WITHIN = timedelta(seconds=20)

SiteArgument = Annotated[str, typer.Argument(metavar="SITE", help="The site's name.")]
_Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help='Change a setting, e.g. --set disks_per_host=4; an empty value is "none".'),
]
_Appliances = Annotated[
    list[str] | None,
    typer.Option(
        "--scale-out",
        metavar="NAME[=WINDOWS]",
        help="All the scale-out appliances that the site has from now on, each with blackout windows of its own if any; "
        '"none" for no one.',
    ),
]


@app.command(epilog='Example: deltaferry site lon1 --set disks_per_host=4 --set "blackout=Monday;7:00;7h"')
def site(
    name: SiteArgument,
    settings: _Settings = None,
    scale_out: _Appliances = None,
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a site's settings, appliances and slots, or change settings: they hold at once, for what waits and runs too."""
    session = Session(config, as_json=as_json)

    async def work(client: Client) -> None:
        arbiter = await _arbiter(client, name)
        sentence = None
        if settings or scale_out:
            change = _change(settings or [], scale_out, reason)
            sentence = await arbiter.execute_update("change_settings", change, result_type=str)
        state: SlotsState = await arbiter.query("status", result_type=SlotsState, rpc_timeout=_ANSWER_WITHIN)
        shown = [Text(sentence)] if sentence else []
        session.output.result(
            Group(*shown, _settings_table(state), _slots_table(state)),
            {"site": name, "settings": state.profile, "leases": state.leases, "waiting": state.waiting,
             "assigned": state.assigned, "silent": state.silent, "result": sentence},
        )  # fmt: skip

    session.run(work)


@app.command(epilog="Example: deltaferry reassign lon1 5021f0c3-6d3e-4c52-8a52-2a0a0c9d8a11 edge-2")
def reassign(
    name: SiteArgument,
    vm: Annotated[str, typer.Argument(metavar="VM", help="The VM's instance UUID, or the replication's workflow id.")],
    appliance: Annotated[str, typer.Argument(metavar="APPLIANCE", help="The appliance that moves its data from now on.")],
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Move a replication to another appliance of its site; its next chunk goes through there."""
    _send(Session(config, as_json=as_json), name, "reassign", ReassignInput(vm, appliance, reason))


@app.command("force-release", epilog="Example: deltaferry force-release lon1 vm/lon1/5021f0c3-6d3e-4c52-8a52-2a0a0c9d8a11")
def force_release(
    name: SiteArgument,
    holder: Annotated[str, typer.Argument(metavar="HOLDER", help="The workflow id that holds the slots, as `site` shows it.")],
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Free slots that nothing else frees: of a holder that is dead, and whose snapshot cannot be looked for."""
    _send(Session(config, as_json=as_json), name, "force_release", ForceRelease(holder, reason))


def _send(session: Session, name: str, update: str, argument: object) -> None:
    async def work(client: Client) -> None:
        sentence = await (await _arbiter(client, name)).execute_update(update, argument, result_type=str)
        session.output.result(Text(sentence), {"site": name, "operation": update, "result": sentence})

    session.run(work)


async def _arbiter(client: Client, name: str) -> WorkflowHandle[Any, Any]:
    """Return the handle of a site's arbiter. Raises CommandError where none runs."""
    handle: WorkflowHandle[Any, Any] = client.get_workflow_handle(names.slots_id(name))
    try:
        await handle.describe()
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        raise CommandError(
            ExitCode.NOT_FOUND,
            f"Nothing has been replicated at a site {name!r} yet, so that it has no slots to show.",
            "Check the site's name, or enable a VM of it first; its settings until then are those of the settings file.",
            ErrorKind.BAD_INPUT,
        ) from error
    return handle


def _change(given: list[str], scale_out: list[str] | None, reason: str) -> SettingsChange:
    """Return the change that options describe. Raises CommandError with a sentence for what cannot be read."""
    known = {field.name: field.type for field in dataclasses.fields(SettingsChange)}
    raw: dict[str, object] = {"reason": reason}
    for entry in given:
        name, equals, value = entry.partition("=")
        if not equals or name not in known or name in ("reason", "appliances"):
            settings = ", ".join(sorted(set(known) - {"reason", "appliances"}))
            raise CommandError(
                ExitCode.USAGE, f"--set {entry!r} is not a setting's name and value.", f"The settings are: {settings}."
            )
        raw[name] = _value(value, known[name])
    if scale_out is not None:
        named = [entry.partition("=") for entry in scale_out if entry != "none"]
        raw["appliances"] = {name: windows for name, _, windows in named}
    try:
        return TypeAdapter(SettingsChange).validate_python(raw)
    except ValidationError as error:
        sentence = bad_input_sentence("change_settings", SettingsChange, error)
        raise CommandError(ExitCode.USAGE, sentence, "Nothing was changed.") from None


def _value(text: str, annotation: Any) -> object:
    """Return a value as the setting's type wants it: durations are written as everywhere, such as 90m."""
    if timedelta in typing.get_args(annotation) or (isinstance(annotation, types.UnionType) and timedelta in annotation.__args__):
        return parse_duration(text) or text
    return text


def _settings_table(state: SlotsState) -> Table:
    profile = state.profile
    table = Table("setting", "value", title=f"Site {profile.site}, revision {profile.revision}")
    for field in dataclasses.fields(SettingsChange):
        if field.name in ("reason", "appliances"):
            continue
        value = getattr(profile, field.name)
        table.add_row(field.name, "none" if value == "" else str(value))
    loads = {
        name: list(state.assigned.values()).count(name) for name in (profile.appliance, *(a.name for a in profile.appliances))
    }
    for name, load in loads.items():
        silent = ", does not answer" if name in state.silent else ""
        table.add_row("appliance", f"{name}: {load} replications{silent}")
    return table


def _slots_table(state: SlotsState) -> Table:
    table = Table("workflow", "kind", "disks", "since", "is", title="Slots")
    for held in state.leases:
        doing = "keeps its snapshot, gave way" if held.gave_way else "in transfer"
        table.add_row(held.wanted.holder, held.wanted.kind.value, str(held.wanted.disks), _time(held.granted_at), doing)
    for waiting in state.waiting:
        waits = "waits for an appliance" if waits_without_appliance(state, waiting) else "waits"
        table.add_row(
            waiting.wanted.holder, waiting.wanted.kind.value, str(waiting.wanted.disks), _time(waiting.requested_at), waits
        )
    return table


def _time(at: datetime) -> str:
    return at.strftime("%H:%M:%S UTC")
