"""The fixed VHD's footer: 512 bytes after the disk's bytes, big-endian.

Source: Microsoft, "Virtual Hard Disk Image Format Specification". Written apart from the product's own writer, so that
each checks the other.
"""

import struct
import time
import uuid

from lab.arm.errors import ArmError

FOOTER_BYTES = 512
MIB = 1 << 20
_HEAD = struct.Struct(">8sIIQI4sI4sQQHBBI")
_EPOCH_2000_S = 946_684_800
_FIXED = 2
_CHECKSUM_OFFSET = 64


def _checksum(footer: bytes) -> int:
    total = sum(footer[:_CHECKSUM_OFFSET]) + sum(footer[_CHECKSUM_OFFSET + 4 :])
    return ~total & 0xFFFFFFFF


def build_footer(size_bytes: int, unique_id: uuid.UUID) -> bytes:
    """Return the footer of a fixed VHD of `size_bytes`, as exported disks and snapshots end with it."""
    head = _HEAD.pack(
        b"conectix", 2, 0x00010000, 0xFFFFFFFFFFFFFFFF, int(time.time()) - _EPOCH_2000_S, b"labz", 0x00010000, b"Wi2k",
        size_bytes, size_bytes, 0xFFFF, 16, 0xFF, _FIXED,
    )  # fmt: skip
    footer = (head + bytes(4) + unique_id.bytes).ljust(FOOTER_BYTES, b"\0")
    return footer[:_CHECKSUM_OFFSET] + struct.pack(">I", _checksum(footer)) + footer[_CHECKSUM_OFFSET + 4 :]


def _refused(detail: str) -> ArmError:
    return ArmError(400, "BadRequest", f"Only blobs formatted as VHDs can be imported. {detail}")


def check_footer(footer: bytes, container_bytes: int, disk_name: str) -> int:
    """Return the virtual size of a fixed VHD of `container_bytes` with this footer. Raises BadRequest."""
    fields = _HEAD.unpack_from(footer)
    cookie, version, current_size, disk_type = fields[0], fields[2], fields[9], fields[13]
    if cookie != b"conectix":
        raise _refused(
            f"The specified cookie value in VHD footer indicates that disk '{disk_name}' is not a supported VHD. "
            "Disk is expected to have cookie value 'conectix'."
        )
    if struct.unpack_from(">I", footer, _CHECKSUM_OFFSET)[0] != _checksum(footer):
        raise _refused(f"The checksum in the VHD footer of disk '{disk_name}' is wrong.")
    if version != 0x00010000 or disk_type != _FIXED:
        raise _refused(f"Disk '{disk_name}' is not a fixed VHD.")
    if current_size % MIB:
        raise _refused(
            f"Disk '{disk_name}' has an unsupported virtual size of {current_size} bytes. The size must be a whole number (in MBs)."
        )
    if current_size == 0 or current_size + FOOTER_BYTES != container_bytes:
        raise _refused(
            f"The VHD footer of disk '{disk_name}' says {current_size} bytes, the blob holds {container_bytes - FOOTER_BYTES}."
        )
    return int(current_size)
