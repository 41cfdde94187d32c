"""A storage account as the adapters use it: one SDK client with bounded retries, and short-lived signatures."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from urllib.parse import urlsplit

from azure.core.credentials import AzureNamedKeyCredential, TokenCredential
from azure.storage.blob import (
    BlobServiceClient,
    ContainerSasPermissions,
    LinearRetry,
    UserDelegationKey,
    generate_container_sas,
)

from deltaferry.azure.credentials import AccountKey, CheckedCredential
from deltaferry.azure.errors import store_errors
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.ports.access import Beat, BlobAccess

DEFAULT_API_VERSION = "2025-11-05"
"""The newest `x-ms-version` that Azurite 3.35 knows; every feature used here is older."""

CLOCK_SKEW = timedelta(minutes=5)
"""How far a signature's start lies in the past, so that a service whose clock is behind takes it."""

MAX_DELEGATION = timedelta(days=7)
"""The longest life of a user delegation key (learn.microsoft.com/rest/api/storageservices/get-user-delegation-key)."""

_CONNECT_TIMEOUT_S = 10
_READ_TIMEOUT_S = 60
_RETRY_AFTER_S = 1
"""Between two tries, on average. A step has dozens of requests, one after the other: longer waits would make it minutes long where
the store refuses a third of them, and with few tries it would never get through all of them where it refuses most."""
_UNANSWERED = 3
"""How often a request is repeated that was not answered, which takes the time limits above each time."""


def account_name(url: str) -> str:
    """Return the account's name from a blob endpoint.

    `https://<account>.blob.core.windows.net` has it in the host; an endpoint with a path, or whose host is an address,
    has it in the path: `https://127.0.0.1:10000/<account>`. Raises BAD_CONFIGURATION.
    """
    parts = urlsplit(url)
    host, path = parts.hostname or "", parts.path.strip("/")
    if parts.scheme not in ("http", "https") or not host or parts.query or "/" in path:
        raise DeltaferryError(
            ErrorKind.BAD_CONFIGURATION,
            f"{parts.scheme}://{parts.netloc}{parts.path} is not a blob endpoint: write https://<account>.blob.core.windows.net, "
            "or https://<host>:<port>/<account>",
        )
    if path:
        return path
    if _is_address(host):
        raise DeltaferryError(ErrorKind.BAD_CONFIGURATION, f"{url} names no account: write https://<host>:<port>/<account>")
    return host.partition(".")[0]


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return host == "localhost"
    return True


class StorageAccount:
    """One storage account's blob endpoint and the credential to use it with. Safe to use from several threads.

    `url` is host-style or path-style; `credential` an account key or an azure-identity credential; `ca_file` the
    certificates to trust instead of the system's; `retries` how often the SDK repeats a request that the store refuses for
    now, by itself, in 20 seconds or so; longer waits are Temporal's. `beat` is called before each try. A client whose credential was
    refused is thrown away, so that the next attempt reads a rotated key.
    """

    def __init__(
        self,
        url: str,
        credential: AccountKey | TokenCredential,
        *,
        ca_file: str | None = None,
        api_version: str = DEFAULT_API_VERSION,
        retries: int = 20,
        beat: Beat | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.name = account_name(self.url)
        self._credential = credential
        self._ca_file = ca_file
        self._api_version = api_version
        self._retries = retries
        self._beat = beat
        self._lock = threading.Lock()
        self._client: BlobServiceClient | None = None
        self._delegation: tuple[UserDelegationKey, datetime] | None = None
        self._is_tls = self.url.startswith("https:")
        if not isinstance(credential, AccountKey) and not self._is_tls:
            raise DeltaferryError(
                ErrorKind.BAD_CONFIGURATION, f"{self.url}: a token never travels over plain HTTP; use https or an account key"
            )

    def __repr__(self) -> str:
        """Return the endpoint alone."""
        return f"StorageAccount({self.url!r})"

    @property
    def client(self) -> BlobServiceClient:
        """The SDK's client, made when it is first used."""
        with self._lock:
            if self._client is None:
                self._client = self._connect()
            return self._client

    def _connect(self) -> BlobServiceClient:
        credential: AzureNamedKeyCredential | TokenCredential
        if isinstance(self._credential, AccountKey):
            credential = AzureNamedKeyCredential(self.name, self._credential.read().strip())
        else:
            credential = CheckedCredential(self._credential)
        return BlobServiceClient(
            self.url,
            credential,
            api_version=self._api_version,
            connection_verify=self._ca_file or True,
            connection_timeout=_CONNECT_TIMEOUT_S,
            read_timeout=_READ_TIMEOUT_S,
            raw_request_hook=self._before_a_try,
            retry_policy=LinearRetry(
                backoff=_RETRY_AFTER_S,
                random_jitter_range=_RETRY_AFTER_S,
                retry_total=self._retries,
                retry_status=self._retries,
                retry_connect=min(self._retries, _UNANSWERED),
                retry_read=min(self._retries, _UNANSWERED),
            ),
        )

    def _before_a_try(self, _: object) -> None:
        if self._beat is not None:
            self._beat()

    @contextmanager
    def errors(self, what: str, missing: ErrorKind = ErrorKind.STORE_OBJECT_MISSING) -> Iterator[None]:
        """Translate what the SDK raises inside; `missing` is the kind that a 404 stands for."""
        try:
            with store_errors(f"{self.name}: {what}", missing):
                yield
        except DeltaferryError as error:
            if error.kind is ErrorKind.STORE_ACCESS_DENIED:
                self._forget_client()
            raise

    def _forget_client(self) -> None:
        """Let the next use read the credential again. The old client is not closed: other threads may be using it."""
        with self._lock:
            self._client = None
            self._delegation = None

    def close(self) -> None:
        """Close the client's connections; a later use opens new ones."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def access(self, container: str, *, write: bool, lifetime: timedelta) -> BlobAccess:
        """Return a container's URL with a signature for reading and listing, and for creating and writing if `write`.

        Signed with the account key where one is configured, else with a user delegation key of the identity.
        """
        now = datetime.now(UTC)
        start, expiry = now - CLOCK_SKEW, now + lifetime
        permission = ContainerSasPermissions(read=True, list=True, create=write, write=write)
        protocol = "https" if self._is_tls else "https,http"
        with self.errors(f"signing access to {container}"):
            if isinstance(self._credential, AccountKey):
                query = generate_container_sas(
                    self.name,
                    container,
                    account_key=self._credential.read().strip(),
                    permission=permission,
                    start=start,
                    expiry=expiry,
                    protocol=protocol,
                )
            else:
                query = generate_container_sas(
                    self.name,
                    container,
                    user_delegation_key=self._delegation_key(start, expiry),
                    permission=permission,
                    start=start,
                    expiry=expiry,
                    protocol=protocol,
                )
        return BlobAccess(url=f"{self.url}/{container}", query=query, ca_file=self._ca_file)

    def _delegation_key(self, start: datetime, expiry: datetime) -> UserDelegationKey:
        """Return a user delegation key that outlives `expiry`: the last one where it does, else a new one."""
        with self._lock:
            kept = self._delegation
        if kept is not None and kept[1] >= expiry:
            return kept[0]
        until = min(expiry + timedelta(hours=1), start + MAX_DELEGATION)
        key = self.client.get_user_delegation_key(start, until)
        with self._lock:
            self._delegation = (key, until)
        return key
