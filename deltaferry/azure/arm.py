"""Azure Resource Manager's clients, and how its long-running operations are waited for.

Retries inside the SDK are few and short: a longer Retry-After leaves as AZURE_THROTTLED and is Temporal's to wait for.
A poller runs in a thread of the SDK's; when the waiting activity is cancelled, that thread ends at its next pause and
the operation goes on in Azure, where the next attempt finds it by name and tags.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar

from azure.core.credentials import TokenCredential
from azure.core.pipeline import PipelineResponse
from azure.core.pipeline.policies import RetryPolicy
from azure.core.polling import LROPoller
from azure.mgmt.compute import ComputeManagementClient
from azure.mgmt.core.polling.arm_polling import ARMPolling
from azure.mgmt.network import NetworkManagementClient

from deltaferry.azure.credentials import CheckedCredential
from deltaferry.azure.errors import arm_errors
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.ports.access import Beat

T = TypeVar("T")

PUBLIC_CLOUD = "https://management.azure.com"

LONGEST_RETRY_AFTER_S = 5.0
"""A longer Retry-After of a refused request is not waited for in this process."""

_BEAT_S = 1.0
_SHORTEST_POLL_S = 0.1
"""The pause where a service says Retry-After: 0, which the SDK by itself takes for not given."""

_CONNECT_TIMEOUT_S = 10
_READ_TIMEOUT_S = 60
_FINAL = frozenset({"succeeded", "failed", "canceled"})


@dataclass(frozen=True, slots=True)
class ArmSettings:
    """One target: where its resources are made, and as whom."""

    subscription_id: str
    location: str
    credential: TokenCredential = field(repr=False)
    endpoint: str = PUBLIC_CLOUD
    scope: str | None = None
    """The token's scope; None means the endpoint's `/.default`."""
    ca_file: str | None = None
    poll_interval_s: float = 5.0
    """Between two looks at an operation, where the service does not say."""
    retries: int = 3


class _ShortRetry(RetryPolicy[Any, Any]):
    """azure-core's retries, except that a reply that asks for a long pause is returned at once."""

    def is_retry(self, settings: dict[str, Any], response: PipelineResponse[Any, Any]) -> bool:
        """Return whether a reply is worth a short pause and a repeat."""
        pause_s = self.get_retry_after(response)
        if pause_s is not None and pause_s > LONGEST_RETRY_AFTER_S:
            return False
        return bool(super().is_retry(settings, response))


class _Abandoned(Exception):
    """Ends a poller's thread that nobody waits for any more."""


class _Polling(ARMPolling):
    """ARM's polling with pauses that follow Retry-After, 0 included, and that end when the wait is given up."""

    def __init__(self, interval_s: float, given_up: threading.Event) -> None:
        super().__init__(timeout=interval_s)
        self._given_up = given_up

    def _extract_delay(self) -> float:
        stated = self._pipeline_response.http_response.headers.get("Retry-After")
        delay_s = float(super()._extract_delay())
        return _SHORTEST_POLL_S if stated is not None and stated.strip() in ("0", "0.0") else max(delay_s, _SHORTEST_POLL_S)

    def _sleep(self, delay: float) -> None:
        if self._given_up.wait(delay):
            raise _Abandoned


class ArmClients:
    """Compute and Network clients of one subscription. Safe to use from several threads."""

    def __init__(self, settings: ArmSettings) -> None:
        if not settings.endpoint.startswith("https://"):
            raise DeltaferryError(
                ErrorKind.BAD_CONFIGURATION, f"{settings.endpoint}: Azure Resource Manager is only used over https"
            )
        self.settings = settings
        endpoint = settings.endpoint.rstrip("/")
        credential = CheckedCredential(settings.credential)
        options: dict[str, Any] = {
            "base_url": endpoint,
            "credential_scopes": [settings.scope or f"{endpoint}/.default"],
            "connection_verify": settings.ca_file or True,
            "connection_timeout": _CONNECT_TIMEOUT_S,
            "read_timeout": _READ_TIMEOUT_S,
        }
        self.compute = ComputeManagementClient(credential, settings.subscription_id, retry_policy=self._retry(), **options)
        self.network = NetworkManagementClient(credential, settings.subscription_id, retry_policy=self._retry(), **options)

    def _retry(self) -> _ShortRetry:
        retries = self.settings.retries
        return _ShortRetry(
            retry_total=retries,
            retry_connect=retries,
            retry_read=retries,
            retry_status=retries,
            retry_backoff_max=LONGEST_RETRY_AFTER_S,
        )

    def close(self) -> None:
        """Close the clients' connections."""
        self.compute.close()
        self.network.close()

    def run(
        self,
        what: str,
        begin: Callable[[ARMPolling], LROPoller[T]],
        beat: Beat,
        here: Mapping[str, ErrorKind] = MappingProxyType({}),
    ) -> T:
        """Begin a long-running operation with the polling given to `begin`, wait for its end, and return its result.

        What `beat` raises ends the wait, not the operation. Raises the kinds of `arm_errors`; `here` as there.
        """
        given_up = threading.Event()
        try:
            with arm_errors(what, here):
                poller = begin(_Polling(self.settings.poll_interval_s, given_up))
                while not poller.done():
                    beat()
                    poller.wait(_BEAT_S)
                return poller.result()
        finally:
            given_up.set()

    def settled(self, read: Callable[[], T | None], state: Callable[[T], str | None], beat: Beat) -> T | None:
        """Return a resource once no operation of an earlier attempt is changing it, or None if there is none (any more)."""
        while True:
            resource = read()
            if resource is None or (state(resource) or "succeeded").lower() in _FINAL:
                return resource
            self.pause(beat)

    def pause(self, beat: Beat) -> None:
        """Wait for one polling interval."""
        until = time.monotonic() + self.settings.poll_interval_s
        beat()
        while (left_s := until - time.monotonic()) > 0:
            time.sleep(min(left_s, _BEAT_S))
            beat()


def carries(resource_tags: Mapping[str, str] | None, tags: Mapping[str, str]) -> bool:
    """Return whether a resource has all these tags. Azure ignores the case of a tag's name, not of its value."""
    present = {key.lower(): value for key, value in (resource_tags or {}).items()}
    return all(present.get(key.lower()) == value for key, value in tags.items())


def require_tags(what: str, resource_tags: Mapping[str, str] | None, tags: Mapping[str, str]) -> None:
    """Raise AZURE_CONFLICT unless a resource is this replication's own."""
    if not carries(resource_tags, tags):
        raise DeltaferryError(ErrorKind.AZURE_CONFLICT, f"{what} exists and does not carry this replication's tags")


def same_id(left: str | None, right: str | None) -> bool:
    """Return whether two resource ids name one resource: Azure ignores their case."""
    return (left or "").rstrip("/").lower() == (right or "").rstrip("/").lower()


def failed(state: str | None) -> bool:
    """Return whether a provisioning state says that a resource was not completed."""
    return (state or "").lower() in ("failed", "canceled")
