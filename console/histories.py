"""Where histories come from: a file, the archive in the gateway store, or the Temporal server."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.json_format import ParseError
from pydantic import ValidationError
from temporalio.client import Client, WorkflowHistory

from activities.settling import COMMIT_RECORD_ADAPTER
from console import client as replicating
from console.late import late
from console.outcomes import CommandError, ExitCode
from deltaferry.model.errors import ErrorKind
from deltaferry.model.naming import COMMIT_RECORD, GATEWAY_CONTAINER_PREFIX, history_name
from deltaferry.model.replication import ReplicationRef
from deltaferry.ports.stores import ObjectStore
from workers.settings import Settings
from workflows import names

_HISTORIES = history_name("").partition("/")[0] + "/"


@dataclass(frozen=True, slots=True)
class FoundHistory:
    """A history and the place it was read from."""

    origin: str
    history: WorkflowHistory


def from_file(path: Path) -> FoundHistory:
    """Return the history in a JSON file as the Temporal UI or `temporal workflow show -o json` writes it.

    Raises CommandError USAGE for a file that is none.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CommandError(
            ExitCode.NOT_FOUND, f"The file {path} cannot be read: {error.strerror or type(error).__name__}."
        ) from None
    return FoundHistory(str(path), _decoded(data, str(path), path.stem))


async def from_server(client: Client, reference: str, site: str | None, run_id: str | None) -> FoundHistory:
    """Return the history of a workflow: of any by its id, of a replication also by its VM."""
    known = "/" in reference or run_id is not None
    workflow_id = reference if known else (await replicating.find(client, reference, site)).id
    history = await client.get_workflow_handle(workflow_id, run_id=run_id).fetch_history()
    return FoundHistory("the Temporal server", history)


def from_archive(settings: Settings, reference: str, run_id: str | None) -> list[FoundHistory]:
    """Return the archived histories of a replication, oldest first; it is named as in a command, or by its replication id.

    Raises CommandError NOT_FOUND, or USAGE where several replications match.
    """
    wiring = late("workers.wiring")
    matches: list[tuple[ObjectStore, str, str]] = []
    for target in settings.targets.values():
        gateway: ObjectStore = wiring.build_stores(target).gateway
        matches += [(gateway, container, workflow_id) for container, workflow_id in _containers(gateway, reference)]
    if not matches:
        raise CommandError(
            ExitCode.NOT_FOUND,
            f"No gateway store of {', '.join(settings.targets) or 'the settings file'} has an archive of {reference}.",
            "An archive is deleted when its replication is stopped or completed.",
            ErrorKind.VM_NOT_FOUND,
        )
    if len(matches) > 1:
        listed = ", ".join(sorted(f"{workflow_id} ({container})" for _, container, workflow_id in matches))
        raise CommandError(
            ExitCode.USAGE,
            f"Several archives match {reference}: {listed}.",
            "Name one by its replication id.",
            ErrorKind.VM_AMBIGUOUS,
        )
    gateway, container, workflow_id = matches[0]
    found = [
        FoundHistory(f"{container}/{stored.name}", _decoded(gateway.get(f"{container}/{stored.name}"), stored.name, workflow_id))
        for stored in gateway.list(container, _HISTORIES)
        if run_id is None or stored.name == history_name(run_id)
    ]
    if not found:
        which = f"run {run_id}" if run_id is not None else "run"
        raise CommandError(
            ExitCode.NOT_FOUND,
            f"No {which} of {workflow_id} is archived.",
            "A run is archived when it ends; the present one is on the server.",
        )
    return sorted(found, key=lambda item: item.history.events[0].event_time.ToNanoseconds())


def _containers(gateway: ObjectStore, reference: str) -> Iterator[tuple[str, str]]:
    for container in gateway.list_containers(GATEWAY_CONTAINER_PREFIX):
        ref, vm_name = _identity(gateway, container)
        replication_id = container.removeprefix(GATEWAY_CONTAINER_PREFIX)
        workflow_id = names.replication_id(ref.site, ref.instance_uuid) if ref is not None else container
        known = {replication_id, container, workflow_id, vm_name, ref.instance_uuid if ref is not None else None}
        if reference in known:
            yield container, workflow_id


def _identity(gateway: ObjectStore, container: str) -> tuple[ReplicationRef | None, str | None]:
    """Return which replication a container belongs to; nothing where its commit record is missing or cannot be read."""
    data = gateway.get_if_exists(f"{container}/{COMMIT_RECORD}")
    if data is None:
        return None, None
    try:
        record = COMMIT_RECORD_ADAPTER.validate_json(data)
    except ValidationError:
        return None, None
    return record.replication.ref, record.replication.vm_name


def _decoded(data: bytes, origin: str, workflow_id: str) -> WorkflowHistory:
    try:
        loaded: Any = json.loads(data)
        history = WorkflowHistory.from_json(workflow_id, loaded)
    except (ValueError, ParseError, AttributeError, KeyError, TypeError):
        raise _no_history(origin, "it is not JSON of a workflow's history") from None
    if not _complete(history.events):
        raise _no_history(origin, "it does not begin with WorkflowExecutionStarted")
    started = history.events[0].workflow_execution_started_event_attributes
    return WorkflowHistory(started.workflow_id or workflow_id, history.events)


def _complete(events: Iterable[Any]) -> bool:
    first = next(iter(events), None)
    return first is not None and bool(first.HasField("workflow_execution_started_event_attributes"))


def _no_history(origin: str, problem: str) -> CommandError:
    return CommandError(
        ExitCode.USAGE,
        f"{origin} cannot be replayed: {problem}.",
        "Download it in the Temporal UI (Download → JSON), or with `temporal workflow show -w ID -o json`.",
        ErrorKind.BAD_INPUT,
    )
