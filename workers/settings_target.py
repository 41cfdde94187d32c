"""The tables under [targets.NAME]: where in Azure replicas and migrated VMs go, and with which credentials and keys."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from workers.secrets import SecretRef, is_reference
from workers.settings_types import STRICT, AbsolutePath, HttpsUrl, KeyFile, Secret, Url, Word, refused


@dataclass(frozen=True, slots=True)
class DefaultCredential:
    """Azure's own chain: managed identity, workload identity, environment, CLI."""

    __pydantic_config__ = STRICT

    kind: Literal["default"] = "default"


@dataclass(frozen=True, slots=True)
class ClientSecretCredential:
    """A service principal."""

    __pydantic_config__ = STRICT

    kind: Literal["client-secret"]
    tenant: Word
    client: Word
    secret: Secret
    authority: HttpsUrl | None = None
    """The sign-in endpoint of a cloud other than the public one."""


@dataclass(frozen=True, slots=True)
class TokenCredential:
    """A bearer token that somebody else renews."""

    __pydantic_config__ = STRICT

    kind: Literal["token"]
    token: Secret


Credential = Annotated[DefaultCredential | ClientSecretCredential | TokenCredential, Field(discriminator="kind")]


@dataclass(frozen=True, slots=True)
class AccountSettings:
    """One storage account: log, gateway or seed."""

    __pydantic_config__ = STRICT

    url: Url
    account: Word
    key: Secret | None = None
    """The account key; the target's credential is used where left out."""
    ca_file: AbsolutePath | None = None
    resource_id: Word | None = None
    """The account's Azure resource id; disk import needs the seed account's."""
    allow_plain_http: bool = False

    def __post_init__(self) -> None:
        """Refuse plain HTTP unless the configuration says so in so many words (spec §5)."""
        if self.url.startswith("http:") and not self.allow_plain_http:
            raise refused(
                "has an http:// url: write https://, or add allow_plain_http = true if nothing in between needs protection"
            )


@dataclass(frozen=True, slots=True)
class LocalFileKeys:
    """Data keys are wrapped by a key in a local file: for the lab."""

    __pydantic_config__ = STRICT

    kind: Literal["local-file"]
    file: KeyFile

    def path(self, environ: Mapping[str, str] | None = None) -> Path:
        """Return the key file's path; with `env:NAME` the one that the variable holds now. Raises BAD_CONFIGURATION."""
        if not is_reference(self.file):
            return Path(self.file).expanduser()
        return Path(SecretRef(self.file).read(environ)).expanduser()


@dataclass(frozen=True, slots=True)
class KeyVaultKeys:
    """Data keys are wrapped by a Key Vault key."""

    __pydantic_config__ = STRICT

    kind: Literal["key-vault"]
    key_id: HttpsUrl
    """`https://<vault>/keys/<name>[/<version>]`."""


@dataclass(frozen=True, slots=True)
class TargetSettings:
    """Where in Azure replicas and migrated VMs go, and the defaults of their properties."""

    __pydantic_config__ = STRICT

    subscription: Word
    resource_group: Word
    location: Word
    network: Word
    subnet: Word
    vm_size: Word
    log: AccountSettings
    gateway: AccountSettings
    seed: AccountSettings
    keys: Annotated[LocalFileKeys | KeyVaultKeys, Field(discriminator="kind")]
    disk_sku: Word = "Premium_LRS"
    arm_endpoint: HttpsUrl = "https://management.azure.com"
    ca_file: AbsolutePath | None = None
    credential: Credential = field(default_factory=DefaultCredential)

    def __post_init__(self) -> None:
        """Check what concerns several keys."""
        if self.seed.resource_id is None:
            raise refused('has no resource_id in its table seed, which disk import needs: write resource_id = "/subscriptions/…"')
