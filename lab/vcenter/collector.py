"""The property collector: reading by pages, and waiting for updates."""

import secrets
import time
from dataclasses import dataclass
from typing import Any

from lab.vcenter.retrieval import ObjectReading, check_filter, read_spec
from lab.vcenter.sessions import Session, SessionManager
from lab.vcenter.vocabulary import vmodl
from lab.vcenter.world import LabObject, World, data_object

_Collector = vmodl.query.PropertyCollector
DEFAULT_COLLECTOR = "propertyCollector"


class Filter(LabObject):
    """A filter that a session made, with what its owner was told last."""

    def __init__(self, moref: str, spec: Any, partial_updates: bool) -> None:
        super().__init__(_Collector.Filter(moref))
        self.spec = spec
        self.told: dict[str, tuple[Any, dict[str, str]]] = {}
        """By moref: the object's reference and the serialised values by path."""
        self.readers["spec"] = lambda: spec
        self.readers["partialUpdates"] = lambda: partial_updates


@dataclass(slots=True)
class _Page:
    """The part of a retrieval that was not asked for yet."""

    contents: list[Any]
    page_size: int


@dataclass(slots=True)
class _Waiting:
    """Somebody who waits in WaitForUpdatesEx."""

    cancelled: bool = False


@dataclass(slots=True)
class _Told:
    """The last answer, which a client that lost it may ask for again."""

    number: int = 0
    update_set: Any = None


class PropertyCollector(LabObject):
    """One session's collector: the default one, or one made by CreatePropertyCollector."""

    def __init__(self, world: World, sessions: SessionManager, session: Session, moref: str) -> None:
        super().__init__(_Collector(moref))
        self._world = world
        self._sessions = sessions
        self._session = session
        self._filters: list[Filter] = []
        self._told = _Told()
        self._pages: dict[str, _Page] = {}
        self._waiting: list[_Waiting] = []
        self._destroyed = False
        self.readers["filter"] = lambda: [item.reference for item in self._filters]

    # --- reading ---

    def find(self, reference: Any) -> LabObject | None:
        """Find an object in the session or the inventory, or None."""
        moref = str(reference._moId)
        return self._session.find(moref) or self._world.find(moref)

    def retrieve(self, spec_set: list[Any]) -> list[Any]:
        """Return the ObjectContents of some filter specs."""
        with self._world.lock:
            readings = [reading for spec in spec_set for reading in read_spec(spec, self.find, self._world.denials)]
            return [reading.content() for reading in readings]

    def retrieve_page(self, spec_set: list[Any], max_objects: int | None) -> Any:
        """Return a RetrieveResult with at most `max_objects` objects, and a token if there are more; None for no object."""
        contents = self.retrieve(spec_set)
        return self._page(_Page(contents, max_objects if max_objects and max_objects > 0 else max(1, len(contents))))

    def continue_page(self, token: str) -> Any:
        """Return the next page of a retrieval. Raises vmodl.fault.InvalidArgument for a token that is not open."""
        page = self._pages.pop(token, None)
        if page is None:
            raise vmodl.fault.InvalidArgument(invalidProperty="token", msg="A specified parameter was not correct: token")
        return self._page(page)

    def cancel_page(self, token: str) -> None:
        """Drop the rest of a retrieval. Raises vmodl.fault.InvalidArgument."""
        if self._pages.pop(token, None) is None:
            raise vmodl.fault.InvalidArgument(invalidProperty="token", msg="A specified parameter was not correct: token")

    def _page(self, page: _Page) -> Any:
        if not page.contents:
            return None
        now, rest = page.contents[: page.page_size], page.contents[page.page_size :]
        result = data_object(_Collector.RetrieveResult, objects=now)
        if rest:
            result.token = secrets.token_hex(8)
            self._pages[result.token] = _Page(rest, page.page_size)
        return result

    # --- waiting ---

    def create_filter(self, spec: Any, partial_updates: bool) -> Any:
        """Add a filter and return its reference. Raises InvalidProperty and ManagedObjectNotFound."""
        with self._world.lock:
            check_filter(spec, self.find)
            made = Filter(f"session[{self._session.key}]{secrets.token_hex(8)}", spec, partial_updates)
            self._filters.append(made)
            self._session.add(made)
            self._world.changed()
        return made.reference

    def destroy_filter(self, item: Filter) -> bool:
        """Remove a filter if it is one of this collector."""
        with self._world.lock:
            if item not in self._filters:
                return False
            self._filters.remove(item)
            self._session.remove(item.moref)
            self._world.changed()
            return True

    def destroy(self) -> None:
        """End the collector with its filters; whoever waits gets RequestCanceled."""
        with self._world.lock:
            for item in list(self._filters):
                self.destroy_filter(item)
            self._session.remove(self.moref)
            self._destroyed = True
            self.cancel_waiting()

    def cancel_waiting(self) -> None:
        """Wake everybody who waits, with RequestCanceled."""
        with self._world.lock:
            for waiting in self._waiting:
                waiting.cancelled = True
            self._world.changed()

    def wait_for_updates(self, version: str | None, max_wait_s: float | None, max_objects: int | None) -> Any:
        """Return what changed since a version as an UpdateSet, or None if nothing did in time.

        Blocks on the world's condition. An empty version means everything. Raises InvalidCollectorVersion for a version
        that is neither the last nor the one before, RequestCanceled, InvalidProperty and ManagedObjectNotFound.
        """
        deadline = None if max_wait_s is None else time.monotonic() + max_wait_s
        waiting = _Waiting()
        with self._world.condition:
            replayed = self._enter(version)
            if replayed is not None:
                return replayed
            self._waiting.append(waiting)
            try:
                while True:
                    self._check_wait(waiting)
                    updates = self._updates(max_objects)
                    if updates is not None:
                        return updates
                    left = None if deadline is None else deadline - time.monotonic()
                    if left is not None and left <= 0:
                        return None
                    self._world.condition.wait(left)
            finally:
                self._waiting.remove(waiting)

    def _check_wait(self, waiting: _Waiting) -> None:
        if waiting.cancelled or self._destroyed or not self._sessions.is_live(self._session):
            raise vmodl.fault.RequestCanceled(msg="The task was canceled by a user.")
        if self._world.stopping.is_set():
            raise vmodl.fault.RequestCanceled(msg="The server is shutting down.")

    def _enter(self, version: str | None) -> Any:
        """Check a version; return the last answer if the client shows by its version that it never got it."""
        if not version:
            for item in self._filters:
                item.told.clear()
            return None
        if version == str(self._told.number):
            return None
        if version == str(self._told.number - 1) and self._told.update_set is not None:
            return self._told.update_set
        raise vmodl.query.InvalidCollectorVersion(msg="The version is not valid any more.")

    def _updates(self, max_objects: int | None) -> Any:
        left = max_objects if max_objects and max_objects > 0 else None
        filter_set: list[Any] = []
        truncated = False
        for item in self._filters:
            objects: list[Any] = []
            for update, moref, told in self._differences(item):
                if left is not None and left <= 0:
                    truncated = True
                    break
                objects.append(update)
                if told is None:
                    item.told.pop(moref, None)
                else:
                    item.told[moref] = told
                left = None if left is None else left - 1
            if objects:
                filter_set.append(data_object(_Collector.FilterUpdate, filter=item.reference, objectSet=objects))
        if not filter_set:
            return None
        self._told.number += 1
        self._told.update_set = data_object(
            _Collector.UpdateSet, version=str(self._told.number), filterSet=filter_set, truncated=truncated
        )
        return self._told.update_set

    def _differences(self, item: Filter) -> list[tuple[Any, str, Any]]:
        found: list[tuple[Any, str, Any]] = []
        present: set[str] = set()
        for reading in self._readings(item):
            moref = str(reading.reference._moId)
            present.add(moref)
            wire = reading.wire()
            before = item.told.get(moref)
            if before is None:
                found.append((_update("enter", reading, list(reading.values)), moref, (reading.reference, wire)))
                continue
            paths = [path for path in (*before[1], *wire) if before[1].get(path) != wire.get(path)]
            if paths:
                changed = list(dict.fromkeys(paths))
                found.append((_update("modify", reading, changed), moref, (reading.reference, wire)))
        for moref, (reference, _) in item.told.items():
            if moref not in present:
                found.append((data_object(_Collector.ObjectUpdate, kind="leave", obj=reference), moref, None))
        return found

    def _readings(self, item: Filter) -> list[ObjectReading]:
        try:
            return list(read_spec(item.spec, self.find, self._world.denials))
        except vmodl.fault.ManagedObjectNotFound:
            if item.told:
                return []  # it was there: its owner is told that it left
            raise


def _update(kind: str, reading: ObjectReading, paths: list[str]) -> Any:
    changes = []
    for path in paths:
        value = reading.values.get(path)
        changes.append(data_object(_Collector.Change, name=path, op="assign", val=None if value is None else value.value))
    return data_object(
        _Collector.ObjectUpdate, kind=kind, obj=reading.reference, changeSet=changes, missingSet=reading.missing_set()
    )
