"""Clients of the token-guarded control ports: faults to order, and what was observed."""

import http.client
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import cast

from lab.processes import LabError


class ControlClient:
    """JSON over HTTP to a control port on the loopback interface, with a bearer token. Its repr hides the token."""

    def __init__(self, port: int, token: str) -> None:
        self.port = port
        self._token = token

    def __repr__(self) -> str:
        """Show the port only."""
        return f"<{type(self).__name__} port={self.port}>"

    def call(self, method: str, path: str, body: object = None) -> Mapping[str, object]:
        """Send a request and return its JSON object. Raises LabError unless it is answered with 2xx."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            content = None if body is None else json.dumps(body)
            headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
            connection.request(method, path, content, headers)
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        if not 200 <= response.status < 300:
            raise LabError(f"The control port refused {method} {path} with {response.status}: {answer.decode(errors='replace')}")
        return cast("Mapping[str, object]", json.loads(answer) if answer else {})


class BlobAction(StrEnum):
    """What a request to the blob service meets."""

    UNAVAILABLE = "unavailable"
    """503 with Retry-After, no effect."""
    ERROR = "error"
    """500, no effect."""
    CUT = "cut"
    """Connection cut, no effect."""
    DROP = "drop"
    """Carried out; then the connection is cut instead of a response."""
    DELAY = "delay"
    """Carried out after `delay_s`."""
    HOLD = "hold"
    """Carried out once the faults are cleared."""
    ANSWER = "answer"
    """The error `status` with `code` instead of being carried out, or after it with `after_effect`."""


@dataclass(frozen=True, slots=True)
class BlobFault:
    """What the next `count` requests that match meet, after `skip` that do not. None matches everything."""

    action: BlobAction
    operation: str | None = None
    """In the words of the Blob service's REST API without spaces: PutBlob, GetBlob, PutPage, ClearPages, CopyBlob, …"""
    method: str | None = None
    account: str | None = None
    path_contains: str = ""
    skip: int = 0
    count: int = 1
    retry_after_s: int = 0
    delay_s: float = 0.0
    status: int = 0
    code: str = ""
    after_effect: bool = False


@dataclass(frozen=True, slots=True)
class BlobRequest:
    """One request that the front saw, in the order of being answered. `status` is 0 where the connection was cut."""

    number: int
    operation: str
    account: str
    container: str
    blob: str
    status: int
    bytes_in: int
    if_sequence_number_eq: str | None
    seconds: float
    """How long it took to answer; of a CopyBlob, how long the copy took."""


class BlobControl(ControlClient):
    """The control port of the front before Azurite."""

    def order(self, fault: BlobFault) -> None:
        """Order a fault."""
        self.call("POST", "/faults", asdict(fault))

    def clear_faults(self) -> None:
        """Forget all faults, and let held requests go on."""
        self.call("DELETE", "/faults")

    def held(self) -> int:
        """Return how many requests are being held."""
        return cast("int", self.call("GET", "/faults")["held"])

    def counts(self) -> Mapping[str, Mapping[int, int]]:
        """Return for each operation how many requests were answered with each status."""
        counters = cast("Mapping[str, Mapping[str, Mapping[str, int]]]", self.call("GET", "/counters"))
        return {name: {int(status): n for status, n in entry["statuses"].items()} for name, entry in counters.items()}

    def count(self, operation: str, status: int | None = None) -> int:
        """Return how many requests of an operation were answered, with one status or at all."""
        statuses = self.counts().get(operation, {})
        return sum(statuses.values()) if status is None else statuses.get(status, 0)

    def bytes_in(self, operation: str) -> int:
        """Return how many body bytes the requests of an operation carried."""
        counters = cast("Mapping[str, Mapping[str, int]]", self.call("GET", "/counters"))
        return counters[operation]["bytes_in"] if operation in counters else 0

    def reset_counts(self) -> None:
        """Begin counting anew."""
        self.call("POST", "/counters/reset")

    def requests(self, since: int = 0) -> tuple[BlobRequest, ...]:
        """Return the requests after number `since`, at most the last 50,000."""
        entries = cast("list[dict[str, object]]", self.call("GET", f"/requests?since={since}")["requests"])
        return tuple(BlobRequest(**entry) for entry in entries)  # type: ignore[arg-type]
