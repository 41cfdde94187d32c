"""What outlives the Temporal server: archived histories, and the commit records from which replications start again."""

from collections.abc import Mapping

from temporalio import activity
from temporalio.client import Client

from activities.adapters import Target
from activities.commit_records import read_records
from activities.failures import translated
from deltaferry.model.naming import gateway_container, history_name
from workflows.messages.replication_state import ReplicateVmInput
from workflows.messages.site import SiteProfile
from workflows.messages.step import ArchiveInput, CommitRecords, CommitRecordsInput

_PAGE_BYTES = 256 * 1024
"""Of stored records in one answer: the server warns of payloads of 512 KiB, and refuses those of 2 MiB."""


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
    def read_commit_records(self, request: CommitRecordsInput) -> CommitRecords:
        """Return a page of the commit records of a site's replications, by their containers.

        A record that cannot be read is named, never guessed at. The first page takes longer than the others: it is the one
        that tells the newest settings that any record carries.
        """
        profile = request.profile
        gateway = self._targets[profile.target].stores.gateway
        records: list[ReplicateVmInput] = []
        unreadable: list[str] = []
        newest: SiteProfile | None = None
        size, last, ended_with = 0, "", ""
        for stored in read_records(gateway, lambda: None, request.after):
            record = stored.record
            of_site = record is not None and _is_of(record, profile)
            if record is not None and of_site and record.state.profile is not None:
                newest = max(newest or record.state.profile, record.state.profile, key=lambda known: known.revision)
            wanted = record is not None and of_site and request.vm in (None, *_names_of(record))
            if ended_with or not (wanted or record is None):
                continue  # of another site or VM, or of a later page
            problem = f"{stored.container}: {stored.problem or 'nothing was committed yet'}"
            needs = stored.size_bytes if record is not None else len(problem)
            if last and size + needs > _PAGE_BYTES:
                ended_with = last
                if request.after:
                    break
                continue
            if record is not None:
                records.append(record)
            else:
                unreadable.append(problem)
            size, last = size + needs, stored.container
        return CommitRecords(tuple(records), tuple(unreadable), ended_with, None if request.after else newest)

    @translated
    def _store(self, request: ArchiveInput, history: bytes) -> None:
        ref = request.replication.ref
        gateway = self._targets[ref.target].stores.gateway
        gateway.put(f"{gateway_container(ref)}/{history_name(request.run_id)}", history)


def _is_of(record: ReplicateVmInput, profile: SiteProfile) -> bool:
    ref = record.replication.ref
    return (ref.installation, ref.site) == (profile.installation, profile.site)


def _names_of(record: ReplicateVmInput) -> tuple[str, str]:
    return record.replication.vm_name, record.replication.ref.instance_uuid
