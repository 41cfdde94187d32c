"""A recovery point's record as it is stored: UTF-8 JSON with a digest of itself (docs/format.md, "Recovery point").

JSON, as the commit record is, so that an operator who has lost everything else can read which points there are.
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from deltaferry.model.recovery_points import Pin, PointDisk, PointKind, RecoveryPointRecord

VERSION = 1


class DamagedPointError(ValueError):
    """A stored record is cut off, changed, of another version, or contradicts itself."""


def encode_point(point: RecoveryPointRecord) -> bytes:
    """Return a record as it is stored: the same bytes for the same record."""
    body = {
        "cycle_key": point.cycle_key,
        "kind": point.kind.value,
        "taken_at": _time_text(point.taken_at),
        "committed_at": _time_text(point.committed_at),
        "fence": point.fence,
        "disks": [
            {"key": d.disk_key, "snapshot": d.snapshot, "capacity_bytes": d.capacity_bytes, "changed_bytes": d.changed_bytes}
            for d in point.disks
        ],
        "note": point.note,
        "shared_key": point.shared_key,
    }
    return _canonical({"version": VERSION, "digest": _digest(body), "point": body})


def decode_point(data: bytes, cycle_key: str) -> RecoveryPointRecord:
    """Return a stored record. Raises DamagedPointError for anything but an undamaged record of that cycle."""
    body = _body(data)
    try:
        point = RecoveryPointRecord(
            cycle_key=str(body["cycle_key"]),
            kind=PointKind(body["kind"]),
            taken_at=_time(body["taken_at"]),
            committed_at=_time(body["committed_at"]),
            fence=int(body["fence"]),
            disks=tuple(
                PointDisk(
                    int(d["key"]),
                    str(d["snapshot"]),
                    int(d["capacity_bytes"]),
                    None if d["changed_bytes"] is None else int(d["changed_bytes"]),
                )
                for d in body["disks"]
            ),
            note=str(body.get("note", "")),
            shared_key=str(body.get("shared_key", "")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedPointError("a field of the record is missing or wrong") from error
    if point.cycle_key != cycle_key:
        raise DamagedPointError(f"the record is of cycle {point.cycle_key}")
    if not point.disks or any(not disk.snapshot for disk in point.disks):
        raise DamagedPointError("the record names no snapshot")
    return point


def encode_pin(pin: Pin) -> bytes:
    """Return a pin as it is stored."""
    return _canonical({"holder": pin.holder, "since": _time_text(pin.since), "reason": pin.reason})


def decode_pin(data: bytes, cycle_key: str, holder: str) -> Pin:
    """Return a stored pin. Its name says all that matters: what cannot be read is left out, and the pin holds."""
    try:
        body = json.loads(data)
        return Pin(cycle_key, holder, _time(body["since"]), str(body["reason"]))
    except (KeyError, TypeError, ValueError):
        return Pin(cycle_key, holder, datetime.fromtimestamp(0, UTC), "")


def _body(data: bytes) -> Mapping[str, Any]:
    try:
        record = json.loads(data)
        version, digest, body = record["version"], record["digest"], record["point"]
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedPointError("it is no recovery point's record") from error
    if version != VERSION:
        raise DamagedPointError(f"it has version {version!r}; this release reads version {VERSION}")
    if not isinstance(body, dict) or _digest(body) != digest:
        raise DamagedPointError("it does not match its digest")
    return body


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(body)).hexdigest()


def _time_text(value: datetime) -> str:
    return value.astimezone(UTC).isoformat()


def _time(text: object) -> datetime:
    value = datetime.fromisoformat(str(text))
    if value.tzinfo is None:
        raise ValueError("a time has no zone")
    return value.astimezone(UTC)
