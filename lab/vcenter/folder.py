"""HTTPS access to datastores: `GET /folder/<dir>/<name>-flat.vmdk?dcPath=…&dsName=…`, with ranges.

Files of a running VM are locked: HTTP 500, as vCenter answers (facts B4), also for a base disk below a snapshot.
"""

import base64
import re
from binascii import Error as Base64Error
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from lab.vcenter.entities import Datastore
from lab.vcenter.faults import FaultName
from lab.vcenter.inventory import Inventory
from lab.vcenter.sessions import SessionManager
from lab.vcenter.world import World

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


@dataclass(frozen=True, slots=True)
class FileReply:
    """What to answer: a status, and for 200 and 206 which part of which file."""

    status: int
    path: Path | None = None
    offset: int = 0
    length: int = 0
    size: int = 0


class DatastoreFiles:
    """Finds, authorises and locks files."""

    def __init__(self, world: World, sessions: SessionManager, inventory: Inventory) -> None:
        self._world = world
        self._sessions = sessions
        self._inventory = inventory

    def answer(self, target: str, cookie: str | None, headers: Mapping[str, str]) -> FileReply:
        """Return what a GET or HEAD of a request target gets."""
        if self._sessions.find(cookie) is None and not self._has_basic_login(headers.get("Authorization", "")):
            return FileReply(401)
        failing = self._world.faults.take(FaultName.FOLDER_ERROR)
        if failing is not None:
            return FileReply(failing.status)
        found = self._find(target)
        if found is None:
            return FileReply(404)
        datastore, path = found
        if self._is_locked(datastore, path):
            return FileReply(500)
        return _part(path, headers.get("Range", ""))

    def _has_basic_login(self, header: str) -> bool:
        kind, _, encoded = header.partition(" ")
        if kind.lower() != "basic":
            return False
        try:
            user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (Base64Error, UnicodeDecodeError):
            return False
        return self._sessions.check_password(user, password)

    def _find(self, target: str) -> tuple[Datastore, Path] | None:
        parts = urlsplit(target)
        query = parse_qs(parts.query)
        # Clients in the field encode dcPath and dsName once or twice (facts B4).
        centre, name = (unquote(query.get(key, [""])[0]) for key in ("dcPath", "dsName"))
        datastore = self._inventory.datastores.get(name)
        if datastore is None or centre.strip("/") != self._inventory.datacenter.name:
            return None
        path = (datastore.directory / unquote(parts.path.removeprefix("/folder/"))).resolve()
        if not path.is_relative_to(datastore.directory.resolve()) or not path.is_file():
            return None
        return datastore, path

    def _is_locked(self, datastore: Datastore, path: Path) -> bool:
        folder = path.relative_to(datastore.directory.resolve()).parts[0]
        return any(vm.running and vm.home is datastore and vm.home_folder == folder for vm in self._inventory.vms)


def _part(path: Path, header: str) -> FileReply:
    """Apply a Range header (RFC 9110: one range, or none)."""
    size = path.stat().st_size
    if not header:
        return FileReply(200, path, 0, size, size)
    match = _RANGE.fullmatch(header.strip())
    if match is None or not (match[1] or match[2]):
        return FileReply(200, path, 0, size, size)
    if match[1]:
        first = int(match[1])
        last = min(int(match[2]), size - 1) if match[2] else size - 1
    else:
        first, last = max(0, size - int(match[2])), size - 1
    if first >= size or last < first:
        return FileReply(416, size=size)
    return FileReply(206, path, first, last - first + 1, size)
