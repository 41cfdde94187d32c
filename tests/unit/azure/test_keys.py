"""Wrapping keys: the local file, and Key Vault's protocol against a small vault in this process with a real RSA key."""

import json
import os
import ssl
import threading
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from deltaferry.azure.credentials import StaticToken
from deltaferry.azure.keys import LocalKeyFile, VaultKey
from deltaferry.model.errors import DeltaferryError, ErrorKind
from lab.certificates import make_certificates
from lab.processes import free_ports

DATA_KEY = bytes(range(32))
TOKEN = "a-token-nobody-may-see"
OAEP = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)


def test_a_local_key_unwraps_what_it_wrapped_and_names_itself(tmp_path: Path) -> None:
    wrapper = LocalKeyFile.generate(tmp_path / "key")
    wrapped = wrapper.wrap(DATA_KEY)
    fields = json.loads(wrapped)
    assert (fields["kind"], fields["version"], len(fields["key"])) == ("local-file", "1", 16)
    assert LocalKeyFile(tmp_path / "key").unwrap(wrapped) == DATA_KEY
    assert DATA_KEY not in wrapped and wrapper.wrap(DATA_KEY) != wrapped


def test_another_local_key_does_not_unwrap(tmp_path: Path) -> None:
    wrapped = LocalKeyFile.generate(tmp_path / "one").wrap(DATA_KEY)
    with pytest.raises(DeltaferryError) as caught:
        LocalKeyFile.generate(tmp_path / "two").unwrap(wrapped)
    assert caught.value.kind is ErrorKind.KEY_UNAVAILABLE
    assert json.loads(wrapped)["key"] in caught.value.detail


@pytest.mark.parametrize("name", ["kind", "key", "version", "algorithm", "data"])
def test_a_wrapped_key_with_any_field_changed_is_refused(tmp_path: Path, name: str) -> None:
    wrapper = LocalKeyFile.generate(tmp_path / "key")
    fields = json.loads(wrapper.wrap(DATA_KEY))
    fields[name] = ("A" if fields[name][0] != "A" else "B") + fields[name][1:]
    with pytest.raises(DeltaferryError) as caught:
        wrapper.unwrap(json.dumps(fields).encode())
    assert caught.value.kind is ErrorKind.KEY_UNAVAILABLE


@pytest.mark.parametrize(
    "stored", [b"", b"\xff", b"[]", b"{}", b'{"kind": 1, "key": 2, "version": 3, "algorithm": 4, "data": ""}']
)
def test_what_is_not_a_wrapped_key_is_refused(tmp_path: Path, stored: bytes) -> None:
    with pytest.raises(DeltaferryError) as caught:
        LocalKeyFile.generate(tmp_path / "key").unwrap(stored)
    assert caught.value.kind is ErrorKind.KEY_UNAVAILABLE


def test_a_key_file_that_everybody_can_read_is_refused_with_a_sentence(tmp_path: Path) -> None:
    wrapper = LocalKeyFile.generate(tmp_path / "key")
    (tmp_path / "key").chmod(0o644)
    with pytest.raises(DeltaferryError, match="every user of this machine can open the key file") as caught:
        wrapper.wrap(DATA_KEY)
    assert caught.value.kind is ErrorKind.BAD_CONFIGURATION


def test_a_new_key_file_is_its_owners_alone_and_replaces_nothing(tmp_path: Path) -> None:
    LocalKeyFile.generate(tmp_path / "key")
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        LocalKeyFile.generate(tmp_path / "key")


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_key_file_of_another_length_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "key"
    path.touch(mode=0o600)
    path.write_bytes(os.urandom(size))
    with pytest.raises(DeltaferryError) as caught:
        LocalKeyFile(path).wrap(DATA_KEY)
    assert caught.value.kind is ErrorKind.BAD_CONFIGURATION


def test_a_missing_key_file_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(DeltaferryError) as caught:
        LocalKeyFile(tmp_path / "none").wrap(DATA_KEY)
    assert caught.value.kind is ErrorKind.KEY_UNAVAILABLE


def b64(number: int) -> str:
    return urlsafe_b64encode(number.to_bytes((number.bit_length() + 7) // 8, "big")).rstrip(b"=").decode()


@dataclass
class Vault:
    """A vault with one RSA key in several versions."""

    url: str = ""
    ca_file: str = ""
    versions: dict[str, rsa.RSAPrivateKey] = field(default_factory=dict)
    denied: bool = False
    tokens: set[str] = field(default_factory=set)

    def rotate(self, version: str) -> None:
        self.versions[version] = rsa.generate_private_key(65537, 2048)

    def key(self, version: str) -> dict[str, object]:
        numbers = self.versions[version].public_key().public_numbers()
        operations = ["wrapKey", "unwrapKey"]
        jwk = {
            "kid": f"{self.url}/keys/df/{version}",
            "kty": "RSA",
            "key_ops": operations,
            "n": b64(numbers.n),
            "e": b64(numbers.e),
        }
        return {"key": jwk, "attributes": {"enabled": True}}


def handler_of(vault: Vault) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def reply(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def serve(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
            authorization = self.headers.get("Authorization", "")
            if not authorization:
                challenge = f'Bearer authorization="{vault.url}/tenant", resource="{vault.url}"'
                return self.reply(401, {"error": {"code": "Unauthorized"}}, {"WWW-Authenticate": challenge})
            vault.tokens.add(authorization)
            if vault.denied:
                return self.reply(403, {"error": {"code": "Forbidden", "message": "no keys/unwrapKey"}})
            parts = self.path.partition("?")[0].strip("/").split("/")
            version = parts[2] if len(parts) > 2 and parts[2] else list(vault.versions)[-1]
            if version not in vault.versions:
                return self.reply(404, {"error": {"code": "KeyNotFound"}})
            if self.command == "GET":
                return self.reply(200, vault.key(version))
            sealed = urlsafe_b64decode(body["value"] + "=" * (-len(body["value"]) % 4))
            plain = vault.versions[version].decrypt(sealed, OAEP)
            value = urlsafe_b64encode(plain).rstrip(b"=").decode()
            return self.reply(200, {"kid": f"{vault.url}/keys/df/{version}", "value": value})

        do_GET = do_POST = serve

        def log_message(self, format: str, *args: object) -> None:
            return

    return Handler


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Vault]:
    made = make_certificates(tmp_path / "tls")
    (port,) = free_ports(1)
    vault = Vault(f"https://127.0.0.1:{port}", str(made.ca_file))
    vault.rotate("a1")
    server = ThreadingHTTPServer(("127.0.0.1", port), handler_of(vault))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.certificate_file, made.key_file)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield vault
    server.shutdown()
    server.server_close()
    thread.join()


def wrapper_for(vault: Vault) -> VaultKey:
    credential = StaticToken(lambda: TOKEN)
    return VaultKey(f"{vault.url}/keys/df", credential, ca_file=vault.ca_file, verify_challenge=False, retries=0)


def test_a_vault_key_wraps_and_names_key_and_version(vault: Vault) -> None:
    wrapped = wrapper_for(vault).wrap(DATA_KEY)
    fields = json.loads(wrapped)
    assert (fields["kind"], fields["key"], fields["version"]) == ("azure-key-vault", f"{vault.url}/keys/df", "a1")
    assert fields["algorithm"] == "RSA-OAEP-256"
    assert wrapper_for(vault).unwrap(wrapped) == DATA_KEY
    assert vault.tokens == {f"Bearer {TOKEN}"}


def test_after_a_rotation_the_old_version_still_unwraps_and_the_new_one_wraps(vault: Vault) -> None:
    old = wrapper_for(vault).wrap(DATA_KEY)
    vault.rotate("b2")
    new = wrapper_for(vault).wrap(DATA_KEY)
    assert json.loads(new)["version"] == "b2"
    assert wrapper_for(vault).unwrap(old) == wrapper_for(vault).unwrap(new) == DATA_KEY


def test_a_refusal_of_the_vault_is_key_unavailable_and_tells_no_token(vault: Vault) -> None:
    wrapped = wrapper_for(vault).wrap(DATA_KEY)
    vault.denied = True
    with pytest.raises(DeltaferryError) as caught:
        wrapper_for(vault).unwrap(wrapped)
    assert caught.value.kind is ErrorKind.KEY_UNAVAILABLE
    assert "Forbidden" in caught.value.detail and TOKEN not in str(caught.value)


def test_a_version_that_is_gone_is_key_unavailable(vault: Vault) -> None:
    wrapped = wrapper_for(vault).wrap(DATA_KEY)
    vault.versions.clear()
    vault.rotate("c3")
    with pytest.raises(DeltaferryError) as caught:
        wrapper_for(vault).unwrap(wrapped)
    assert caught.value.kind is ErrorKind.KEY_UNAVAILABLE


def test_a_key_of_another_vault_is_refused_without_asking_it(vault: Vault) -> None:
    fields = json.loads(wrapper_for(vault).wrap(DATA_KEY))
    vault.tokens.clear()
    elsewhere = VaultKey("https://vault.invalid/keys/df", StaticToken(lambda: TOKEN))
    with pytest.raises(DeltaferryError, match=r"configured for https://vault\.invalid") as caught:
        elsewhere.unwrap(json.dumps(fields).encode())
    assert caught.value.kind is ErrorKind.KEY_UNAVAILABLE
    assert vault.tokens == set()


def test_a_locally_wrapped_key_is_not_sent_to_a_vault(tmp_path: Path) -> None:
    wrapped = LocalKeyFile.generate(tmp_path / "key").wrap(DATA_KEY)
    with pytest.raises(DeltaferryError, match="local-file"):
        VaultKey("https://vault.invalid/keys/df", StaticToken(lambda: TOKEN)).unwrap(wrapped)


def test_a_url_that_is_no_vault_key_is_bad_configuration() -> None:
    for url in ("http://v/keys/a", "https://v/secrets/a", "https://v", "https://v/keys/a/b/c"):
        with pytest.raises(DeltaferryError) as caught:
            VaultKey(url, StaticToken(lambda: TOKEN))
        assert caught.value.kind is ErrorKind.BAD_CONFIGURATION
