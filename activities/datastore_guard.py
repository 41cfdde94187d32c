"""The datastore guard (spec §2.7): room before a snapshot is taken, and room as long as one is held.

A snapshot's deltas grow with what the guest writes, and a full datastore stops every VM on it. Below the threshold no
snapshot is taken, and a step that works under one ends, so that the workflow releases it.
"""

import contextvars
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from temporalio import activity

from activities.adapters import Site
from activities.progress import Heartbeats
from deltaferry.model.errors import DeltaferryError
from deltaferry.model.replication import ReplicationRef
from deltaferry.model.shortage import ShortOfSpaceError
from deltaferry.model.vm import PowerState
from deltaferry.planning.datastores import Shortage, growth_by_datastore, shortages_before, shortages_while_held

LOOK_EVERY = timedelta(minutes=1)
"""How often free space is read while a snapshot is held. A guest that writes 500 MB/s without pause takes 30 GB in that time:
the 10 % that are kept free of a datastore of 1 TB are three looks. More often would have vCenter ask the hosts of each
datastore once for every VM in transfer."""


def require_room(site: Site, ref: ReplicationRef, growth_bytes: Iterable[tuple[int, int]] = ()) -> None:
    """Raise DATASTORE_FULL, naming the datastores, unless all of the VM's have room for a snapshot.

    `growth_bytes` has (disk key, bytes) that the snapshot is expected to grow by.
    """
    growth = tuple(growth_bytes)
    disks = site.hypervisor.read_vm(ref.instance_uuid).disks if growth else ()
    spaces = site.hypervisor.datastore_space(ref.instance_uuid)
    _refuse(shortages_before(spaces, growth_by_datastore(disks, growth)))


def require_room_to_hold(site: Site, ref: ReplicationRef) -> None:
    """Raise DATASTORE_FULL, naming the datastores, if a held snapshot has to be released.

    That of a VM that is off does not grow: releasing it would give no room back.
    """
    if site.hypervisor.power_state(ref.instance_uuid) is not PowerState.OFF:
        _refuse(shortages_while_held(site.hypervisor.datastore_space(ref.instance_uuid)))


@contextmanager
def room_watched(
    site: Site, ref: ReplicationRef, beats: Heartbeats, *, look_at_once: bool = True, every: timedelta = LOOK_EVERY
) -> Iterator[None]:
    """Have the step's next heartbeat raise DATASTORE_FULL once a datastore is short, as long as the context lasts.

    The looking is done by a thread of its own: a vCenter that answers slowly must hold up neither the heartbeats nor the
    data. A look that fails is put off to the next one.
    """
    watch = _Watch(site, ref, every)
    context = contextvars.copy_context()  # the logger says which activity it is
    thread = threading.Thread(target=context.run, args=(watch.run, look_at_once), name="datastore-guard", daemon=True)
    thread.start()
    try:
        with beats.ended_by(watch.check):
            yield
    finally:
        watch.end()


class _Watch:
    """Looks from time to time until it is ended, or has found a shortage."""

    def __init__(self, site: Site, ref: ReplicationRef, every: timedelta) -> None:
        self._site = site
        self._ref = ref
        self._every_s = every.total_seconds()
        self._ended = threading.Event()
        self._found: BaseException | None = None

    def run(self, look_at_once: bool) -> None:
        """Look until the end."""
        if look_at_once:
            self._look()
        while self._found is None and not self._ended.wait(self._every_s):
            self._look()

    def check(self) -> None:
        """Raise what was found."""
        if self._found is not None:
            raise self._found

    def end(self) -> None:
        """Look no more. A look that is under way is not waited for: what it finds counts for nothing."""
        self._ended.set()

    def _look(self) -> None:
        try:
            require_room_to_hold(self._site, self._ref)
        except ShortOfSpaceError as error:
            self._found = error
        except DeltaferryError as error:
            if not self._ended.is_set():
                activity.logger.warning("free space could not be read, the snapshot is still held: %s", error)
        except BaseException as error:  # a defect: the step that relies on the watch must not go on without it
            self._found = error


def _refuse(shortages: tuple[Shortage, ...]) -> None:
    if shortages:
        raise ShortOfSpaceError(
            " ".join(shortage.sentence for shortage in shortages), tuple(shortage.datastore for shortage in shortages)
        )
