"""Finding a TOML file, decoding it into typed settings, and putting every mistake in a sentence."""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Mapping
from datetime import date, time
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from deltaferry.model.errors import DeltaferryError, ErrorKind
from workers.secrets import HOW_TO_WRITE
from workers.settings_types import REFUSED

T = TypeVar("T")

_FILE_NAME = "deltaferry.toml"
_VARIABLE = "DELTAFERRY_CONFIG"
_MAX_FILE_BYTES = 1024 * 1024
_MAX_DEPTH = 12
_KEY_TOO_DEEP = re.compile(r"""(?<![A-Za-z0-9_-])(?:(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*){64}""")
"""A key of so many parts, which no setting has; the standard library's parser takes quadratic time for it."""

_WRITE: Mapping[str, str] = {
    "id": 'id = "prod"',
    "address": 'address = "temporal.example.com:7233"',
    "namespace": 'namespace = "default"',
    "profile": 'profile = "prod"',
    "vcenter": 'vcenter = "https://vcenter.example.com"',
    "user": f"user = {HOW_TO_WRITE}",
    "password": f"password = {HOW_TO_WRITE}",
    "secret": f"secret = {HOW_TO_WRITE}",
    "token": f"token = {HOW_TO_WRITE}",
    "key": f"key = {HOW_TO_WRITE}",
    "ca_file": 'ca_file = "/etc/ssl/private-ca.pem"',
    "time_zone": 'time_zone = "Europe/London"',
    "blackout": 'blackout = "Monday;7:00;7h | Friday;13:00;8m", or "" for never',
    "off_hours": 'off_hours = "Monday;22:00;8h | Saturday;0:00;2d", or "" for never',
    "throttle": 'throttle = "100 Mbit/s | Monday;7:00;10h;10 Mbit/s", or "" for no limit',
    "pre_failover_weight": "pre_failover_weight = 4 (from 1 to 1000)",
    "sample_share": "sample_share = 0.001 (from 0 to 1)",
    "scrub_every": 'scrub_every = "30d", or "never"',
    "inventory_every": 'inventory_every = "15m" (10s or more), or "never"',
    "min_interval": 'min_interval = "PT1H" or "1h"',
    "max_interval": 'max_interval = "PT12H" or "12h"',
    "chunk_max": 'chunk_max = "PT15M" or less',
    "appliance": 'appliance = "appliance-1"',
    "target": 'target = "production", the name of a table under targets',
    "reader": 'reader = "nbdkit-vddk" or "nbd"',
    "plaintext": "plaintext = true, if the network between appliance and host needs no protection",
    "hosts": 'hosts = {"esxi-1.example.com" = "10.0.0.1:10809"}',
    "libdir": 'libdir = "/opt/vmware-vix-disklib-distrib"',
    "thumbprint": 'thumbprint = "AA:BB:…", the SHA-1 of vCenter\'s certificate',
    "nbdkit": 'nbdkit = "nbdkit"',
    "disks_per_appliance": "disks_per_appliance = 52",
    "disks_per_host": "disks_per_host = 8",
    "snapshots_per_datastore": "snapshots_per_datastore = 15",
    "subscription": 'subscription = "00000000-0000-0000-0000-000000000000"',
    "resource_group": 'resource_group = "migrated"',
    "location": 'location = "westeurope"',
    "network": 'network = "the virtual network\'s name or resource id"',
    "subnet": 'subnet = "default"',
    "vm_size": 'vm_size = "Standard_D2s_v5"',
    "disk_sku": 'disk_sku = "Premium_LRS"',
    "arm_endpoint": 'arm_endpoint = "https://management.azure.com"',
    "credential": 'credential = {kind = "default"}, or kind "client-secret" or "token"',
    "tenant": 'tenant = "the directory\'s id"',
    "client": 'client = "the application\'s id"',
    "authority": 'authority = "https://login.microsoftonline.com"',
    "keys": 'a table keys with kind = "key-vault" or "local-file"',
    "kind": "kind = one of the kinds in the example file",
    "file": 'file = "/etc/deltaferry/wrapping.key" or "env:NAME", a variable with the path',
    "key_id": 'key_id = "https://vault.example.com/keys/name"',
    "url": 'url = "https://account.blob.core.windows.net"',
    "account": 'account = "the storage account\'s name"',
    "resource_id": 'resource_id = "/subscriptions/…/storageAccounts/…"',
    "allow_plain_http": "allow_plain_http = true or false",
    "chunk_max_bytes": "chunk_max_bytes = 4294967296 (from 4 MiB to 1 TiB)",
    "threads_per_disk": "threads_per_disk = 8 (from 1 to 64)",
    "page_blob_rate_mib_s": "page_blob_rate_mib_s = 60",
    "prometheus": 'prometheus = "127.0.0.1:9464"',
    "level": 'level = "debug", "info", "warning" or "error"',
    "format": 'format = "json" or "text"',
    "installation": 'a table [installation] with id = "prod"',
    "temporal": "a table [temporal]",
    "sites": "a table [sites.NAME]",
    "targets": "a table [targets.NAME]",
    "transfer": "a table [transfer]",
    "metrics": "a table [metrics]",
    "logs": "a table [logs]",
    "plan_worker": "a table [plan_worker] with name and scripts",
    "webhooks": "a table [webhooks]",
    "rpo": 'rpo = "env:NAME" or "file:/path", where the address of the webhook is',
    "name": 'name = "london-1"',
    "scripts": 'scripts = ["/opt/deltaferry/plans/stop-jobs"]',
    "log": "a table log with url and account",
    "gateway": "a table gateway with url and account",
    "seed": "a table seed with url, account and resource_id",
    "limits": "a table limits",
    "nbd": "a table nbd with plaintext and hosts",
    "vddk": "a table vddk with libdir and thumbprint",
}
"""What to write for each key, in the words of the sentence `Write ….`"""

_PROBLEMS: Mapping[str, str] = {
    "missing": "is missing",
    "bool_type": "is not true or false",
    "int_type": "is not a whole number",
    "float_type": "is not a number",
    "finite_number": "is not a finite number",
    "string_type": "is not a string",
    "enum": "is not one of the values it can have",
    "literal_error": "is not one of the values it can have",
    "union_tag_invalid": "is not of a kind that exists",
    "union_tag_not_found": "has no kind",
    "greater_than_equal": "is too small",
    "less_than_equal": "is too large",
}
"""By pydantic's error type. Its own messages may repeat the value, so they are never shown."""


def find_file(config: Path | None, environ: Mapping[str, str] | None) -> Path:
    """Return the settings file by the default order; a file that is named explicitly need not exist here."""
    if config is not None:
        return config
    named = (os.environ if environ is None else environ).get(_VARIABLE)
    if named:
        return Path(named)
    candidates = [Path(_FILE_NAME), Path("~/.config/deltaferry", _FILE_NAME)]
    for candidate in candidates:
        try:
            file = candidate.expanduser()
        except RuntimeError:
            continue  # `~` without a home directory: such a process has no such file
        if file.is_file():
            return file
    raise DeltaferryError(
        ErrorKind.BAD_CONFIGURATION,
        f"There is no settings file: give one with --config or {_VARIABLE}, or write {' or '.join(str(path) for path in candidates)}.",
    )


def decode(data: bytes, file: str, settings: TypeAdapter[T], write: Mapping[str, str] = _WRITE) -> T:
    """Return the settings in a TOML text. Raises BAD_CONFIGURATION with a sentence for every mistake in it.

    `write` says what to write for each key; another kind of file than the settings has its own.
    """
    if len(data) > _MAX_FILE_BYTES:
        raise _bad(f"{file} is larger than 1 MiB: it is not a settings file.")
    try:
        text = data.decode("utf-8")
        if _KEY_TOO_DEEP.search(text):
            raise _bad(f"{file} is not a settings file: a key in it has more than 64 parts.")
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _bad(f"{file} is not a TOML file: {error}.") from None
    except UnicodeDecodeError:
        raise _bad(f"{file} is not a TOML file: it is not UTF-8 text.") from None
    except (ValueError, RecursionError):
        raise _bad(f"{file} is not a TOML file: a number in it is too long, or its tables nest too deeply.") from None
    unusable = _unusable(table, (), write)
    if unusable is not None:
        raise _bad(f"{file}: {unusable}")
    try:
        return settings.validate_json(json.dumps(table))
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        raise _bad(" ".join(f"{file}: {_sentence(detail, table, write)}" for detail in details)) from None


def _bad(detail: str) -> DeltaferryError:
    return DeltaferryError(ErrorKind.BAD_CONFIGURATION, detail)


def _unusable(value: Any, path: tuple[str, ...], write: Mapping[str, str]) -> str | None:
    """Return a sentence for the first value that TOML has and settings have not, or None."""
    if isinstance(value, date | time):
        return f"{_where(path)} is a date or time, which no setting is. {_advice(path, write)}"
    if len(path) > _MAX_DEPTH:
        return f"{_where(path[:3])} nests too deeply."
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        sentence = _unusable(inner, (*path, str(key)), write)
        if sentence is not None:
            return sentence
    return None


def _sentence(error: ErrorDetails, table: Mapping[str, Any], write: Mapping[str, str]) -> str:
    path = _path_in_file(error["loc"], table, missing=error["type"] == "missing")
    where = _where(path)
    if error["loc"][-1:] == ("[key]",):
        return f"{where} cannot have this name: it {error['msg']}."
    if error["type"] == "unexpected_keyword_argument":
        close = difflib.get_close_matches(path[-1], write, n=1)
        return f"{where} is not a setting. " + (f"Did you mean {close[0]}?" if close and close[0] != path[-1] else "Remove it.")
    if error["type"] == REFUSED:
        problem = error["msg"]
        return f"{where} {problem}." if ": " in problem else f"{where} {problem}. {_advice(path, write)}"
    return f"{where} {_PROBLEMS.get(error['type'], 'is not of the right type')}. {_advice(path, write)}"


def _advice(path: tuple[str, ...], write: Mapping[str, str]) -> str:
    """Return what to write for the innermost key that is known: for an entry of a table, the table."""
    return next((f"Write {write[key]}." for key in reversed(path) if key in write), "See the example file.")


def _path_in_file(loc: tuple[int | str, ...], table: Any, *, missing: bool) -> tuple[str, ...]:
    """Return the keys of the file that an error's location stands for, without pydantic's own marks (union tags)."""
    path: list[str] = []
    for number, step in enumerate(loc):
        last = number == len(loc) - 1
        if isinstance(table, Mapping) and step in table:
            table = table[str(step)]
            path.append(str(step))
        elif isinstance(table, list) and isinstance(step, int) and step < len(table):
            table = table[step]
            path.append(str(step))
        elif last and missing:
            path.append(str(step))
    return tuple(path)


def _where(path: tuple[str, ...]) -> str:
    """Return `[table] key` in TOML's own way of writing keys."""
    if not path:
        return "the file"
    keys = [key if key.replace("-", "").replace("_", "").isalnum() and key.isascii() else json.dumps(key) for key in path]
    return f"[{'.'.join(keys[:-1])}] {keys[-1]}" if keys[1:] else f"[{keys[0]}]"
