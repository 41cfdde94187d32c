"""A request and its reply, as they pass between the HTTP server and the providers."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from lab.arm.errors import ArmError, Json
from lab.arm.resource_ids import ResourceId


@dataclass(frozen=True, slots=True)
class Call:
    """One request. Header names are in lower case; query names as they came."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    base_url: str

    @property
    def api_version(self) -> str:
        """The api-version that the client asked for; any is accepted, none is not."""
        for name, value in self.query.items():
            if name.lower() == "api-version" and value:
                return value
        raise ArmError(
            400, "MissingApiVersionParameter", "The api-version query parameter (?api-version=) is required for all requests."
        )

    def json(self) -> Json:
        """Return the body as a JSON object. Raises InvalidRequestContent."""
        try:
            parsed = json.loads(self.body or b"{}")
        except ValueError as error:
            raise ArmError(
                400, "InvalidRequestContent", "The request content was invalid and could not be deserialized."
            ) from error
        if not isinstance(parsed, dict):
            raise ArmError(400, "InvalidRequestContent", "The request content is not a JSON object.")
        return parsed


@dataclass(frozen=True, slots=True)
class Reply:
    """What is sent back: a JSON object, raw bytes, or nothing."""

    status: int
    body: Json | bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class Provider(Protocol):
    """What serves one resource type. Every method is called with the world's lock held."""

    type: str
    """`Microsoft.Compute/disks`."""

    def put(self, resource_id: ResourceId, body: Json, call: Call) -> Reply:
        """Create or update."""

    def patch(self, resource_id: ResourceId, body: Json, call: Call) -> Reply:
        """Update what is given."""

    def delete(self, resource_id: ResourceId, call: Call) -> Reply:
        """Delete; 204 if there is nothing."""

    def action(self, resource_id: ResourceId, name: str, body: Json, call: Call) -> Reply:
        """Carry out a POST, or a GET below the resource such as `instanceView`; `name` is in lower case."""
