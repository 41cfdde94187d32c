"""The commit records of a whole site, read page by page from a real Azurite."""

import dataclasses
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from temporalio.client import Client
from temporalio.testing import ActivityEnvironment

from activities.adapters import Target
from activities.archive import Archive
from activities.settling import COMMIT_RECORD_ADAPTER
from deltaferry.azure.accounts import StorageAccount
from deltaferry.azure.object_store import BlobObjectStore
from deltaferry.model.naming import COMMIT_RECORD, container_metadata, gateway_container
from deltaferry.model.replication import ReplicationRef, Store
from tests.unit.azure.conftest import start_azurite
from workflows.messages.replication_state import EntityState, ReplicateVmInput, Replication
from workflows.messages.site import SiteProfile
from workflows.messages.step import CommitRecords, CommitRecordsInput

_HOUR = timedelta(hours=1)
_PROFILE = SiteProfile("lab", "london", "appliance", "west", _HOUR, _HOUR, 52, 8, 15)
_RECORDS = 500
_RECORD_BYTES = 3000
_PAYLOAD_BYTES = 512 * 1024
"""From here on the server warns."""
_NEWEST = 321
"""The record whose site settings are the newest."""


def _store_record(gateway: BlobObjectStore, number: int, profile: SiteProfile) -> None:
    ref = ReplicationRef(profile.installation, profile.site, profile.target, f"uuid-{number}", f"{profile.site}-{number:03}")
    settings = dataclasses.replace(profile, revision=7 if number == _NEWEST else 1)
    state = EntityState(profile=settings, next_reason="x" * _RECORD_BYTES)
    record = ReplicateVmInput(Replication(ref, f"web-{number}", profile, (), 2, "Linux"), state)
    gateway.create_container(gateway_container(ref), container_metadata(ref))
    gateway.put(f"{gateway_container(ref)}/{COMMIT_RECORD}", COMMIT_RECORD_ADAPTER.dump_json(record))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    """An archive whose gateway store has the records of two sites, and a container in which nothing was committed."""
    azurite = start_azurite(Path(tmp_path_factory.mktemp("azurite")))
    try:
        yield _filled(azurite.account())
    finally:
        azurite.process.stop()


def _filled(account: StorageAccount) -> Archive:
    gateway = BlobObjectStore(account, Store.GATEWAY)
    elsewhere = dataclasses.replace(_PROFILE, site="berlin")
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: _store_record(gateway, number, _PROFILE), range(_RECORDS)))
        list(threads.map(lambda number: _store_record(gateway, number, elsewhere), range(10)))
    gateway.create_container("df-gw-empty", {})
    target = SimpleNamespace(stores=SimpleNamespace(gateway=gateway))
    return Archive({"west": cast("Target", target)}, cast("Client", None))


def _read(archive: Archive, after: str = "", vm: str | None = None) -> CommitRecords:
    found: CommitRecords = ActivityEnvironment().run(archive.read_commit_records, CommitRecordsInput(_PROFILE, after, vm))
    return found


def test_a_sites_records_come_in_pages_below_the_payload_limit_each_record_once(archive: Archive) -> None:
    pages = [_read(archive)]
    while pages[-1].ended_with:
        pages.append(_read(archive, pages[-1].ended_with))
    names = [record.replication.vm_name for page in pages for record in page.records]
    assert names == [f"web-{number}" for number in range(_RECORDS)]
    sizes = [sum(len(COMMIT_RECORD_ADAPTER.dump_json(record)) for record in page.records) for page in pages]
    assert max(sizes) < _PAYLOAD_BYTES
    assert min(sizes[:-1]) > _PAYLOAD_BYTES / 4, "as many in a page as may be"
    assert [name for page in pages for name in page.unreadable] == ["df-gw-empty: nothing was committed yet"]


def test_the_first_page_tells_the_newest_settings_of_all(archive: Archive) -> None:
    first = _read(archive)
    assert first.settings is not None
    assert first.settings.revision == 7
    assert all(record.replication.vm_name != f"web-{_NEWEST}" for record in first.records)
    assert _read(archive, first.ended_with).settings is None


def test_one_vms_record_is_found_by_name_and_by_instance_uuid(archive: Archive) -> None:
    for vm in ("web-44", "uuid-44"):
        found = _read(archive, vm=vm)
        assert [record.replication.vm_name for record in found.records] == ["web-44"]
        assert not found.ended_with
