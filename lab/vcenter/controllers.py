"""Disk controllers: their kinds, and how vSphere numbers them and the disks in their slots.

Controllers are numbered by kind and bus, disks by their controller and slot: a disk's key is the same in every VM that has
it in that place.
"""

from dataclasses import dataclass

_SCSI_OWN_UNIT = 7
"""The slot of a SCSI controller itself: no disk has it."""


@dataclass(frozen=True, slots=True)
class ControllerClass:
    """A class of controllers."""

    first_key: int
    first_disk_key: int
    slots: int
    buses: int

    def units(self) -> tuple[int, ...]:
        """Return the slots that disks may have."""
        scsi = self.first_key == _SCSI.first_key
        return tuple(unit for unit in range(self.slots) if not (scsi and unit == _SCSI_OWN_UNIT))


_SCSI = ControllerClass(1000, 2000, 16, 4)

CLASSES: dict[str, ControllerClass] = {
    "ParaVirtualSCSIController": _SCSI,
    "VirtualLsiLogicSASController": _SCSI,
    "VirtualLsiLogicController": _SCSI,
    "VirtualBusLogicController": _SCSI,
    "VirtualAHCIController": ControllerClass(15000, 16000, 30, 4),
    "VirtualNVMEController": ControllerClass(31000, 32000, 15, 4),
    "VirtualIDEController": ControllerClass(200, 3000, 2, 2),
}
"""By the name of the class in the API."""


@dataclass(frozen=True, slots=True)
class Controller:
    """A controller of a VM."""

    kind: str
    bus: int

    @property
    def key(self) -> int:
        """Its device key."""
        return CLASSES[self.kind].first_key + self.bus

    def disk_key(self, unit: int) -> int:
        """Return the device key of the disk in a slot."""
        known = CLASSES[self.kind]
        return known.first_disk_key + known.slots * self.bus + unit


USUAL = Controller("ParaVirtualSCSIController", 0)
"""What a VM has that was made without any."""

BUILT_IN = (Controller("VirtualIDEController", 0), Controller("VirtualIDEController", 1))
"""What every VM has."""
