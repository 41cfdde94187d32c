"""Keys that follow from a replication's data key, and the keyed checksums of a disk's content.

Checksums are keyed so that the storage's owner cannot confirm known content by them (architecture, *Keys and checksums*).
"""

from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from deltaferry.model.units import GRANULE

CHECKSUM_BYTES = 16
KEY_BYTES = 32
SALT_BYTES = 32
_ZERO = bytes(GRANULE)


def _derive(data_key: bytes, salt: bytes | None, info: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=info).derive(data_key)


def object_cipher(data_key: bytes, salt: bytes, object_name: str) -> AESGCM:
    """Return the cipher of the one object with that salt and name: AES-256-GCM under a key that nothing else uses."""
    return AESGCM(_derive(data_key, salt, object_name.encode()))


class Hasher:
    """Computes the 16-byte checksums of pieces of at most a granule. Safe to use from several threads."""

    __slots__ = ("_key", "_zero_checksums")

    def __init__(self, data_key: bytes) -> None:
        self._key = _derive(data_key, None, b"checksum")
        self._zero_checksums: dict[int, bytes] = {}

    def checksum(self, piece: memoryview | bytes) -> bytes:
        """Return a piece's checksum."""
        return blake3(piece, key=self._key).digest(CHECKSUM_BYTES)

    def zero_checksum(self, length_bytes: int) -> bytes:
        """Return the checksum of so many zero bytes, at most a granule."""
        checksum = self._zero_checksums.get(length_bytes)
        if checksum is None:
            checksum = self._zero_checksums[length_bytes] = self.checksum(memoryview(_ZERO)[:length_bytes])
        return checksum
