"""How every process logs: standard library loggers, formatted by structlog as JSON or text, one line for each event.

`workflow.logger` and `activity.logger` are standard library loggers too, so their lines (silent in replay) come out
here with their ids as fields. Lines go to standard error: standard output belongs to a command's result.
"""

import json
import logging
import math
import re
import sys
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any, TextIO

import structlog
from temporalio import activity, workflow

MAX_LINE_CHARACTERS = 16_384
"""Longer lines are cut: some log collectors drop or split them."""

_MAX_VALUE_CHARACTERS = 8_192
_REDACTED = "[redacted]"

_SECRET_KEYS = re.compile(
    r"(?i)(?:^|[_-])(?:authorization|password|passwd|secret|sig|signature|token|api[_-]?key|account[_-]?key|sas|cookie)$"
)
_SECRETS = (
    (re.compile(r"(?i)\b(sig|signature)=[^&\s\"'\\,;)\]}]+"), r"\1=" + _REDACTED),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{16,}"), r"\1 " + _REDACTED),
    (re.compile(r"(?i)\b(sharedkey(?:lite)?)\s+[^\s\"'\\]+"), r"\1 " + _REDACTED),
    (
        re.compile(r"(?i)\b(accountkey|sharedaccesssignature|password|client_secret|vmware_soap_session)=[^&;\s\"'\\]+"),
        r"\1=" + _REDACTED,
    ),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"), _REDACTED),
)
"""SAS signatures, authorization headers, connection strings, session cookies, JSON Web Tokens. A last belt only:
no code logs a secret. None of the patterns matches across a quotation mark, so JSON stays JSON."""

_CHATTY = ("azure", "urllib3", "asyncio")
"""Libraries whose lines below WARNING say nothing about replication."""


def redact(text: str) -> str:
    """Return a text without what looks like a signature, token, account key or password."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def configure_logs(level: str, format: str, stream: TextIO | None = None) -> None:
    """Let all loggers of the process write lines of a `format` (`json` or `text`) from a `level` (`info`, …) on.

    Replaces what an earlier call set up. `stream` is standard error by default. Raises ValueError for another format
    or level.
    """
    if format not in ("json", "text"):
        raise ValueError(f"unknown log format {format!r}")
    numeric_level = logging.getLevelNamesMapping().get(level.upper())
    if numeric_level is None:
        raise ValueError(f"unknown log level {level!r}")
    render = _as_json if format == "json" else _as_text
    handler = _Handler(sys.stderr if stream is None else stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.add_log_level,
                structlog.stdlib.add_logger_name,
                _add_timestamp,
                structlog.stdlib.ExtraAdder(),
            ],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                _redact_fields,
                render,
            ],
        )
    )
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(numeric_level)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(numeric_level, logging.WARNING))
    logging.captureWarnings(True)
    # Their ids are fields of the line already; without this they would be repeated in the message.
    workflow.logger.workflow_info_on_message = False
    activity.logger.activity_info_on_message = False


class _Handler(logging.StreamHandler[TextIO]):
    """The one handler that `configure_logs` installs, told from others by its type."""


_FORMATTED_BY_OTHERS = frozenset({"message", "asctime"})
"""What another handler's formatter leaves on a record; not extras, though `ExtraAdder` takes them for such."""


def _add_timestamp(_: Any, __: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """Add the record's own time, not that of formatting: in a workflow the two may differ."""
    record: logging.LogRecord = event["_record"]
    event["timestamp"] = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return event


def _redact_fields(_: Any, __: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    return {key: _clean(key, value) for key, value in event.items() if key not in _FORMATTED_BY_OTHERS}


def _clean(key: str, value: Any) -> Any:
    """Return a field's value as JSON data without secrets, each text of bounded length."""
    if _SECRET_KEYS.search(key) and value:
        return _REDACTED
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, Mapping):
        return {str(inner): _clean(str(inner), item) for inner, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(key, item) for item in value]
    return _cut(redact(str(value)), _MAX_VALUE_CHARACTERS)


def _cut(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    return f"{text[:limit]}… ({len(text) - limit} more characters)"


def _as_json(_: Any, __: str, event: MutableMapping[str, Any]) -> str:
    line = json.dumps(event, ensure_ascii=False)
    if len(line) <= MAX_LINE_CHARACTERS:
        return line
    kept = {name: event[name] for name in ("event", "level", "logger", "timestamp") if name in event}
    kept["event"] = _cut(str(kept.get("event", "")), MAX_LINE_CHARACTERS // 8)  # JSON escapes take up to six characters
    return json.dumps(kept | {"cut_from_characters": len(line)}, ensure_ascii=False)


def _as_text(_: Any, __: str, event: MutableMapping[str, Any]) -> str:
    fields = dict(event)
    timestamp, level, logger, message = (str(fields.pop(name, "")) for name in ("timestamp", "level", "logger", "event"))
    exception = fields.pop("exception", None)
    extras = "".join(f" {name}={json.dumps(value, ensure_ascii=False)}" for name, value in fields.items())
    trace = f"\n{exception}" if exception else ""
    return _cut(f"{timestamp} {level.upper():<7} {logger}: {message}{extras}{trace}", MAX_LINE_CHARACTERS)
