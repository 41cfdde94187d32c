"""What a VM's guest OS type says: its family, and whether it is 64-bit (spec §9).

Source of the ids: vSphere's VirtualMachineGuestOsIdentifier. An id is read by its beginning and its end, so that
those of later vSphere releases are understood as well.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

from deltaferry.model.vm import Firmware, SourceVm


class GuestFamily(StrEnum):
    """The operating system's family; the value is what Azure calls the OS type of a disk."""

    LINUX = "Linux"
    WINDOWS = "Windows"


@dataclass(frozen=True, slots=True)
class Guest:
    """A guest OS type that is understood."""

    family: GuestFamily
    is_64_bit: bool


_LINUX_PREFIXES = (
    "almalinux", "amazonlinux", "asianux", "centos", "coreos", "debian", "fedora", "flatcar", "fusionos", "kylinlinux",
    "mandrake", "mandriva", "miraclelinux", "nld", "oes", "opensuse", "oracleLinux", "pardus", "prolinux", "redhat", "rhel",
    "rockylinux", "sjds", "sles", "suse", "turboLinux", "ubuntu", "vmwarePhoton",
)  # fmt: skip
_OTHER_LINUX = re.compile(r"other[0-9x]*Linux")
_64_BIT_ID = re.compile(r"64Guest$|Guest64$|srv_64|^windowsHyperVGuest$")
_64_BIT_NAME = re.compile(r"\(64-bit\)", re.IGNORECASE)
_32_BIT_NAME = re.compile(r"\(32-bit\)", re.IGNORECASE)


def guest_of_id(guest_id: str) -> Guest | None:
    """Return what a vSphere guest id stands for; None where it is empty or says neither Linux nor Windows."""
    if guest_id.startswith("win"):
        family = GuestFamily.WINDOWS
    elif guest_id.startswith(_LINUX_PREFIXES) or _OTHER_LINUX.match(guest_id):
        family = GuestFamily.LINUX
    else:
        return None
    return Guest(family, _64_BIT_ID.search(guest_id) is not None)


def guest_of_declaration(declared: str) -> Guest | None:
    """Return what an operator declared; None if it is not understood.

    A guest id, a name such as `Other Linux (64-bit)`, or just the family, `Linux` or `Windows`, which means 64-bit.
    """
    text = declared.strip()
    if text in tuple(GuestFamily):
        return Guest(GuestFamily(text), True)
    by_id = guest_of_id(text) if text.endswith(("Guest", "Guest64")) else None
    if by_id is not None:
        return by_id
    is_64_bit = _64_BIT_NAME.search(text) is not None
    if not is_64_bit and not _32_BIT_NAME.search(text):
        return None
    lowered = text.lower()
    if "windows" in lowered:
        return Guest(GuestFamily.WINDOWS, is_64_bit)
    if "linux" in lowered:
        return Guest(GuestFamily.LINUX, is_64_bit)
    return None


def effective_guest(guest_id: str, declared: str | None) -> Guest | None:
    """Return the guest that counts: the VM's own where it is understood, else what the operator declared."""
    own = guest_of_id(guest_id)
    if own is not None or declared is None:
        return own
    return guest_of_declaration(declared)


def os_type(vm: SourceVm, declared: str | None = None) -> str:
    """Return the OS type that Azure is told of the VM's boot disk; `Linux` where the guest is neither known nor declared."""
    guest = effective_guest(vm.guest_id, declared)
    return (guest.family if guest is not None else GuestFamily.LINUX).value


def generation(vm: SourceVm) -> int:
    """Return the Azure VM generation: BIOS boots as generation 1, EFI as generation 2 (facts A3)."""
    return 2 if vm.firmware is Firmware.EFI else 1
