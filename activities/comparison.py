"""One disk's chunk of a resync's comparison: what its seed's check says, and what the source has to look at."""

from activities.changed_blocks import planned_areas
from activities.scrubbing import Stretch, first_granule
from deltaferry.blocks.granules import GranuleSet, granules_of
from deltaferry.blocks.seed_check import decode_seed_check
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.replication import ReplicatedDisk
from deltaferry.planning.ladder import Rung
from deltaferry.ports.stores import ObjectStore
from workflows.messages.step import CompareDisk


class Comparison:
    """What has to be read of a snapshot's disk, and what differs on either side. Raises CHECKSUM_MISMATCH for another's check."""

    def __init__(self, gateway: ObjectStore, rung: Rung, disk: ReplicatedDisk, part: CompareDisk) -> None:
        self.part = part
        self._check = decode_seed_check(gateway.get(part.check.key))
        if (
            self._check.disk_key != disk.key
            or self._check.position_bytes > part.position_bytes
            or self._check.end_bytes != part.end_bytes
        ):
            raise DeltaferryError(ErrorKind.CHECKSUM_MISMATCH, f"{part.check.key} is not the check of this part of the seed.")
        first = first_granule(disk, part.position_bytes)
        self._survey = GranuleSet.touching(planned_areas(gateway, [part.survey]))
        self._rung = rung
        self.stretch = Stretch(disk, first, max(first, granules_of(part.end_bytes)), self._wanted)

    def _wanted(self, first: int, end: int) -> GranuleSet:
        """Return what has to be read to know whether it differs; where the seed is wrong already, nothing has to."""
        if self._rung is Rung.FULL:
            return GranuleSet()
        wanted = self._survey | self._check.present if self._rung is Rung.ALLOCATED else self._survey
        return (wanted - self._check.differing).within(first, end)

    def differing(self) -> GranuleSet:
        """Return what differs on either side, as far as it was compared."""
        on_seed = self._check.differing if self._rung is not Rung.FULL else self._check.differing | self._survey
        return self.stretch.differing | on_seed.within(self.stretch.first, self.stretch.position)
