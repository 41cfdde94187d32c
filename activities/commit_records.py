"""The commit records of a gateway store: from them replications start again, and by them an audit knows what may."""

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import ValidationError

from activities.settling import COMMIT_RECORD_ADAPTER
from deltaferry.model.naming import COMMIT_RECORD, GATEWAY_CONTAINER_PREFIX
from deltaferry.ports.access import Beat
from deltaferry.ports.stores import ObjectStore
from workflows.messages.replication_state import ReplicateVmInput


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """What a gateway container has of a replication's state."""

    container: str
    record: ReplicateVmInput | None
    problem: str = ""
    """Why it cannot be read; empty where nothing was committed yet."""
    size_bytes: int = 0


def read_record(gateway: ObjectStore, container: str) -> StoredRecord:
    """Return a container's commit record; one that cannot be read is named, never guessed at."""
    data = gateway.get_if_exists(f"{container}/{COMMIT_RECORD}")
    if data is None:
        return StoredRecord(container, None)
    try:
        return StoredRecord(container, COMMIT_RECORD_ADAPTER.validate_json(data), size_bytes=len(data))
    except ValidationError as error:
        return StoredRecord(container, None, f"the commit record has {error.error_count()} errors")


def read_records(gateway: ObjectStore, beat: Beat, after: str = "") -> Iterator[StoredRecord]:
    """Yield what every gateway container of the store has, by name, from the one behind `after` on."""
    for container in gateway.list_containers(GATEWAY_CONTAINER_PREFIX):
        if container > after:
            beat()
            yield read_record(gateway, container)
