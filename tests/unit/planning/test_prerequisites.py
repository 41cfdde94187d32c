from dataclasses import replace

import pytest

from deltaferry.model.units import MAX_SEED_BYTES
from deltaferry.model.vm import Claim, DatastoreSpace, Firmware, PowerState, Snapshot, SourceDisk, SourceVm
from deltaferry.planning.datastores import shortage, threshold_bytes
from deltaferry.planning.disks import replicated_disks
from deltaferry.planning.findings import FindingCode as F
from deltaferry.planning.guests import Guest, GuestFamily, guest_of_declaration, guest_of_id
from deltaferry.planning.prerequisites import CheckFacts, Severity, boot_disk, check, disks_changed, errors, generation, os_type

GIB = 1024**3
DISK = SourceDisk(
    2000, "uuid-2000", "Hard disk 1", 40 * GIB, "[ds1] web/web.vmdk", "ds1", 0, 0, False, False, False, False, False
)
DATA = replace(DISK, key=2001, uuid="uuid-2001", label="Hard disk 2", unit_number=1, capacity_bytes=100 * GIB)
VM = SourceVm(
    "uuid", "vm-1", "web-01", PowerState.ON, "esxi-1", 19, Firmware.EFI, "ubuntu64Guest", "Ubuntu Linux (64-bit)", 4096, 2,
    True, True, False, False, (DISK, DATA), (), (), None,
)  # fmt: skip
FACTS = CheckFacts(target_name="web-01", installation="lab")
SNAPSHOTS = (Snapshot("snapshot-1", "before patch", "", True, ""), Snapshot("snapshot-2", "backup", "", False, ""))


def codes(vm: SourceVm, facts: CheckFacts = FACTS, severity: Severity = Severity.ERROR) -> list[F]:
    return [finding.code for finding in check(vm, facts) if finding.severity is severity]


def with_disk(**changes: object) -> SourceVm:
    return replace(VM, disks=(DISK, replace(DATA, **changes)))  # type: ignore[arg-type]


def test_a_sound_vm_has_no_error_and_no_warning() -> None:
    assert codes(VM) == codes(VM, severity=Severity.WARNING) == []
    assert codes(VM, severity=Severity.INFO) == [F.GENERATION]


@pytest.mark.parametrize(
    ("vm", "code"),
    [
        (replace(VM, hardware_version=6), F.HARDWARE_VERSION),
        (replace(VM, cbt_supported=False), F.CBT_NOT_SUPPORTED),
        (replace(VM, snapshots=SNAPSHOTS), F.SNAPSHOTS_PRESENT),
        (replace(VM, consolidation_needed=True), F.CONSOLIDATION_NEEDED),
        (replace(VM, power=PowerState.SUSPENDED), F.SUSPENDED),
        (replace(VM, disks=()), F.NO_DISKS),
        (with_disk(independent=True), F.DISK_INDEPENDENT),
        (with_disk(physical_rdm=True), F.DISK_PHYSICAL_RDM),
        (with_disk(shared=True), F.DISK_SHARED),
        (with_disk(encrypted=True), F.DISK_ENCRYPTED),
        (with_disk(capacity_bytes=MAX_SEED_BYTES + 512), F.DISK_TOO_LARGE),
        (with_disk(capacity_bytes=GIB + 1), F.DISK_SIZE_UNALIGNED),
        (with_disk(capacity_bytes=0), F.DISK_SIZE_UNALIGNED),
        (replace(VM, guest_id=""), F.GUEST_UNKNOWN),
        (replace(VM, guest_id="freebsd14_64Guest"), F.GUEST_UNKNOWN),
        (replace(VM, guest_id="otherGuest64"), F.GUEST_UNKNOWN),
        (replace(VM, guest_id="ubuntuGuest"), F.GUEST_NOT_64_BIT),
        (replace(VM, claim=Claim("other", "0" * 16)), F.ALREADY_PROTECTED),
        (replace(VM, claim=Claim("lab", "0" * 16)), F.ALREADY_PROTECTED),
    ],
)
def test_each_obstacle_is_one_error(vm: SourceVm, code: F) -> None:
    assert codes(vm) == [code]


def test_all_obstacles_are_found_at_once_the_errors_first() -> None:
    vm = replace(
        with_disk(independent=True, shared=True), hardware_version=6, tools_running=False, snapshots=SNAPSHOTS, guest_id=""
    )
    findings = check(vm, replace(FACTS, target_name="-"))
    assert [finding.code for finding in errors(findings)] == [
        F.HARDWARE_VERSION, F.SNAPSHOTS_PRESENT, F.DISK_INDEPENDENT, F.DISK_SHARED, F.GUEST_UNKNOWN, F.TARGET_NAME,
    ]  # fmt: skip
    assert [finding.severity for finding in findings] == sorted(
        (finding.severity for finding in findings), key=list(Severity).index
    )
    assert all(finding.cause.endswith(".") and finding.remedy.endswith(".") for finding in findings)


def test_snapshots_are_named_and_do_not_matter_once_tracking_is_on() -> None:
    (finding,) = errors(check(replace(VM, snapshots=SNAPSHOTS), FACTS))
    assert "2 snapshots: 'before patch', 'backup'" in finding.cause
    assert codes(replace(VM, snapshots=SNAPSHOTS, cbt_enabled=True)) == []


def test_our_own_claim_is_no_obstacle() -> None:
    vm = replace(VM, claim=Claim("lab", "f" * 16))
    assert codes(vm, replace(FACTS, replication_id="f" * 16)) == []


def test_another_installation_is_named() -> None:
    (finding,) = errors(check(replace(VM, claim=Claim("other", "0" * 16)), FACTS))
    assert "another installation, 'other'" in finding.cause


def test_every_privilege_that_is_missing_is_named() -> None:
    lacking = replace(FACTS, missing_privileges=("VirtualMachine.State.CreateSnapshot", "VirtualMachine.Config.ChangeTracking"))
    (finding,) = errors(check(VM, lacking))
    assert finding.code is F.VSPHERE_PRIVILEGES
    assert "VirtualMachine.State.CreateSnapshot, VirtualMachine.Config.ChangeTracking" in finding.cause


def test_what_only_failback_needs_is_a_warning() -> None:
    lacking = replace(FACTS, missing_for_failback=("VirtualMachine.Provisioning.DiskRandomAccess",))
    assert errors(check(VM, lacking)) == ()
    assert F.FAILBACK_PRIVILEGES in codes(VM, lacking, severity=Severity.WARNING)


def test_power_and_tools_are_told() -> None:
    assert codes(replace(VM, tools_running=False), severity=Severity.WARNING) == [F.TOOLS_NOT_RUNNING]
    off = replace(VM, tools_running=False, power=PowerState.OFF)
    assert codes(off, severity=Severity.WARNING) == []
    assert F.POWERED_OFF in codes(off, severity=Severity.INFO)


@pytest.mark.parametrize(
    ("firmware", "gib", "fits"),
    [
        (Firmware.BIOS, 2048, True),
        (Firmware.BIOS, 2049, False),
        (Firmware.EFI, 2049, True),
        (Firmware.EFI, 4095, True),
        (Firmware.EFI, 4096, False),
    ],
)
def test_a_boot_disk_has_the_size_limit_of_its_generation(firmware: Firmware, gib: int, fits: bool) -> None:
    vm = replace(VM, firmware=firmware, disks=(replace(DISK, capacity_bytes=gib * GIB), DATA))
    assert codes(vm) == ([] if fits else [F.BOOT_DISK_TOO_LARGE])
    assert generation(vm) == (2 if firmware is Firmware.EFI else 1)


def test_the_boot_disk_is_the_lowest_or_the_designated_one() -> None:
    vm = replace(VM, disks=(DATA, DISK))
    assert boot_disk(vm) == DISK
    assert boot_disk(replace(VM, disks=(replace(DISK, controller_bus=1), DATA))) == DATA
    assert boot_disk(vm, 2001) == DATA
    assert boot_disk(vm, 9) is None and boot_disk(replace(VM, disks=())) is None
    assert codes(vm, replace(FACTS, boot_disk_key=9)) == [F.BOOT_DISK_UNKNOWN]
    assert [disk.is_boot for disk in replicated_disks(vm)] == [True, False]


def test_data_disks_are_counted_against_the_target_size() -> None:
    assert codes(VM, replace(FACTS, max_data_disks=0)) == [F.DATA_DISK_COUNT]
    assert codes(VM, replace(FACTS, max_data_disks=1)) == []


@pytest.mark.parametrize(
    ("name", "legal"),
    [
        ("a", True),
        ("web-01", True),
        ("A" * 63, True),
        ("", False),
        ("A" * 64, False),
        ("-a", False),
        ("a-", False),
        ("a_b", False),
        ("a.b", False),
        ("wéb", False),
        ("a\n", False),
    ],
)
def test_a_target_name_is_letters_digits_and_inner_hyphens(name: str, legal: bool) -> None:
    assert codes(VM, replace(FACTS, target_name=name)) == ([] if legal else [F.TARGET_NAME])


@pytest.mark.parametrize(
    ("guest", "length", "warned"),
    [("windows2019srv_64Guest", 15, False), ("windows2019srv_64Guest", 16, True), ("ubuntu64Guest", 16, False)],
)
def test_a_long_name_is_a_warning_for_windows(guest: str, length: int, warned: bool) -> None:
    assert codes(replace(VM, guest_id=guest), replace(FACTS, target_name="a" * length), Severity.WARNING) == (
        [F.TARGET_COMPUTER_NAME] if warned else []
    )


def test_what_the_target_lacks_is_passed_on() -> None:
    facts = replace(FACTS, target_name_taken=True, target_missing=("The network x does not exist.",))
    assert codes(VM, facts) == [F.TARGET_NAME_TAKEN, F.TARGET_MISSING]


@pytest.mark.parametrize(
    ("guest_id", "guest"),
    [
        ("ubuntu64Guest", Guest(GuestFamily.LINUX, True)), ("rhel8_64Guest", Guest(GuestFamily.LINUX, True)), ("otherLinux64Guest", Guest(GuestFamily.LINUX, True)),
        ("other6xLinux64Guest", Guest(GuestFamily.LINUX, True)), ("other26xLinuxGuest", Guest(GuestFamily.LINUX, False)), ("debian20_64Guest", Guest(GuestFamily.LINUX, True)),
        ("windows2022srvNext_64Guest", Guest(GuestFamily.WINDOWS, True)), ("windows7Server64Guest", Guest(GuestFamily.WINDOWS, True)),
        ("windowsHyperVGuest", Guest(GuestFamily.WINDOWS, True)), ("winXPProGuest", Guest(GuestFamily.WINDOWS, False)),
        ("", None), ("otherGuest", None), ("darwin19_64Guest", None), ("solaris11_64Guest", None),
    ],
)  # fmt: skip
def test_a_guest_id_is_read_by_family_and_bits(guest_id: str, guest: Guest | None) -> None:
    assert guest_of_id(guest_id) == guest


@pytest.mark.parametrize(
    ("declared", "guest"),
    [
        ("Other Linux (64-bit)", Guest(GuestFamily.LINUX, True)), ("otherLinux64Guest", Guest(GuestFamily.LINUX, True)), ("Linux", Guest(GuestFamily.LINUX, True)),
        ("Microsoft Windows Server 2022 (64-bit)", Guest(GuestFamily.WINDOWS, True)), ("Other Linux (32-bit)", Guest(GuestFamily.LINUX, False)),
        ("Other Linux", None), ("BSD (64-bit)", None), ("", None),
    ],
)  # fmt: skip
def test_an_operator_declares_by_id_name_or_family(declared: str, guest: Guest | None) -> None:
    assert guest_of_declaration(declared) == guest


def test_a_declaration_counts_only_where_vsphere_does_not_know() -> None:
    bsd = replace(VM, guest_id="freebsd14_64Guest")
    assert codes(bsd, replace(FACTS, declared_os="Other Linux (64-bit)")) == []
    assert codes(bsd, replace(FACTS, declared_os="Other Linux (32-bit)")) == [F.GUEST_NOT_64_BIT]
    assert codes(bsd, replace(FACTS, declared_os="BeOS")) == [F.GUEST_DECLARATION]
    assert codes(replace(VM, guest_id="ubuntuGuest"), replace(FACTS, declared_os="Linux")) == [F.GUEST_NOT_64_BIT]
    assert (os_type(bsd), os_type(bsd, "Windows"), os_type(replace(VM, guest_id="windows2019srv_64Guest"))) == (
        "Linux",
        "Windows",
        "Windows",
    )


@pytest.mark.parametrize(("free", "growth", "short"), [(10, 0, False), (9, 0, True), (10, 11, True), (30, 30, False)])
def test_a_datastore_keeps_ten_percent_or_the_expected_growth_free(free: int, growth: int, short: bool) -> None:
    space = DatastoreSpace("ds1", 100 * GIB, free * GIB)
    assert (shortage(space, growth * GIB) is not None) is short
    assert codes(VM, replace(FACTS, datastores=(space,), expected_growth_bytes=(("ds1", growth * GIB),))) == (
        [F.DATASTORE_FULL] if short else []
    )
    assert threshold_bytes(space, growth * GIB) == max(10, growth) * GIB


def test_a_shortage_has_the_numbers_in_it() -> None:
    assert (
        shortage(DatastoreSpace("ds1", 100 * GIB, 9 * GIB))
        == "Datastore ds1 has 9 GiB free of 100 GiB; a snapshot needs 10 GiB to be free."
    )


@pytest.mark.parametrize(
    ("disks", "sentence"),
    [
        ((DISK, DATA), None),
        ((DATA, replace(DISK, file_name="[ds1] web/web-000001.vmdk", label="renamed", is_delta_backing=True)), None),
        ((DISK, replace(DATA, uuid="")), None),
        ((DISK,), "Hard disk 2 (key 2001) was removed."),
        ((DISK, DATA, replace(DATA, key=2002, label="Hard disk 3")), "Hard disk 3 (key 2002, 100 GiB) was added."),
        ((DISK, replace(DATA, capacity_bytes=200 * GIB)), "Hard disk 2 (key 2001) was resized from 100 GiB to 200 GiB."),
        (
            (DISK, replace(DATA, capacity_bytes=100 * GIB + 512)),
            f"Hard disk 2 (key 2001) was resized from {100 * GIB} bytes to {100 * GIB + 512} bytes.",
        ),
        ((DISK, replace(DATA, uuid="another")), "Hard disk 2 (key 2001) was replaced by another disk."),
        (
            (replace(DATA, key=2002),),
            "Hard disk 1 (key 2000) was removed. Hard disk 2 (key 2001) was removed. Hard disk 2 (key 2002, 100 GiB) was added.",
        ),
    ],
)
def test_a_disk_added_removed_replaced_or_resized_is_told(disks: tuple[SourceDisk, ...], sentence: str | None) -> None:
    assert disks_changed(replicated_disks(VM), replace(VM, disks=disks)) == sentence
