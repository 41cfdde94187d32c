"""The VM sizes of the lab's regions: a small part of Azure's table.

Source: learn.microsoft.com, "Sizes for virtual machines in Azure" (cores, memory, data disks, NICs, generations).
"""

from dataclasses import dataclass

from lab.arm.errors import Json


@dataclass(frozen=True, slots=True)
class VmSize:
    """A VM size."""

    name: str
    family: str
    cores: int
    memory_mib: int
    max_data_disks: int
    max_nics: int
    premium: bool
    generations: tuple[str, ...]

    def document(self) -> Json:
        """Return the entry of `vmSizes`."""
        return {
            "name": self.name,
            "numberOfCores": self.cores,
            "memoryInMB": self.memory_mib,
            "maxDataDiskCount": self.max_data_disks,
            "osDiskSizeInMB": 1_047_552,
            "resourceDiskSizeInMB": 0,
        }

    def sku_document(self, location: str) -> Json:
        """Return the entry of `skus`."""
        capabilities = {
            "vCPUs": str(self.cores),
            "MemoryGB": f"{self.memory_mib / 1024:g}",
            "MaxDataDiskCount": str(self.max_data_disks),
            "MaxNetworkInterfaces": str(self.max_nics),
            "PremiumIO": str(self.premium),
            "HyperVGenerations": ",".join(self.generations),
        }
        return {
            "resourceType": "virtualMachines",
            "name": self.name,
            "tier": "Standard",
            "family": self.family,
            "locations": [location],
            "locationInfo": [{"location": location, "zones": ["1", "2", "3"], "zoneDetails": []}],
            "capabilities": [{"name": name, "value": value} for name, value in capabilities.items()],
            "restrictions": [],
        }


_BOTH = ("V1", "V2")
SIZES = {
    size.name.lower(): size
    for size in (
        VmSize("Standard_B1s", "standardBSFamily", 1, 1024, 2, 2, True, _BOTH),
        VmSize("Standard_B2s", "standardBSFamily", 2, 4096, 4, 3, True, _BOTH),
        VmSize("Standard_B2ms", "standardBSFamily", 2, 8192, 4, 3, True, _BOTH),
        VmSize("Standard_D2_v3", "standardDv3Family", 2, 8192, 4, 2, False, ("V1",)),
        VmSize("Standard_D2s_v3", "standardDSv3Family", 2, 8192, 4, 2, True, _BOTH),
        VmSize("Standard_D4s_v3", "standardDSv3Family", 4, 16384, 8, 2, True, _BOTH),
        VmSize("Standard_D8s_v3", "standardDSv3Family", 8, 32768, 16, 4, True, _BOTH),
        VmSize("Standard_D16s_v3", "standardDSv3Family", 16, 65536, 32, 8, True, _BOTH),
        VmSize("Standard_D2s_v5", "standardDSv5Family", 2, 8192, 4, 2, True, _BOTH),
        VmSize("Standard_D4s_v5", "standardDSv5Family", 4, 16384, 8, 2, True, _BOTH),
        VmSize("Standard_D8s_v5", "standardDSv5Family", 8, 32768, 16, 4, True, _BOTH),
        VmSize("Standard_D2s_v6", "standardDsv6Family", 2, 8192, 4, 2, True, ("V2",)),
        VmSize("Standard_E4s_v5", "standardESv5Family", 4, 32768, 8, 2, True, _BOTH),
        VmSize("Standard_E64s_v5", "standardESv5Family", 64, 524288, 32, 8, True, _BOTH),
    )
}
