"""What several ports share: how an activity says that it lives, and where something is reached."""

from collections.abc import Callable
from dataclasses import dataclass, field

Beat = Callable[[], None]


@dataclass(frozen=True, slots=True)
class NbdAddress:
    """Where an NBD server exports a snapshot's disk: a Unix socket, or host and port."""

    export: str
    unix_path: str | None = None
    host: str | None = None
    port: int | None = None


@dataclass(frozen=True, slots=True)
class BlobAccess:
    """What a data process needs to reach one container over plain HTTP: base URL, and a short-lived signature.

    `url` is `<scheme>://<host>[:port][/<account>]/<container>`; `query` is the SAS without `?`. Its repr hides the SAS.
    """

    url: str
    query: str = field(repr=False)
    ca_file: str | None = None


@dataclass(frozen=True, slots=True)
class SnapshotAccess:
    """Read access to a managed disk's snapshot, which Azure shows as a page blob: where it is, and its name there."""

    place: BlobAccess
    name: str

    @property
    def signed_url(self) -> str:
        """The URL with its signature: never for a log, an error or a repr."""
        return f"{self.place.url}/{self.name}?{self.place.query}"
