"""What outlives the Temporal server: archived histories, and the commit records from which replications start again."""

from collections.abc import Mapping

from pydantic import ValidationError
from temporalio import activity
from temporalio.client import Client

from activities.adapters import Target
from activities.failures import translated
from activities.verification import COMMIT_RECORD_ADAPTER
from deltaferry.model.naming import COMMIT_RECORD, GATEWAY_CONTAINER_PREFIX, gateway_container, history_name
from workflows.site_messages import SiteProfile
from workflows.step_messages import ArchiveInput, CommitRecords


class Archive:
    """Reads and writes the gateway store on behalf of `replay`, `explain` and `adopt`."""

    def __init__(self, targets: Mapping[str, Target], client: Client) -> None:
        self._targets = targets
        self._client = client

    @activity.defn
    async def archive_history(self, request: ArchiveInput) -> None:
        """Store a closed run's history, as the JSON that the Temporal UI would download."""
        handle = self._client.get_workflow_handle(request.workflow_id, run_id=request.run_id)
        history = await handle.fetch_history()
        self._store(request, history.to_json().encode())

    @activity.defn
    @translated
    def read_commit_records(self, profile: SiteProfile) -> CommitRecords:
        """Return the commit records of a site's replications; a record that cannot be read is named, never guessed at."""
        gateway = self._targets[profile.target].stores.gateway
        records = []
        unreadable = []
        for container in gateway.list_containers(GATEWAY_CONTAINER_PREFIX):
            data = gateway.get_if_exists(f"{container}/{COMMIT_RECORD}")
            if data is None:
                unreadable.append(f"{container}: nothing was committed yet")
                continue
            try:
                record = COMMIT_RECORD_ADAPTER.validate_json(data)
            except ValidationError as error:
                unreadable.append(f"{container}: the commit record has {error.error_count()} errors")
                continue
            ref = record.replication.ref
            if (ref.installation, ref.site) == (profile.installation, profile.site):
                records.append(record)
        return CommitRecords(tuple(records), tuple(unreadable))

    @translated
    def _store(self, request: ArchiveInput, history: bytes) -> None:
        ref = request.replication.ref
        gateway = self._targets[ref.target].stores.gateway
        gateway.put(f"{gateway_container(ref)}/{history_name(request.run_id)}", history)
