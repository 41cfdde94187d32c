"""How we left the disks at the site: nobody else may have written to them between two steps of failback.

A datastore has no fence, and the hypervisor's lock ends with the connection. So each step that looks at the disks, or writes
to them, first makes sure that they are as the last one left them, by their content ids; and that no later pass has begun.
"""

from dataclasses import dataclass, replace

from pydantic import TypeAdapter

from activities.adapters import Site
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.naming import FAILBACK_LEFT, gateway_container
from deltaferry.model.replication import ReplicationRef
from deltaferry.model.vm import PowerState, Snapshot


@dataclass(frozen=True, slots=True)
class LeftDisk:
    """A disk as we left it. What changes by itself, the file's name, is left out."""

    disk_key: int
    capacity_bytes: int
    content_id: str | None
    """vSphere's id of its content, which the first write after an opening changes."""


@dataclass(frozen=True, slots=True)
class DisksLeft:
    """What the last step knew."""

    number: int
    """Of the pass."""
    writing: bool
    """A write was begun, and has not ended well: what the disks hold is not known, but only that write's ranges differ."""
    disks: tuple[LeftDisk, ...]
    home: bool = False
    """They hold all of the VM in Azure, which is stopped: from here on the VM at the site is the one that counts, once it is on."""


_LEFT = TypeAdapter(DisksLeft)
_NO_PASS = 0
"""In place of a pass's number: the first has 1."""


def require_as_left(site: Site, ref: ReplicationRef, number: int, *, anew: bool = False) -> Snapshot:
    """Return the VM's disks as they are, after making sure of it. `anew`: a full comparison begins, whatever they hold.

    Raises SOURCE_MOVED_ON if the VM is not off, or somebody else has written to its disks; FENCED with the later pass's number.
    """
    present = site.hypervisor.read_present_disks(ref.instance_uuid)
    left = _read(site, ref)
    if left is not None and left.number > number:
        raise DeltaferryError(
            ErrorKind.FENCED,
            f"Pass {left.number} back to the site has begun: this is a step of pass {number}.",
            number=left.number,
        )
    if anew and (left is None or left.number < number):
        _write(site, ref, DisksLeft(number, False, _described(present)))
        return present
    if left is None:
        raise DeltaferryError(
            ErrorKind.SOURCE_MOVED_ON, "It is not known how we left the disks at the site: all of them are compared again."
        )
    if not left.writing and left.disks != _described(present):
        moved = sorted({disk.disk_key for disk in {*left.disks} ^ {*_described(present)}})
        raise DeltaferryError(
            ErrorKind.SOURCE_MOVED_ON,
            f"Disks {', '.join(map(str, moved))} at the site are not as we left them: somebody has written to them."
            " All of them are compared again.",
        )
    return present


def begin_pristine(site: Site, ref: ReplicationRef) -> None:
    """Note the disks of a VM that was just made, before any pass. Raises SOURCE_MOVED_ON if the VM is not off."""
    _write(site, ref, DisksLeft(_NO_PASS, False, _described(site.hypervisor.read_present_disks(ref.instance_uuid))))


def is_pristine(site: Site, ref: ReplicationRef) -> bool:
    """Return whether the disks are known to be as they were made: no pass has begun, and nobody has written to them."""
    left = _read(site, ref)
    if left is None or left.number != _NO_PASS or left.writing:
        return False
    return left.disks == _described(site.hypervisor.read_present_disks(ref.instance_uuid))


def begin_writing(site: Site, ref: ReplicationRef, number: int, present: Snapshot) -> None:
    """Note that a write begins."""
    _write(site, ref, DisksLeft(number, True, _described(present)))


def end_writing(site: Site, ref: ReplicationRef, number: int) -> None:
    """Note how a write that ended well leaves the disks. Raises SOURCE_MOVED_ON if the VM is not off any more."""
    _write(site, ref, DisksLeft(number, False, _described(site.hypervisor.read_present_disks(ref.instance_uuid))))


def note_home(site: Site, ref: ReplicationRef, number: int) -> None:
    """Note that the final pass is whole, and the VM may be powered on. Raises SOURCE_MOVED_ON, FENCED where that is not so."""
    _write(site, ref, DisksLeft(number, False, _described(require_as_left(site, ref, number)), home=True))


def came_home(site: Site, ref: ReplicationRef) -> str:
    """Return why the VM at the site counts as home, or an empty text: it is on, or has been, since `note_home`."""
    left = _read(site, ref)
    if left is None or not left.home:
        return ""
    if site.hypervisor.power_state(ref.instance_uuid) is not PowerState.OFF:
        return "The VM is on at the site: a failback has brought it home, and its end was not recorded."
    if _described(site.hypervisor.read_present_disks(ref.instance_uuid)) == left.disks:
        return ""
    return (
        "The VM is off at the site, and its disks were written to since a failback brought it home, whose end was not recorded: "
        "it was on in between."
    )


def forget_home(site: Site, ref: ReplicationRef) -> None:
    """Note that the disks will be written from Azure again: what `note_home` said holds no longer."""
    left = _read(site, ref)
    if left is not None and left.home:
        _write(site, ref, replace(left, home=False))


def _described(present: Snapshot) -> tuple[LeftDisk, ...]:
    return tuple(LeftDisk(disk.key, disk.capacity_bytes, disk.content_id) for disk in present.disks)


def _key(ref: ReplicationRef) -> str:
    return f"{gateway_container(ref)}/{FAILBACK_LEFT}"


def _read(site: Site, ref: ReplicationRef) -> DisksLeft | None:
    stored = site.stores.gateway.get_if_exists(_key(ref))
    return None if stored is None else _LEFT.validate_json(stored)


def _write(site: Site, ref: ReplicationRef, left: DisksLeft) -> None:
    site.stores.gateway.put(_key(ref), _LEFT.dump_json(left))
