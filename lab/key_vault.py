"""A small Key Vault with its log-in endpoint: real TLS and real RSA keys, for tests of the key adapter and the identity.

It serves what Deltaferry uses: get key, wrapKey and unwrapKey, after Key Vault's challenge; and the token endpoint of one
tenant with its OpenID configuration. Source: Key Vault REST reference; Microsoft identity platform, client credentials.
"""

import hmac
import json
import secrets
import socket
import ssl
import threading
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from lab.certificates import Certificates

TENANT = "00000000-0000-0000-0000-0000000000aa"
KEY_NAME = "df"
_OAEP = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request meets instead of being carried out; with `status` 0 its connection is closed."""

    status: int
    code: str = ""
    retry_after_s: int = 0


VAULT_FAULTS: Mapping[str, Answer] = {
    "vault-throttled": Answer(429, "Throttled", 7),
    "vault-failed": Answer(503, "ServiceUnavailable"),
    "vault-no-answer": Answer(0),
    "vault-token-refused": Answer(401, "Unauthorized"),
    "vault-forbidden": Answer(403, "Forbidden"),
    "key-not-found": Answer(404, "KeyNotFound"),
    "vault-other": Answer(409, "Conflict"),
}
"""The faults of Key Vault's fault table, by the names of its rows; met by wrapKey and unwrapKey."""

LOGIN_FAULTS: Mapping[str, Answer] = {
    "login-refused": Answer(401, "invalid_client"),
    "login-failed": Answer(503, "temporarily_unavailable"),
    "login-no-answer": Answer(0),
}
"""The faults of the identity's fault table; met by the token endpoint."""


class KeyVault:
    """One vault with one RSA key in several versions, and one tenant with one application. Stop it after use."""

    def __init__(self, certificates: Certificates) -> None:
        self._lock = threading.Lock()
        self._versions: dict[str, rsa.RSAPrivateKey] = {}
        self._asked: list[Answer] = []
        self._asked_of_login: list[Answer] = []
        self.tokens_issued = 0
        self.client_secret = secrets.token_urlsafe(16)
        self.ca_file = str(certificates.ca_file)
        self.rotate("a1")
        self._server = _Server(self, certificates)
        self.url = f"https://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    @property
    def key_url(self) -> str:
        """The key's URL without a version."""
        return f"{self.url}/keys/{KEY_NAME}"

    def stop(self) -> None:
        """Close the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def rotate(self, version: str) -> None:
        """Make a new version of the key."""
        key = rsa.generate_private_key(65537, 2048)
        with self._lock:
            self._versions[version] = key

    def ask_named(self, name: str, count: int = 1) -> None:
        """Ask for the fault of a row, so many times. Raises KeyError."""
        with self._lock:
            if name in VAULT_FAULTS:
                self._asked += [VAULT_FAULTS[name]] * count
            else:
                self._asked_of_login += [LOGIN_FAULTS[name]] * count

    def clear_faults(self) -> None:
        """Forget all faults."""
        with self._lock:
            self._asked.clear()
            self._asked_of_login.clear()

    # --- what the handler asks

    def take(self, *, login: bool) -> Answer | None:
        """Use up and return what a request meets, or None."""
        with self._lock:
            asked = self._asked_of_login if login else self._asked
            return asked.pop(0) if asked else None

    def version(self, name: str) -> tuple[str, rsa.RSAPrivateKey] | None:
        """Return a version of the key, the newest for an empty name, or None."""
        with self._lock:
            chosen = name or list(self._versions)[-1]
            key = self._versions.get(chosen)
        return None if key is None else (chosen, key)

    def token(self, client_secret: str) -> str | None:
        """Return a token for the application's secret, or None for a wrong one."""
        if not hmac.compare_digest(client_secret.encode(), self.client_secret.encode()):
            return None
        with self._lock:
            self.tokens_issued += 1
            return f"token-{self.tokens_issued}"


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, vault: KeyVault, certificates: Certificates) -> None:
        self.vault = vault
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(certificates.certificate_file, certificates.key_file)
        super().__init__(("127.0.0.1", 0), _Handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Shake hands on the connection's own thread, and serve it."""
        with self._tls.wrap_socket(request, server_side=True) as encrypted:
            super().finish_request(encrypted, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that leave are no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Answer a GET."""
        self._serve(b"")

    def do_POST(self) -> None:
        """Answer a POST."""
        self._serve(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged: requests carry secrets."""

    @property
    def _vault(self) -> KeyVault:
        if not isinstance(self.server, _Server):
            raise TypeError("the handler belongs to KeyVault")
        return self.server.vault

    def _serve(self, body: bytes) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[0] == TENANT:
            self._log_in(parts[-1], body)
        elif not self.headers.get("Authorization"):
            challenge = f'Bearer authorization="{self._vault.url}/{TENANT}", resource="{self._vault.url}"'
            self._send(401, {"error": {"code": "Unauthorized"}}, {"WWW-Authenticate": challenge})
        elif parts[:2] == ["keys", KEY_NAME]:
            self._key(parts[2] if len(parts) > 2 else "", parts[3] if len(parts) > 3 else "", body)
        else:
            self._send(404, {"error": {"code": "KeyNotFound"}})

    def _key(self, name: str, operation: str, body: bytes) -> None:
        answer = self._vault.take(login=False) if operation else None
        if answer is not None:
            self._refuse(answer, {"error": {"code": answer.code, "message": "Refused on request of the lab."}})
            return
        found = self._vault.version(name)
        if found is None:
            self._send(404, {"error": {"code": "KeyNotFound"}})
            return
        version, key = found
        kid = f"{self._vault.key_url}/{version}"
        if not operation:
            numbers = key.public_key().public_numbers()
            jwk = {"kid": kid, "kty": "RSA", "key_ops": ["wrapKey", "unwrapKey"], "n": _b64(numbers.n), "e": _b64(numbers.e)}
            self._send(200, {"key": jwk, "attributes": {"enabled": True}})
            return
        value = _bytes(json.loads(body)["value"])
        done = key.public_key().encrypt(value, _OAEP) if operation.lower() == "wrapkey" else key.decrypt(value, _OAEP)
        self._send(200, {"kid": kid, "value": urlsafe_b64encode(done).rstrip(b"=").decode()})

    def _log_in(self, what: str, body: bytes) -> None:
        base = f"{self._vault.url}/{TENANT}"
        if what == "openid-configuration":
            self._send(
                200,
                {
                    "issuer": f"{base}/v2.0",
                    "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
                    "token_endpoint": f"{base}/oauth2/v2.0/token",
                },
            )
            return
        answer = self._vault.take(login=True)
        secret = parse_qs(body.decode()).get("client_secret", [""])[0]
        token = None if answer is not None else self._vault.token(secret)
        if token is None:
            refusal = answer or LOGIN_FAULTS["login-refused"]
            described = "AADSTS7000215: Invalid client secret provided."
            self._refuse(refusal, {"error": refusal.code, "error_description": described, "error_codes": [7000215]})
            return
        self._send(200, {"token_type": "Bearer", "expires_in": 3600, "access_token": token})

    def _refuse(self, answer: Answer, document: dict[str, object]) -> None:
        if answer.status == 0:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self._send(answer.status, document, {"Retry-After": str(answer.retry_after_s)} if answer.retry_after_s else {})

    def _send(self, status: int, document: dict[str, object], headers: Mapping[str, str] | None = None) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def _b64(number: int) -> str:
    return urlsafe_b64encode(number.to_bytes((number.bit_length() + 7) // 8, "big")).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
