"""Reading a recovery plan from a TOML or JSON file: VMs by name, durations as everywhere, and every mistake at once."""

import json
import tomllib
from pathlib import Path
from typing import Any

from temporalio.client import Client

from console import client as replicating
from console.options import validated
from console.outcomes import CommandError, ExitCode
from deltaferry.model.errors import ErrorKind
from workers.settings_types import parse_duration
from workflows import names
from workflows.messages.plan_input import PlanInput, run_contradictions

_MAX_FILE_BYTES = 1024 * 1024


def read_plan(path: Path) -> dict[str, Any]:
    """Return what a plan's file says. Raises CommandError USAGE for one that cannot be read."""
    try:
        data = path.read_bytes()
        if len(data) > _MAX_FILE_BYTES:
            raise _unusable(path, "it is larger than 1 MiB")
        loaded = json.loads(data) if path.suffix.lower() == ".json" else tomllib.loads(data.decode("utf-8"))
    except OSError as error:
        raise _unusable(path, error.strerror or type(error).__name__) from None
    except tomllib.TOMLDecodeError as error:
        raise _unusable(path, f"it is not TOML: {error}") from None
    except (ValueError, RecursionError):
        raise _unusable(path, f"it is not {'JSON' if path.suffix.lower() == '.json' else 'TOML'}") from None
    if not isinstance(loaded, dict):
        raise _unusable(path, "it is not an object with name and groups")
    return loaded


async def request_of(client: Client, plan: dict[str, Any], options: dict[str, Any], site: str | None) -> PlanInput:
    """Return the input of a run. Raises CommandError with every reason why the plan cannot be run, unknown VMs included.

    A plan's own key `site` says where names of VMs are looked for, unless `site` is given.
    """
    definition = {key: value for key, value in plan.items() if key != "site"}
    where = site or (plan["site"] if isinstance(plan.get("site"), str) else None)
    unknown: list[str] = []
    called: dict[str, str] = {}
    groups = definition.get("groups")
    if isinstance(groups, list):
        definition["groups"] = [await _group(client, group, where, unknown, called) for group in groups]
    if unknown:
        raise CommandError(
            ExitCode.NOT_FOUND, " ".join(unknown), "Correct the plan, or enable these VMs first.", ErrorKind.VM_NOT_FOUND
        )
    given = {"plan": definition, "vm_names": called, **{name: value for name, value in options.items() if value is not None}}
    request = validated(PlanInput, given, "plan run")
    found = run_contradictions(request)
    if found:
        raise CommandError(ExitCode.USAGE, f"The plan cannot be run. {' '.join(found)}", kind=ErrorKind.BAD_INPUT)
    return request


async def _group(client: Client, group: Any, site: str | None, unknown: list[str], called: dict[str, str]) -> Any:
    """Return a group with workflow ids for VMs and durations for time limits; what is no group is left to validation."""
    if not isinstance(group, dict):
        return group
    read = dict(group)
    if isinstance(group.get("vms"), list):
        read["vms"] = [await _vm(client, vm, site, unknown, called) for vm in group["vms"]]
    for where in ("before", "after"):
        if isinstance(group.get(where), list):
            read[where] = [_step(step) for step in group[where]]
    return read


async def _vm(client: Client, reference: Any, site: str | None, unknown: list[str], called: dict[str, str]) -> Any:
    """Return a VM's workflow id, and note what it is called."""
    if not isinstance(reference, str):
        return reference
    try:
        handle = await replicating.find(client, reference, site)
    except CommandError as error:
        unknown.append(error.sentence)
        return reference
    name = (await handle.describe()).typed_search_attributes.get(names.VM_NAME)
    if name:
        called[handle.id] = name
    return handle.id


def _step(step: Any) -> Any:
    if not isinstance(step, dict) or not isinstance(step.get("time_limit"), str):
        return step
    return {**step, "time_limit": parse_duration(step["time_limit"]) or step["time_limit"]}


def _unusable(path: Path, why: str) -> CommandError:
    return CommandError(
        ExitCode.USAGE,
        f"The plan {path} cannot be used: {why}.",
        "docs/recovery-plans.md shows what a plan's file looks like.",
        ErrorKind.BAD_INPUT,
    )
