"""A datastore without room for a snapshot, as an error that says which one in a typed way."""

from deltaferry.model.errors import DeltaferryError, ErrorKind


class ShortOfSpaceError(DeltaferryError):
    """DATASTORE_FULL as the datastore guard finds it (spec §2.7).

    `datastores` names those below their threshold: the arbiter needs them apart from the sentence, since it keeps
    pre-failover deltas to the snapshot count there (spec §3).
    """

    def __init__(self, detail: str, datastores: tuple[str, ...]) -> None:
        super().__init__(ErrorKind.DATASTORE_FULL, detail)
        self.datastores = datastores
