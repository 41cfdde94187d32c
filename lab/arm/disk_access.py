"""Shared access signatures for disks and snapshots: beginGetAccess and endGetAccess.

A disk made for upload can be written through one signature, once in its life: ReadyToUpload, ActiveUpload, and after
endGetAccess Unattached. Other disks and snapshots can be read while no running VM has them.
"""

import secrets
import time
import uuid
from dataclasses import dataclass
from urllib.parse import urlencode

from lab.arm.calls import Call, Reply
from lab.arm.disk_content import Content, DiskContent
from lab.arm.errors import ArmError, Json, bad_parameter, not_allowed
from lab.arm.operations import Operations
from lab.arm.vhd import FOOTER_BYTES, build_footer, check_footer
from lab.arm.world import Resource, World

_API_VERSION = "2018-03-28"


@dataclass(frozen=True, slots=True)
class Grant:
    """What one signature gives access to."""

    path: str
    resource_key: str
    signature: str
    writable: bool
    expires_at: float
    content: Content
    size_bytes: int
    incremental: bool
    """Whether it shows an incremental snapshot."""
    footer: bytes
    """The VHD footer that follows the content's bytes; empty for an upload, whose content holds it."""

    @property
    def blob_bytes(self) -> int:
        """The size of the page blob that the signature shows."""
        return self.size_bytes + FOOTER_BYTES


class DiskAccess:
    """Grants, looks up and revokes signatures. Called with the world's lock held, but for `find`."""

    def __init__(self, world: World, operations: Operations) -> None:
        self._world, self._operations = world, operations
        self._grants: dict[str, dict[str, Grant]] = {}

    def find(self, path: str, signature: str) -> Grant | None:
        """Return the valid grant for a URL path and signature, or None."""
        grant = self._grants.get(path, {}).get(signature)
        return grant if grant is not None and time.time() < grant.expires_at else None

    def known(self, path: str) -> bool:
        """Return whether a URL path belongs to a disk or snapshot."""
        return path in self._grants

    def begin(self, resource: Resource, body: Json, call: Call) -> Reply:
        """Serve beginGetAccess."""
        level, seconds = str(body.get("access", "")), body.get("durationInSeconds")
        if level not in {"Read", "Write"}:
            raise bad_parameter(f"The value '{level}' of parameter 'access' is invalid.", "access")
        if not isinstance(seconds, int) or seconds < 1:
            raise bad_parameter("The value of parameter 'durationInSeconds' is invalid.", "durationInSeconds")
        state = resource.properties.get("diskState")
        if resource.content is None or resource.properties["provisioningState"] != "Succeeded":
            raise not_allowed(f"Access is not permitted because {resource.id.leaf} is not ready.")
        self._check_state(resource, level, state)
        self._check_family(resource)
        unique = uuid.UUID(resource.properties["uniqueId"])
        path = f"/md-{unique.hex[:12]}/{unique.hex[12:24]}/abcd"
        size = resource.properties["diskSizeBytes"]
        grant = Grant(
            path, resource.id.key, secrets.token_urlsafe(32), level == "Write", time.time() + seconds, resource.content, size,
            bool(resource.properties.get("incremental")), b"" if level == "Write" else build_footer(size, unique),
        )  # fmt: skip
        query = urlencode(
            {
                "sv": _API_VERSION,
                "sr": "b",
                "sp": "rw" if grant.writable else "r",
                "se": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(grant.expires_at)),
                "sig": grant.signature,
            }
        )

        def commit() -> Json:
            self._grants.setdefault(path, {})[grant.signature] = grant
            resource.properties["diskState"] = "ActiveUpload" if grant.writable else "ActiveSAS"
            return {"accessSAS": f"{call.base_url}{path}?{query}"}

        kind = resource.id.kind
        operation = self._operations.start(f"{kind}.grant", resource.id.key, resource.body["location"], commit=commit)
        return self._operations.accepted(call, operation)

    def end(self, resource: Resource, call: Call) -> Reply:
        """Serve endGetAccess: all signatures of the disk end; an upload is checked and becomes a disk."""

        def commit() -> None:
            state = resource.properties.get("diskState")
            if state == "ActiveUpload":
                self._finish_upload(resource)
            for grants in self._grants.values():
                for signature in [one.signature for one in grants.values() if one.resource_key == resource.id.key]:
                    del grants[signature]
            if state in {"ActiveUpload", "ActiveSAS"}:
                resource.properties["diskState"] = "Reserved" if resource.body.get("managedBy") else "Unattached"

        kind = resource.id.kind
        operation = self._operations.start(f"{kind}.revoke", resource.id.key, resource.body["location"], commit=commit)
        return self._operations.accepted(call, operation)

    def _check_family(self, resource: Resource) -> None:
        """Refuse a signature for one more snapshot of a family than may have one. Its code is not published: Compute's usual one."""
        family = resource.properties.get("incrementalSnapshotFamilyId")
        if family is None:
            return
        now, most = time.time(), self._world.limits.signatures_per_family
        granted = {one.resource_key for grants in self._grants.values() for one in grants.values() if one.expires_at > now}
        others = {
            one.id.key
            for one in self._world.of_kind("snapshots")
            if one.id.key in granted and one.properties.get("incrementalSnapshotFamilyId") == family
        } - {resource.id.key}
        if len(others) >= most:
            raise not_allowed(
                f"Access to snapshot {resource.id.leaf} is not permitted: {len(others)} incremental snapshots of its family have "
                f"an active shared access signature, and the maximum is {most}. Call EndGetAccess on one of them first."
            )

    @staticmethod
    def _check_state(resource: Resource, level: str, state: str | None) -> None:
        name = resource.id.leaf
        if level == "Write":
            if state not in {"ReadyToUpload", "ActiveUpload"}:
                raise not_allowed(
                    f"Write access is only permitted for a disk that was created for upload; {name} is in state {state}."
                )
        elif state == "Attached":
            raise ArmError(
                409,
                "Conflict",
                f"Access not permitted because disk {name} is currently attached to running VM {resource.body.get('managedBy')}.",
            )
        elif state in {"ReadyToUpload", "ActiveUpload"}:
            raise not_allowed(f"Read access is not permitted because {name} is in state {state}.")

    @staticmethod
    def _finish_upload(resource: Resource) -> None:
        content, size = resource.content, resource.properties["diskSizeBytes"]
        if not isinstance(content, DiskContent):
            raise AssertionError("only a disk is uploaded")
        check_footer(content.read(size, size + FOOTER_BYTES), size + FOOTER_BYTES, resource.id.leaf)
        content.resize(size)
