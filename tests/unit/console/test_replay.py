"""Replaying histories with this code: from the server, from a file, from the archive, and what is not as it was."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from activities.settling import COMMIT_RECORD_ADAPTER
from console import client as replicating
from deltaferry.azure.accounts import StorageAccount
from deltaferry.azure.credentials import AccountKey
from deltaferry.azure.object_store import BlobObjectStore
from deltaferry.model.naming import COMMIT_RECORD, gateway_container, history_name
from deltaferry.model.replication import Store
from lab.blob_service import BlobService, new_account_key
from lab.certificates import make_certificates
from lab.configuration import ACCOUNTS, Endpoints, account_key_variable, configuration
from lab.settings import LabSettings
from lab.tools import ensure_azurite

from .conftest import Running, Synced


@pytest_asyncio.fixture
async def history(running: Running, synced: Synced) -> dict[str, Any]:
    """A replication's history, as the Temporal UI downloads it."""
    fetched: dict[str, Any] = (await running.client.get_workflow_handle(synced.workflow_id).fetch_history()).to_json_dict()
    return fetched


@pytest.fixture
def file(tmp_path: Path, history: dict[str, Any]) -> Path:
    """That history in a file."""
    file = tmp_path / "history.json"
    file.write_text(json.dumps(history))
    return file


@dataclass
class GatewayStore:
    """A gateway store on a real Azurite, and the settings file that names it."""

    store: BlobObjectStore
    config: Path
    environment: dict[str, str] = field(repr=False)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[GatewayStore]:
    ensure_azurite()
    certificates = make_certificates(tmp_path / "certificates")
    keys = {store: new_account_key() for store in ACCOUNTS}
    logs = tmp_path / "logs"
    logs.mkdir()
    blobs = BlobService(tmp_path / "stores", logs, certificates, {ACCOUNTS[store]: key for store, key in keys.items()})
    blobs.spawn()
    try:
        blobs.await_ready()
        urls = {store: blobs.url(account) for store, account in ACCOUNTS.items()}
        endpoints = Endpoints(
            "127.0.0.1:1",
            "default",
            "https://127.0.0.1:1",
            {"esxi-1": "127.0.0.1:1"},
            "https://127.0.0.1:1",
            urls,
            certificates.ca_file,
        )
        config = tmp_path / "settings.toml"
        config.write_text(configuration(endpoints, LabSettings()))
        environment = {account_key_variable(store): key for store, key in keys.items()} | {
            "LAB_KEY_FILE": str(tmp_path / "wrapping.key")
        }
        account = StorageAccount(urls["gateway"], AccountKey(lambda: keys["gateway"]), ca_file=str(certificates.ca_file))
        yield GatewayStore(BlobObjectStore(account, Store.GATEWAY), config, environment)
    finally:
        blobs.stop()


async def test_a_history_on_the_server_replays(running: Running, synced: Synced) -> None:
    answer = await running.json("replay", synced.workflow_id)
    assert answer["deterministic"] is True
    (history,) = answer["histories"]
    assert (history["workflow_id"], history["workflow_type"], history["error"]) == (synced.workflow_id, "ReplicateVm", "")
    assert history["events"] > 20


async def test_a_job_on_the_server_replays_by_its_own_id(running: Running, synced: Synced) -> None:
    job_id = (await replicating.status(running.client.get_workflow_handle(synced.workflow_id))).job_id
    assert job_id is not None
    result = await running.call("replay", job_id)
    assert (result.exit_code, "InitialReplication" in result.stdout, "OK" in result.stdout) == (0, True, True)


async def test_a_downloaded_history_replays_offline_and_explains_its_decisions(
    running: Running, synced: Synced, file: Path
) -> None:
    running.environment["TEMPORAL_ADDRESS"] = "127.0.0.1:1"
    try:
        result = await running.call("replay", "--file", str(file), "--explain")
        explained = await running.json("replay", "--file", str(file), "--explain")
    finally:
        running.environment["TEMPORAL_ADDRESS"] = running.address
    assert result.exit_code == 0, result.output
    expected = ("OK", synced.workflow_id, "step begin_cycle", "snapshot and changed areas", "sleeps up to", "next delta")
    assert [text for text in expected if text not in result.stdout] == []
    (cycle,) = explained["histories"][0]["cycles"]
    assert (cycle["kind"], cycle["decision"]) == ("initial", "the first delta cycle follows at once")


async def test_a_history_of_other_decisions_ends_with_1(running: Running, file: Path, history: dict[str, Any]) -> None:
    scheduled = next(event for event in history["events"] if "activityTaskScheduledEventAttributes" in event)
    scheduled["activityTaskScheduledEventAttributes"]["activityType"]["name"] = "defragment"
    changed = file.with_name("changed.json")
    changed.write_text(json.dumps(history))
    result = await running.call("replay", "--file", str(changed), "--file", str(file))
    assert result.exit_code == 1
    assert "NOT the same decisions: NondeterminismError" in result.stdout
    assert "Traceback" not in result.output
    answer = await running.json("replay", "--file", str(changed), "--file", str(file), exit_code=1)
    assert [history["deterministic"] for history in answer["histories"]] == [False, True]


async def test_archived_runs_replay_without_the_server_that_made_them(
    running: Running, synced: Synced, history: dict[str, Any], gateway: GatewayStore
) -> None:
    replication_id = (await replicating.status(running.client.get_workflow_handle(synced.workflow_id))).replication_id
    record = running.activities.settled[replication_id]
    container = gateway_container(record.replication.ref)
    gateway.store.create_container(container)
    gateway.store.put(f"{container}/{COMMIT_RECORD}", COMMIT_RECORD_ADAPTER.dump_json(record))
    gateway.store.put(f"{container}/{history_name('run-1')}", json.dumps(history).encode())
    archive = Running(running.client, running.address, running.activities, {**running.environment, **gateway.environment})
    for reference in (synced.vm, synced.workflow_id, replication_id):
        answer = await archive.json("replay", "--archive", reference, "--config", str(gateway.config))
        assert [(found["workflow_id"], found["deterministic"]) for found in answer["histories"]] == [(synced.workflow_id, True)]
    other_run = await archive.call("replay", "--archive", synced.vm, "--run", "run-2", "--config", str(gateway.config))
    assert (other_run.exit_code, "No run run-2" in other_run.stderr) == (4, True)
    unknown = await archive.call("replay", "--archive", "no-such-vm", "--config", str(gateway.config))
    assert (unknown.exit_code, "has an archive of no-such-vm" in unknown.stderr) == (4, True)
