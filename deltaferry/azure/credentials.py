"""Credentials for Azure: secrets come from callables, are read when they are needed, and never show in a repr.

`CheckedCredential` stands between every SDK client and its identity, so that a refused log-in is told apart from a
service that refused a token.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from azure.core.credentials import AccessToken, TokenCredential
from azure.core.exceptions import AzureError, ClientAuthenticationError
from azure.identity import ClientSecretCredential

from deltaferry.azure.errors import identity_error

STATIC_TOKEN_LIFETIME = timedelta(minutes=5)
"""For how long the SDK may keep a static token before it asks the callable again."""


@dataclass(frozen=True, slots=True)
class AccountKey:
    """A storage account's shared key, base64 as Azure shows it; `read` is called for each new client."""

    read: Callable[[], str] = field(repr=False)


class StaticToken:
    """A TokenCredential whose token comes from a callable: the lab's, or one that another program renews in a file."""

    def __init__(self, read: Callable[[], str]) -> None:
        self._read = read

    def get_token(
        self, *scopes: str, claims: str | None = None, tenant_id: str | None = None, enable_cae: bool = False, **_: Any
    ) -> AccessToken:
        """Return the callable's token, to be asked for again after `STATIC_TOKEN_LIFETIME`."""
        return AccessToken(self._read(), int(time.time() + STATIC_TOKEN_LIFETIME.total_seconds()))


class ServicePrincipal:
    """A TokenCredential of an app registration; its secret is read again after a refused log-in, so it can be rotated.

    `private_authority` says that `authority` is not one of Azure's public ones, such as an Azure Stack Hub's, so that
    Microsoft is not asked about it.
    """

    def __init__(
        self,
        tenant_id: str,
        client_id: str,
        secret: Callable[[], str],
        *,
        authority: str | None = None,
        ca_file: str | None = None,
        private_authority: bool = False,
        retries: int = 3,
    ) -> None:
        self._tenant_id = tenant_id
        self._client_id = client_id
        self._secret = secret
        self._options: dict[str, Any] = {"connection_verify": ca_file or True, "retry_total": retries}
        if authority is not None:
            self._options["authority"] = authority
        if private_authority:
            self._options["disable_instance_discovery"] = True
        self._lock = threading.Lock()
        self._credential: ClientSecretCredential | None = None

    def get_token(
        self, *scopes: str, claims: str | None = None, tenant_id: str | None = None, enable_cae: bool = False, **kwargs: Any
    ) -> AccessToken:
        """Return a token of the app registration. Raises azure-core's ClientAuthenticationError."""
        with self._lock:
            credential = self._credential
            if credential is None:
                credential = ClientSecretCredential(self._tenant_id, self._client_id, self._secret(), **self._options)
                self._credential = credential
        try:
            return credential.get_token(*scopes, claims=claims, tenant_id=tenant_id, enable_cae=enable_cae, **kwargs)
        except ClientAuthenticationError:
            with self._lock:
                if self._credential is credential:
                    self._credential = None
            raise


class CheckedCredential:
    """Passes another credential's tokens on, and its failures as AZURE_LOGIN_REJECTED or AZURE_UNREACHABLE."""

    def __init__(self, inner: TokenCredential) -> None:
        self._inner = inner

    def get_token(
        self, *scopes: str, claims: str | None = None, tenant_id: str | None = None, enable_cae: bool = False, **kwargs: Any
    ) -> AccessToken:
        """Return the inner credential's token. Raises AZURE_LOGIN_REJECTED, AZURE_UNREACHABLE."""
        if enable_cae:
            kwargs["enable_cae"] = True
        if claims is not None:
            kwargs["claims"] = claims
        if tenant_id is not None:
            kwargs["tenant_id"] = tenant_id
        try:
            return self._inner.get_token(*scopes, **kwargs)
        except AzureError as error:
            raise identity_error(error, f"logging in for {', '.join(scopes)}") from None
