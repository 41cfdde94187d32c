"""The snapshots of a replication group: of all members or of none, at the same moment, and found again by a retry."""

import threading
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from temporalio.testing import ActivityEnvironment

from activities.adapters import Site
from activities.shared_snapshots import SharedSnapshots
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.naming import snapshot_name
from deltaferry.model.replication import ReplicatedDisk, ReplicationRef
from deltaferry.model.vm import Claim, DatastoreSpace, Firmware, PowerState, Snapshot, SourceDisk, SourceVm
from tests.workflows.world import new_profile
from workflows.messages.group import TakenTogether, TogetherInput, TogetherMember
from workflows.messages.replication_state import Replication
from workflows.messages.site import Placement

_START = datetime(2026, 3, 1, 12, tzinfo=UTC)
_DISK = ReplicatedDisk(2000, "6000c290", "Hard disk 1", 1 << 30, True)
_PLACE = Placement("esx-1", (("ds1", 1),))


def _vm(name: str) -> SourceVm:
    disk = SourceDisk(
        2000, "6000c290", "Hard disk 1", 1 << 30, f"[ds1] {name}.vmdk", "ds1", 0, 0, False, False, False, False, False
    )
    return SourceVm(
        name, f"moref-{name}", name, PowerState.ON, "esx-1", 19, Firmware.EFI, "debian12_64Guest", "Debian", 1024, 1, True, True,
        True, False, (disk,), (), (), Claim("lab", f"replication-of-{name}"),
    )  # fmt: skip


@dataclass
class VCenter:
    """Two VMs; a snapshot is taken only when all those that are expected are asked for at the same time."""

    vms: dict[str, SourceVm] = field(default_factory=lambda: {name: _vm(name) for name in ("web", "db")})
    refuses: set[str] = field(default_factory=set)
    free_bytes: int = 1 << 40
    together: threading.Barrier | None = field(default_factory=lambda: threading.Barrier(2, timeout=30))
    taken: int = 0

    def read_vm(self, instance_uuid: str) -> SourceVm:
        return self.vms[instance_uuid]

    def consolidate(self, instance_uuid: str, beat: Any) -> None:
        beat()

    def await_creations(self, instance_uuid: str, beat: Any) -> None:
        beat()

    def remove_snapshot(self, instance_uuid: str, moref: str, beat: Any) -> None:
        vm = self.vms[instance_uuid]
        self.vms[instance_uuid] = replace(vm, snapshots=tuple(s for s in vm.snapshots if s.moref != moref))

    def datastore_space(self, instance_uuid: str) -> tuple[DatastoreSpace, ...]:
        return (DatastoreSpace("ds1", 1 << 40, self.free_bytes),)

    def take_snapshot(self, instance_uuid: str, name: str, description: str, beat: Any) -> Snapshot:
        if self.together is not None:
            self.together.wait()
        beat()
        if instance_uuid in self.refuses:
            raise DeltaferryError(ErrorKind.SNAPSHOT_REFUSED, "scripted by the test")
        return self.make(instance_uuid, name)

    def make(self, instance_uuid: str, name: str) -> Snapshot:
        self.taken += 1
        at = (_START + timedelta(seconds=self.taken)).isoformat()
        made = Snapshot(f"snapshot-{instance_uuid}", name, "", False, at)
        self.vms[instance_uuid] = replace(self.vms[instance_uuid], snapshots=(made,))
        return made

    def read_snapshot(self, instance_uuid: str, moref: str) -> Snapshot:
        return next(one for one in self.vms[instance_uuid].snapshots if one.moref == moref)


@dataclass
class Gateway:
    """Objects by name; every VM is known to have had no delta backing before."""

    objects: dict[str, bytes] = field(default_factory=dict)

    def get_if_exists(self, name: str) -> bytes | None:
        return self.objects.get(name)

    def get(self, name: str) -> bytes:
        return b'{"change_tracking": true, "delta_disks": []}'

    def put(self, name: str, data: bytes) -> None:
        self.objects[name] = data


@dataclass
class Stores:
    gateway: Gateway = field(default_factory=Gateway)


def _member(name: str, granted: Placement = _PLACE) -> TogetherMember:
    ref = ReplicationRef("lab", "lab", "lab", name, f"replication-of-{name}")
    return TogetherMember(Replication(ref, name, new_profile("lab"), (_DISK,), 2, "Linux"), f"7-{name}", granted)


def _name(member: TogetherMember) -> str:
    return snapshot_name(member.replication.ref, member.cycle_key)


def _together(vcenter: VCenter, *members: TogetherMember, gateway: Gateway | None = None) -> TakenTogether:
    unused = cast("Any", None)
    stores = Stores(gateway or Gateway())
    site = Site(unused, cast("Any", vcenter), unused, cast("Any", stores), unused, timedelta(0), 0)
    taken: TakenTogether = ActivityEnvironment().run(
        SharedSnapshots({"lab": site}).take_together, TogetherInput("7-key", members)
    )
    return taken


def test_all_snapshots_are_asked_for_at_the_same_moment_and_noted_for_their_cycles() -> None:
    vcenter, gateway = VCenter(), Gateway()
    taken = _together(vcenter, _member("web"), _member("db"), gateway=gateway)
    assert [one.cycle_key for one in taken.members] == ["7-web", "7-db"]
    times = [one.taken_at for one in taken.members]
    assert sorted(time for time in times if time is not None) == [_START + timedelta(seconds=n) for n in (1, 2)]
    assert sorted(gateway.objects.values()) == [b"snapshot-db", b"snapshot-web"]


def test_none_is_taken_where_one_member_was_moved() -> None:
    vcenter = VCenter()
    taken = _together(vcenter, _member("web"), _member("db", Placement("esx-2", (("ds1", 1),))))
    assert [one.taken_at for one in taken.members] == [None, None]
    assert [one.failure for one in taken.members] == [None, ErrorKind.OPERATION_REFUSED]
    assert vcenter.taken == 0


def test_none_is_taken_where_a_datastore_has_no_room_and_the_answer_names_it() -> None:
    vcenter = VCenter(free_bytes=1)
    taken = _together(vcenter, _member("web"), _member("db"))
    assert {one.short_of_space for one in taken.members} == {("ds1",)}
    assert vcenter.taken == 0


@pytest.mark.parametrize("claim", [None, Claim("lab", "of-another")])
def test_none_is_taken_of_a_group_of_which_a_vm_is_not_ours(claim: Claim | None) -> None:
    vcenter = VCenter()
    vcenter.vms["db"] = replace(vcenter.vms["db"], claim=claim)
    taken = _together(vcenter, _member("web"), _member("db"))
    assert [one.failure for one in taken.members] == [None, ErrorKind.CLAIM_LOST]
    assert vcenter.taken == 0


def test_a_snapshot_that_fails_says_so_beside_those_that_exist() -> None:
    vcenter = VCenter(refuses={"db"})
    taken = _together(vcenter, _member("web"), _member("db"))
    assert [one.taken_at is None for one in taken.members] == [False, True]
    assert taken.members[1].sentence == "SnapshotRefused: scripted by the test"


def test_a_retry_finds_what_an_earlier_attempt_has_taken() -> None:
    vcenter, gateway = VCenter(), Gateway()
    first = _together(vcenter, _member("web"), _member("db"), gateway=gateway)
    vcenter.together = None
    assert _together(vcenter, _member("web"), _member("db"), gateway=gateway) == first
    assert vcenter.taken == 2


def test_a_retry_tells_of_a_snapshot_that_exists_where_another_member_is_not_ready_any_more() -> None:
    """Whoever asked removes it: one that is not told of would stay."""
    vcenter = VCenter()
    vcenter.make("web", _name(_member("web")))
    vcenter.vms["db"] = replace(vcenter.vms["db"], claim=None)
    taken = _together(vcenter, _member("web"), _member("db"))
    assert [one.taken_at is None for one in taken.members] == [False, True]
    assert vcenter.taken == 1


def test_what_an_earlier_cycle_left_is_removed_first() -> None:
    vcenter = VCenter()
    vcenter.make("web", snapshot_name(_member("web").replication.ref, "6-web"))
    taken = _together(vcenter, _member("web"), _member("db"))
    assert all(one.taken_at is not None for one in taken.members)
    assert [one.name for one in vcenter.vms["web"].snapshots] == [_name(_member("web"))]
