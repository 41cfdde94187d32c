"""Wrapping keys: a key in Azure Key Vault, or a local file in the lab.

The wrapped form is JSON with exactly the fields of `_Wrapped`: `kind` and `key` say who can unwrap it, `version` which
version of that key did, `algorithm` how, `data` is base64. So a rotated key still unwraps what its older version wrapped.
"""

import base64
import binascii
import hmac
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from azure.core.credentials import TokenCredential
from azure.core.exceptions import AzureError
from azure.keyvault.keys import KeyClient
from azure.keyvault.keys.crypto import CryptographyClient, KeyWrapAlgorithm
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from deltaferry.azure.credentials import CheckedCredential
from deltaferry.azure.errors import vault_error
from deltaferry.model.errors import DeltaferryError, ErrorKind

_KEY_BYTES = 32
_NONCE_BYTES = 12
_LOCAL_VERSION = "1"


@dataclass(frozen=True, slots=True)
class _Wrapped:
    """A wrapped data key and who can unwrap it."""

    kind: str
    key: str
    version: str
    algorithm: str
    data: bytes = field(repr=False)

    def encode(self) -> bytes:
        """Return the stored form."""
        fields = asdict(self) | {"data": base64.b64encode(self.data).decode("ascii")}
        return json.dumps(fields, sort_keys=True).encode("utf-8")

    @classmethod
    def decode(cls, stored: bytes) -> "_Wrapped":
        """Return what `encode` stored. Raises KEY_UNAVAILABLE."""
        try:
            fields = json.loads(stored)
            kind, key, version, algorithm = (fields[name] for name in ("kind", "key", "version", "algorithm"))
            if not all(isinstance(text, str) for text in (kind, key, version, algorithm)):
                raise TypeError
            return cls(kind, key, version, algorithm, base64.b64decode(fields["data"], validate=True))
        except (ValueError, KeyError, TypeError, binascii.Error):
            raise DeltaferryError(ErrorKind.KEY_UNAVAILABLE, "the stored data key is not a wrapped key") from None

    def header(self) -> bytes:
        """Return what authenticates along with a locally wrapped key."""
        return json.dumps([self.kind, self.key, self.version, self.algorithm]).encode("utf-8")


class LocalKeyFile:
    """`KeyWrapper` with AES-256-GCM under the 32 bytes of a local file: for the lab, or where no Key Vault is at hand.

    The file is read at each use, so that it can be mounted later. Raises BAD_CONFIGURATION for a file that others can
    read or that has another length, KEY_UNAVAILABLE where it is missing.
    """

    KIND = "local-file"
    ALGORITHM = "A256GCM"

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def generate(cls, path: Path) -> "LocalKeyFile":
        """Write a new random key to a new file that only its owner can read. Raises FileExistsError."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(os.urandom(_KEY_BYTES))
        return cls(path)

    def wrap(self, data_key: bytes) -> bytes:
        """Return the data key under the file's key, with that key's id."""
        key = self._read()
        blank = _Wrapped(self.KIND, _fingerprint(key), _LOCAL_VERSION, self.ALGORITHM, b"")
        nonce = os.urandom(_NONCE_BYTES)
        sealed = AESGCM(key).encrypt(nonce, data_key, blank.header())
        return _Wrapped(blank.kind, blank.key, blank.version, blank.algorithm, nonce + sealed).encode()

    def unwrap(self, wrapped: bytes) -> bytes:
        """Return the data key. Raises KEY_UNAVAILABLE."""
        stored = _Wrapped.decode(wrapped)
        _require_kind(stored, self.KIND)
        key = self._read()
        if stored.key != _fingerprint(key):
            raise DeltaferryError(
                ErrorKind.KEY_UNAVAILABLE,
                f"the data key was wrapped by local key {stored.key}, {self._path} holds {_fingerprint(key)}",
            )
        try:
            return AESGCM(key).decrypt(stored.data[:_NONCE_BYTES], stored.data[_NONCE_BYTES:], stored.header())
        except (InvalidTag, ValueError):
            raise DeltaferryError(ErrorKind.KEY_UNAVAILABLE, f"local key {stored.key} does not open the data key") from None

    def _read(self) -> bytes:
        try:
            with self._path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                if mode & stat.S_IRWXO:
                    raise DeltaferryError(
                        ErrorKind.BAD_CONFIGURATION,
                        f"every user of this machine can open the key file {self._path}: run chmod o= on it",
                    )
                key = file.read(_KEY_BYTES + 1)
        except OSError as error:
            raise DeltaferryError(ErrorKind.KEY_UNAVAILABLE, f"key file {self._path}: {error.strerror}") from None
        if len(key) != _KEY_BYTES:
            raise DeltaferryError(ErrorKind.BAD_CONFIGURATION, f"key file {self._path} must hold exactly {_KEY_BYTES} bytes")
        return key


def _fingerprint(key: bytes) -> str:
    """Return an id by which a key is known again and that tells nothing of it."""
    return hmac.digest(key, b"deltaferry local key id", "sha256")[:8].hex()


class VaultKey:
    """`KeyWrapper` with RSA-OAEP-256 under an RSA key of Azure Key Vault (or Managed HSM); wraps with its newest version.

    A key that cannot be had is KEY_UNAVAILABLE, a vault that does not answer or throttles KEY_VAULT_UNREACHABLE, a refused
    log-in AZURE_LOGIN_REJECTED.
    `verify_challenge=False` is for a vault outside Azure's domains, whose challenge names another resource.
    `key_url` is `https://<vault>/keys/<name>`, or with `/<version>` to pin one. Permissions: keys/get, wrapKey, unwrapKey.
    """

    KIND = "azure-key-vault"

    def __init__(
        self,
        key_url: str,
        credential: TokenCredential,
        *,
        ca_file: str | None = None,
        verify_challenge: bool = True,
        retries: int = 3,
    ) -> None:
        parts = urlsplit(key_url)
        path = parts.path.strip("/").split("/")
        if parts.scheme != "https" or not parts.netloc or len(path) not in (2, 3) or path[0] != "keys":
            raise DeltaferryError(
                ErrorKind.BAD_CONFIGURATION, f"{key_url} is not a Key Vault key: write https://<vault>/keys/<name>"
            )
        self._vault_url = f"https://{parts.netloc}"
        self._key = f"{self._vault_url}/keys/{path[1]}"
        self._name = path[1]
        self._version = path[2] if len(path) == 3 else None
        self._credential = CheckedCredential(credential)
        self._verify_challenge = verify_challenge
        self._options: dict[str, object] = {"connection_verify": ca_file or True, "retry_total": retries}

    def wrap(self, data_key: bytes) -> bytes:
        """Return the data key under the vault's key, with the key's URL and version. Raises KEY_UNAVAILABLE."""
        with _vault_errors(f"wrapping with {self._key}"):
            client = KeyClient(
                self._vault_url, self._credential, verify_challenge_resource=self._verify_challenge, **self._options
            )
            with client:
                version = client.get_key(self._name, self._version).properties.version
            if not version:
                raise DeltaferryError(ErrorKind.KEY_UNAVAILABLE, f"{self._key} came without a version")
            with self._crypto(version) as crypto:
                result = crypto.wrap_key(KeyWrapAlgorithm.rsa_oaep_256, data_key)
        return _Wrapped(self.KIND, self._key, version, str(KeyWrapAlgorithm.rsa_oaep_256.value), result.encrypted_key).encode()

    def unwrap(self, wrapped: bytes) -> bytes:
        """Return the data key, unwrapped inside the vault by the version that wrapped it. Raises KEY_UNAVAILABLE."""
        stored = _Wrapped.decode(wrapped)
        _require_kind(stored, self.KIND)
        # Only the configured vault is ever asked: a forged reference must not make us send a token elsewhere.
        same_key = stored.key.lower() == self._key.lower() and stored.version.isalnum()
        if not same_key or stored.algorithm != KeyWrapAlgorithm.rsa_oaep_256.value:
            raise DeltaferryError(
                ErrorKind.KEY_UNAVAILABLE, f"the data key was wrapped by {stored.key}, this worker is configured for {self._key}"
            )
        with _vault_errors(f"unwrapping with {self._key}"), self._crypto(stored.version) as crypto:
            return crypto.unwrap_key(KeyWrapAlgorithm.rsa_oaep_256, stored.data).key

    def _crypto(self, version: str) -> CryptographyClient:
        return CryptographyClient(
            f"{self._key}/{version}",
            self._credential,
            verify_challenge_resource=self._verify_challenge,
            **self._options,
        )


def _require_kind(stored: _Wrapped, kind: str) -> None:
    if stored.kind != kind:
        raise DeltaferryError(
            ErrorKind.KEY_UNAVAILABLE,
            f"the data key was wrapped by a {stored.kind} key, this worker is configured for a {kind} key",
        )


@contextmanager
def _vault_errors(what: str) -> Iterator[None]:
    try:
        yield
    except AzureError as error:
        raise vault_error(error, what) from None
