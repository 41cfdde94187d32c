"""A certificate authority and a server certificate of the lab's own, so that every client verifies TLS as in production.

Both are made once in a lab's folder and reused by it. Key: P-256, the cheapest handshake that every client here takes.
"""

import ipaddress
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ESXI_HOSTS = 8
"""How many names `esxi-<n>.lab` the server certificate carries."""

_LIFETIME = timedelta(days=365)
_CLOCK_SLACK = timedelta(days=1)
_RENEW_BEFORE_END = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM files: what clients trust, and what every HTTPS server of the lab presents."""

    ca_file: Path
    certificate_file: Path
    key_file: Path
    """The server's private key, readable by the owner only."""


def server_names() -> tuple[str, ...]:
    """Return the DNS names that the server certificate is valid for, besides 127.0.0.1."""
    return ("localhost", "vcenter.lab", *(f"esxi-{number}.lab" for number in range(1, ESXI_HOSTS + 1)))


def make_certificates(directory: Path) -> Certificates:
    """Return the certificates of a lab's folder, making them unless valid ones are there."""
    directory.mkdir(parents=True, exist_ok=True)
    made = Certificates(directory / "ca.pem", directory / "server.pem", directory / "server.key")
    if _still_valid(made):
        return made
    now = datetime.now(UTC)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Deltaferry lab CA")])
    ca = (
        _builder(ca_name, ca_name, ca_key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    key = ec.generate_private_key(ec.SECP256R1())
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in server_names()]
    names.append(x509.IPAddress(ipaddress.IPv4Address("127.0.0.1")))
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "vcenter.lab")])
    certificate = (
        _builder(name, ca_name, key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_private(made.key_file, private)
    made.certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    made.ca_file.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    return made


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read, never readable by others in between."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, now: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SLACK)
        .not_valid_after(now + _LIFETIME)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _still_valid(made: Certificates) -> bool:
    if not all(path.exists() for path in (made.ca_file, made.certificate_file, made.key_file)):
        return False
    end = x509.load_pem_x509_certificate(made.certificate_file.read_bytes()).not_valid_after_utc
    return end - datetime.now(UTC) > _RENEW_BEFORE_END
