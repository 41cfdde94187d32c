"""`migrate`, `stop` and `complete`: the verbs that lead to an end, which can be waited for."""

from typing import Annotated, Any

import typer
from rich.console import Group
from rich.text import Text
from temporalio.client import Client

from console import client as replicating
from console.client import Handle
from console.following import follow
from console.options import (
    ConfigOption,
    ExpectedImport,
    JsonOption,
    MaxDowntime,
    PropertiesOption,
    ReasonOption,
    ShutdownTimeout,
    SiteOption,
    VmArgument,
    WaitOption,
    target_properties,
    validated,
)
from console.outcomes import CommandError, ExitCode
from console.session import Session
from console.views import migration_view
from deltaferry.model.states import MigrationState, Operation
from workflows.messages.operator_input import EndOptions, MigrateOptions
from workflows.messages.replication_state import EndResult
from workflows.messages.views import StatusView

app = typer.Typer()

_MIGRATING = frozenset({MigrationState.MIGRATION_QUEUED, MigrationState.MIGRATION_IN_PROGRESS})
_KeepTracking = Annotated[bool, typer.Option("--keep-change-tracking", help="Leave CBT on although Deltaferry switched it on.")]


@app.command(epilog="Example: deltaferry migrate web-01 --allow-power-off --shutdown-timeout 15m --wait")
def migrate(
    vm: VmArgument,
    site: SiteOption = None,
    keep_source_running: bool = typer.Option(
        False, "--keep-source-running", help="Do not shut the source down: its last writes are not in the target."
    ),
    shutdown_timeout: ShutdownTimeout = None,
    allow_power_off: bool = typer.Option(
        False, "--allow-power-off", help="Power off hard when the guest has not shut down in time."
    ),
    max_downtime: MaxDowntime = None,
    expected_import: ExpectedImport = None,
    guard_source: bool = typer.Option(
        True, "--guard-source/--no-guard-source", help="Annotate the source and disconnect its NICs at power-on."
    ),
    override_blackout: bool = typer.Option(
        False,
        "--override-blackout",
        help="Migrate although a blackout window is open; otherwise it is refused with the window's end.",
    ),
    properties: PropertiesOption = None,
    reason: ReasonOption = "",
    wait: WaitOption = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Migrate now: on-demand delta, guest shut down, final delta, target VM running."""
    session = Session(config, as_json=as_json)

    def options() -> MigrateOptions:
        given: dict[str, Any] = {"keep_source_running": keep_source_running, "allow_power_off": allow_power_off}
        given |= {"override_blackout": override_blackout}
        given |= {"guard_source": guard_source, "reason": reason, "max_downtime": max_downtime}
        given |= {"shutdown_timeout": shutdown_timeout} if shutdown_timeout is not None else {}
        given |= {"expected_import": expected_import} if expected_import is not None else {}
        given |= {"target": target_properties(properties, None)} if properties is not None else {}
        return validated(MigrateOptions, given, "migrate")

    async def work(client: Client) -> None:
        request = options()
        handle = await replicating.find(client, vm, site)
        sentence = await replicating.send(handle, Operation.MIGRATE, request)
        if not wait:
            session.output.result(Text(sentence), _answer(handle, Operation.MIGRATE, sentence))
            return
        session.output.note(sentence)
        shown = await follow(client, handle, session.output, _migration_is_over)
        result = shown.status.migration
        if shown.status.migration_state != MigrationState.MIGRATED or result is None:
            raise _failed(shown.status)
        session.output.result(migration_view(result), {**_answer(handle, Operation.MIGRATE, sentence), "migration": result})

    session.run(work)


@app.command(epilog='Example: deltaferry stop web-01 --reason "decommissioned" --wait')
def stop(
    vm: VmArgument,
    site: SiteOption = None,
    keep_change_tracking: _KeepTracking = False,
    reason: ReasonOption = "",
    wait: WaitOption = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """End replication before a migration, and delete everything that it made."""
    _end(Session(config, as_json=as_json), vm, site, Operation.STOP, EndOptions(keep_change_tracking, reason), wait=wait)


@app.command(epilog="Example: deltaferry complete web-01 --wait")
def complete(
    vm: VmArgument,
    site: SiteOption = None,
    keep_change_tracking: _KeepTracking = False,
    reason: ReasonOption = "",
    wait: WaitOption = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Finish a successful migration: delete all but the migrated VM."""
    _end(Session(config, as_json=as_json), vm, site, Operation.COMPLETE, EndOptions(keep_change_tracking, reason), wait=wait)


def _end(session: Session, vm: str, site: str | None, operation: Operation, options: EndOptions, *, wait: bool) -> None:
    async def work(client: Client) -> None:
        handle = await replicating.find(client, vm, site)
        sentence = await replicating.send(handle, operation, options)
        if not wait:
            session.output.result(Text(sentence), _answer(handle, operation, sentence))
            return
        session.output.note(sentence)
        shown = await follow(client, handle, session.output, lambda view: bool(view.health) and "retry" in view.allowed)
        if await replicating.running(handle):
            raise _failed(shown.status)
        ended: EndResult = await client.get_workflow_handle(handle.id, result_type=EndResult).result()
        line = f"{ended.vm_name}: {ended.outcome.value}; nothing of the replication is left."
        session.output.result(Group(Text(line)), {**_answer(handle, operation, sentence), "ended": ended})

    session.run(work)


def _answer(handle: Handle, operation: Operation, sentence: str) -> dict[str, object]:
    return {"workflow_id": handle.id, "operation": operation, "result": sentence}


def _migration_is_over(view: StatusView) -> bool:
    return view.migration_state not in _MIGRATING


def _failed(view: StatusView) -> CommandError:
    if view.health:
        error = view.health[0]
        return CommandError(ExitCode.FAILED, f"{error.message} ({error.cause})", error.remedy, error.kind)
    return CommandError(ExitCode.FAILED, f"It did not come to its end: {view.replication_state}, {view.migration_state}.")
