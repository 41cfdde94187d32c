"""What outlives the Temporal server: archived histories, and the commit records from which replications start again."""

from collections.abc import Mapping

from temporalio import activity
from temporalio.client import Client

from activities.adapters import Target
from activities.commit_records import read_records
from activities.failures import translated
from deltaferry.model.naming import gateway_container, history_name
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
        for stored in read_records(gateway, lambda: None):
            if stored.record is None:
                unreadable.append(f"{stored.container}: {stored.problem or 'nothing was committed yet'}")
                continue
            ref = stored.record.replication.ref
            if (ref.installation, ref.site) == (profile.installation, profile.site):
                records.append(stored.record)
        return CommitRecords(tuple(records), tuple(unreadable))

    @translated
    def _store(self, request: ArchiveInput, history: bytes) -> None:
        ref = request.replication.ref
        gateway = self._targets[ref.target].stores.gateway
        gateway.put(f"{gateway_container(ref)}/{history_name(request.run_id)}", history)
