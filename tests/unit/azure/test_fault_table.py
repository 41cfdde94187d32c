"""Every row of the fault tables of storage account, Key Vault and identity, provoked by its name through the real clients."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from azure.storage.blob import BlobLeaseClient

from deltaferry.azure.accounts import StorageAccount
from deltaferry.azure.credentials import AccountKey, CheckedCredential, ServicePrincipal, StaticToken
from deltaferry.azure.fault_table import ARM_FAULTS, BEING_DELETED, IDENTITY_FAULTS, VAULT_FAULTS, ServiceFault
from deltaferry.azure.keys import VaultKey
from deltaferry.azure.object_store import BlobObjectStore
from deltaferry.azure.seeds import PageBlobSeeds
from deltaferry.blocks.blob_http import BlobClient, HttpLimits, Role
from deltaferry.blocks.pacing import Pacer
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.faults import FaultClass, FaultRow
from deltaferry.model.replication import Store
from deltaferry.model.store_faults import STORE_FAULTS, StoreFault
from deltaferry.model.units import MIB, SECTOR, seed_blob_size
from deltaferry.ports.access import BlobAccess
from lab import blob_faults, key_vault
from lab.arm import named_faults
from lab.blob_service import BlobService, new_account_key
from lab.certificates import Certificates, make_certificates
from lab.control_client import BlobControl, BlobFault
from tests.unit.fault_classes import disagreement

ACCOUNT = "dfseed"
HOUR = timedelta(hours=1)
IMPATIENT = HttpLimits(timeout_s=5, retry_for_s=0.05)
FAST = Pacer(1 << 40)
DIGEST = bytes(32)
DATA = b"d" * SECTOR
ROWS: tuple[FaultRow, ...] = (*STORE_FAULTS, BEING_DELETED, *ARM_FAULTS, *VAULT_FAULTS, *IDENTITY_FAULTS)
PER_CALL = 50
"""More than a call's own retries."""


def names(row: FaultRow) -> str:
    return row.name


# --- the tables themselves


def test_every_row_has_a_lab_fault_of_its_name_and_every_lab_fault_a_row() -> None:
    assert {row.name for row in (*STORE_FAULTS, BEING_DELETED)} == blob_faults.STORE_FAULTS.keys()
    assert {row.name for row in ARM_FAULTS} == named_faults.ARM_FAULTS.keys()
    assert {row.name for row in VAULT_FAULTS} == key_vault.VAULT_FAULTS.keys()
    assert {row.name for row in IDENTITY_FAULTS} == key_vault.LOGIN_FAULTS.keys()


@pytest.mark.parametrize("row", ROWS, ids=names)
def test_the_class_of_a_row_is_what_the_system_does_with_its_kind(row: FaultRow) -> None:
    assert disagreement(row) is None
    assert row.meaning.endswith(".") and row.advice.endswith(".")


def test_no_code_and_no_status_has_two_meanings_in_one_operation() -> None:
    for table in (STORE_FAULTS, ARM_FAULTS, VAULT_FAULTS):
        seen = [
            (value, getattr(row, "during", None))
            for row in table
            if row.name != "seed-missing"
            for value in (*row.codes, *row.statuses)
        ]
        assert len(seen) == len(set(seen))


# --- a storage account


@dataclass(frozen=True)
class Accounts:
    """A storage account behind the lab's front, and both clients that Deltaferry has for it."""

    service: BlobService
    key: str
    certificates: Certificates

    @property
    def control(self) -> BlobControl:
        return self.service.control

    def account(self, *keys: str, retries: int = 0) -> StorageAccount:
        """An account whose key reads as each of `keys` in turn, the last one for ever; the right one if none is given."""
        left = list(keys or (self.key,))
        read = AccountKey(lambda: left.pop(0) if len(left) > 1 else left[0])
        return StorageAccount(self.service.url(ACCOUNT), read, ca_file=str(self.certificates.ca_file), retries=retries)


@dataclass(frozen=True)
class Bench:
    """A container with an object and a seed, and the two clients."""

    accounts: Accounts
    container: str
    sdk: BlobObjectStore

    @property
    def seeds(self) -> PageBlobSeeds:
        return PageBlobSeeds(self.sdk.account)

    def access(self, lifetime: timedelta = HOUR) -> BlobAccess:
        return self.sdk.access(self.container, write=True, lifetime=lifetime)

    def client(self, role: Role = Role.LOG, limits: HttpLimits | None = None, access: BlobAccess | None = None) -> BlobClient:
        return BlobClient(access or self.access(), role, limits)

    def order(self, name: str, count: int = 1, operation: str | None = None) -> BlobFault:
        fault = replace(blob_faults.STORE_FAULTS[name], count=count, operation=operation, path_contains=f"/{self.container}/")
        self.accounts.control.order(fault)
        return fault

    def sequence(self) -> int:
        return self.seeds.read_seed(self.container, "seed").sequence_number


@pytest.fixture(scope="module")
def accounts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Accounts]:
    directory = tmp_path_factory.mktemp("front")
    certificates = make_certificates(directory / "certificates")
    key = new_account_key()
    service = BlobService(directory / "stores", directory, certificates, {ACCOUNT: key})
    service.spawn()
    try:
        service.await_ready()
        yield Accounts(service, key, certificates)
    finally:
        service.stop()


@pytest.fixture
def bench(accounts: Accounts) -> Iterator[Bench]:
    store = BlobObjectStore(accounts.account(), Store.LOG)
    container = f"df-t-{uuid4().hex[:12]}"
    store.create_container(container)
    store.put(f"{container}/object", DATA)
    made = Bench(accounts, container, store)
    made.seeds.create_seed(container, "seed", seed_blob_size(MIB))
    accounts.control.reset_counts()
    yield made
    accounts.control.clear_faults()
    store.account.close()


LEAVING = [row for row in (*STORE_FAULTS, BEING_DELETED) if row.kind is not None]
SETTLED = [row for row in STORE_FAULTS if row.kind is None]


@pytest.mark.parametrize("row", [row for row in LEAVING if row is not BEING_DELETED], ids=names)
def test_the_data_plane_gives_a_refusal_its_kind_and_goes_on_when_it_is_over(bench: Bench, row: StoreFault) -> None:
    role, name = (Role.SEED, "seed") if row.name == "seed-missing" else (Role.LOG, "object")
    client = bench.client(role, IMPATIENT)
    fault = bench.order(row.name, PER_CALL)
    with pytest.raises(DeltaferryError) as caught:
        client.get_into(name, memoryview(bytearray(2 * MIB)))
    assert caught.value.kind is row.kind
    if fault.retry_after_s:
        assert caught.value.retry_after == timedelta(seconds=fault.retry_after_s), "the service's own pause is handed on"
    bench.accounts.control.clear_faults()
    assert client.get_into(name, memoryview(bytearray(2 * MIB))) > 0
    client.close()


@pytest.mark.parametrize("row", LEAVING, ids=names)
def test_the_sdk_gives_a_refusal_the_same_kind_and_goes_on_when_it_is_over(bench: Bench, row: StoreFault) -> None:
    def read() -> object:
        if row.name == "seed-missing":
            return bench.seeds.read_seed(bench.container, "seed")
        return bench.sdk.get(f"{bench.container}/object")

    fault = bench.order(row.name, PER_CALL)
    with pytest.raises(DeltaferryError) as caught:
        read()
    assert caught.value.kind is row.kind
    if fault.retry_after_s:
        assert caught.value.retry_after == timedelta(seconds=fault.retry_after_s)
    bench.accounts.control.clear_faults()
    assert read()


@pytest.mark.parametrize("name", ["server-busy", "internal-error", "operation-timed-out", "no-answer", "ingress-limit"])
def test_what_may_pass_is_tried_again_within_one_call(bench: Bench, name: str) -> None:
    client = bench.client()
    bench.order(name, operation="GetBlob")
    assert client.get_into("object", memoryview(bytearray(MIB))) == SECTOR
    assert bench.accounts.control.count("GetBlob") == 2
    client.close()


@pytest.mark.parametrize("name", [*(row.name for row in SETTLED), "operation-timed-out"])
def test_an_object_that_was_stored_although_the_attempt_failed_is_stored_once(bench: Bench, name: str) -> None:
    client = bench.client()
    bench.order(name, operation="PutBlob")
    client.put_new("new", memoryview(DATA), DIGEST)
    assert client.put_new("new", memoryview(b"other"), DIGEST) is False
    assert bench.sdk.get(f"{bench.container}/new") == DATA
    bench.order(name, operation="PutBlob")
    sdk = BlobObjectStore(bench.accounts.account(retries=1), Store.LOG)
    assert sdk.put_new(f"{bench.container}/newer", DATA).key == f"{bench.container}/newer"
    assert sdk.get(f"{bench.container}/newer") == DATA
    client.close()


@pytest.mark.parametrize("name", ["reply-lost", "operation-timed-out"])
def test_pages_that_were_written_although_the_attempt_failed_are_written_again_to_the_same_effect(
    bench: Bench, name: str
) -> None:
    client = bench.client(Role.SEED)
    bench.order(name, operation="PutPage")
    client.put_page("seed", SECTOR, memoryview(DATA), 0, FAST)
    assert bench.accounts.control.count("PutPage") == 2
    assert bench.sdk.get(f"{bench.container}/seed")[: 3 * SECTOR] == bytes(SECTOR) + DATA + bytes(SECTOR)
    client.close()


# --- a storage account, in the states that no fault has to be asked for


def test_a_signature_that_has_expired_is_denied_and_the_next_attempts_is_accepted(bench: Bench) -> None:
    expired = bench.client(access=bench.access(timedelta(minutes=-1)))
    with pytest.raises(DeltaferryError) as caught:
        expired.get_into("object", memoryview(bytearray(MIB)))
    assert caught.value.kind is ErrorKind.STORE_ACCESS_DENIED
    assert "sig=" not in str(caught.value)
    renewed = bench.client()
    assert renewed.get_into("object", memoryview(bytearray(MIB))) == SECTOR


def test_a_rotated_account_key_is_read_again_by_the_next_attempt(bench: Bench) -> None:
    store = BlobObjectStore(bench.accounts.account(new_account_key(), bench.accounts.key), Store.LOG)
    with pytest.raises(DeltaferryError) as caught:
        store.get(f"{bench.container}/object")
    assert caught.value.kind is ErrorKind.STORE_ACCESS_DENIED
    assert store.get(f"{bench.container}/object") == DATA


def test_a_lease_of_somebody_elses_keeps_the_seed_from_being_written_until_it_is_broken(bench: Bench) -> None:
    client = bench.client(Role.SEED, IMPATIENT)
    lease = BlobLeaseClient(bench.sdk.account.client.get_blob_client(bench.container, "seed"))
    lease.acquire(lease_duration=-1)
    with pytest.raises(DeltaferryError) as caught:
        client.put_page("seed", 0, memoryview(DATA), 0, FAST)
    assert caught.value.kind is ErrorKind.STORE_LEASED
    lease.break_lease(lease_break_period=0)
    client.put_page("seed", 0, memoryview(DATA), 0, FAST)
    client.close()


def test_a_fenced_writer_learns_the_number_that_shut_it_out(bench: Bench) -> None:
    client = bench.client(Role.SEED)
    bench.seeds.raise_fence(bench.container, "seed", 7)
    with pytest.raises(DeltaferryError) as caught:
        client.put_page("seed", 0, memoryview(DATA), 3, FAST)
    assert (caught.value.kind, caught.value.number, bench.sequence()) == (ErrorKind.FENCED, 7, 7)
    client.close()


def test_what_is_gone_is_named_by_what_it_was(bench: Bench) -> None:
    for role, kind in ((Role.LOG, ErrorKind.STORE_OBJECT_MISSING), (Role.SEED, ErrorKind.SEED_MISSING)):
        with pytest.raises(DeltaferryError) as caught:
            bench.client(role).get_into("absent", memoryview(bytearray(MIB)))
        assert caught.value.kind is kind


# --- Key Vault and identity


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[key_vault.KeyVault]:
    running = key_vault.KeyVault(make_certificates(tmp_path_factory.mktemp("vault")))
    yield running
    running.stop()


@pytest.fixture
def wrapper(vault: key_vault.KeyVault) -> Iterator[VaultKey]:
    yield VaultKey(vault.key_url, StaticToken(lambda: "token"), ca_file=vault.ca_file, verify_challenge=False, retries=0)
    vault.clear_faults()


@pytest.mark.parametrize("row", VAULT_FAULTS, ids=names)
def test_the_vaults_refusal_has_its_kind_and_the_next_attempt_unwraps(
    vault: key_vault.KeyVault, wrapper: VaultKey, row: ServiceFault
) -> None:
    wrapped = wrapper.wrap(b"k" * 32)
    # A refused token is asked for once more by the SDK itself.
    vault.ask_named(row.name, 2 if row.answer is FaultClass.RE_LOGIN else 1)
    with pytest.raises(DeltaferryError) as caught:
        wrapper.unwrap(wrapped)
    assert caught.value.kind is row.kind
    asked = key_vault.VAULT_FAULTS[row.name].retry_after_s
    assert caught.value.retry_after == (timedelta(seconds=asked) if asked else None)
    vault.clear_faults()
    assert wrapper.unwrap(wrapped) == b"k" * 32


def test_a_key_version_that_is_gone_is_unavailable_and_the_others_still_unwrap(
    tmp_path: Path, vault: key_vault.KeyVault, wrapper: VaultKey
) -> None:
    wrapped = wrapper.wrap(b"k" * 32)
    vault.rotate("b2")
    assert wrapper.unwrap(wrapped) == b"k" * 32
    with pytest.raises(DeltaferryError) as caught:
        wrapper.unwrap(wrapped.replace(b'"version": "a1"', b'"version": "zz"').replace(b'"version": "b2"', b'"version": "zz"'))
    assert caught.value.kind is ErrorKind.KEY_UNAVAILABLE


@pytest.mark.parametrize("row", IDENTITY_FAULTS, ids=names)
def test_a_log_in_that_brings_no_token_has_its_kind_and_the_next_one_reads_the_secret_again(
    vault: key_vault.KeyVault, row: ServiceFault
) -> None:
    reads: list[int] = []

    def secret() -> str:
        reads.append(1)
        return vault.client_secret

    principal = ServicePrincipal(
        key_vault.TENANT, "app", secret, authority=vault.url, ca_file=vault.ca_file, private_authority=True, retries=0
    )
    credential = CheckedCredential(principal)
    vault.ask_named(row.name)
    with pytest.raises(DeltaferryError) as caught:
        credential.get_token("https://vault.azure.net/.default")
    assert caught.value.kind is row.kind
    assert vault.client_secret not in str(caught.value) and "AADSTS" not in str(caught.value)
    vault.clear_faults()
    assert credential.get_token("https://vault.azure.net/.default").token.startswith("token-")
    assert len(reads) == 2, "a rotated secret would have been read"
