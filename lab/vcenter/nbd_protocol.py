"""Numbers and layouts of the NBD protocol, as its specification names them (NetworkBlockDevice/nbd, doc/proto.md)."""

import struct
from enum import IntEnum, IntFlag
from typing import Final

NBDMAGIC: Final = 0x4E42444D41474943
IHAVEOPT: Final = 0x49484156454F5054
OPTION_REPLY_MAGIC: Final = 0x0003E889045565A9
REQUEST_MAGIC: Final = 0x25609513
SIMPLE_REPLY_MAGIC: Final = 0x67446698
STRUCTURED_REPLY_MAGIC: Final = 0x668E33EF

GREETING: Final = struct.Struct(">QQH")
CLIENT_FLAGS: Final = struct.Struct(">I")
OPTION: Final = struct.Struct(">QII")
OPTION_REPLY: Final = struct.Struct(">QIII")
EXPORT_NAME_REPLY: Final = struct.Struct(">QH")
INFO_EXPORT: Final = struct.Struct(">HQH")
INFO_BLOCK_SIZE: Final = struct.Struct(">HIII")
U16: Final = struct.Struct(">H")
U32: Final = struct.Struct(">I")
REQUEST: Final = struct.Struct(">IHHQQI")
SIMPLE_REPLY: Final = struct.Struct(">IIQ")
CHUNK: Final = struct.Struct(">IHHQI")
CHUNK_WITH_OFFSET: Final = struct.Struct(">IHHQIQ")
BLOCK_DESCRIPTOR: Final = struct.Struct(">II")
CHUNK_ERROR: Final = struct.Struct(">IH")

EXPORT_NAME_PADDING: Final = 124
MAX_OPTION_BYTES: Final = 64 * 1024
MAX_NAME_BYTES: Final = 4096
MAX_REQUEST_BYTES: Final = 32 * 1024 * 1024
BASE_ALLOCATION: Final = b"base:allocation"
BASE_ALLOCATION_ID: Final = 1


class HandshakeFlag(IntFlag):
    """Flags of server and client in the greeting; both have the same values."""

    FIXED_NEWSTYLE = 1
    NO_ZEROES = 2


class TransmissionFlag(IntFlag):
    """What an export can do."""

    HAS_FLAGS = 1 << 0
    READ_ONLY = 1 << 1
    SEND_FLUSH = 1 << 2
    SEND_FUA = 1 << 3
    SEND_TRIM = 1 << 5
    SEND_WRITE_ZEROES = 1 << 6
    SEND_DF = 1 << 7
    CAN_MULTI_CONN = 1 << 8


class Option(IntEnum):
    """Options that a client may ask for."""

    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    STARTTLS = 5
    INFO = 6
    GO = 7
    STRUCTURED_REPLY = 8
    LIST_META_CONTEXT = 9
    SET_META_CONTEXT = 10


class OptionReply(IntEnum):
    """Replies to an option; those with the top bit set are refusals."""

    ACK = 1
    SERVER = 2
    INFO = 3
    META_CONTEXT = 4
    ERR_UNSUP = 1 << 31 | 1
    ERR_POLICY = 1 << 31 | 2
    ERR_INVALID = 1 << 31 | 3
    ERR_UNKNOWN = 1 << 31 | 6
    ERR_SHUTDOWN = 1 << 31 | 7
    ERR_TOO_BIG = 1 << 31 | 9


class Info(IntEnum):
    """Kinds of information about an export."""

    EXPORT = 0
    NAME = 1
    DESCRIPTION = 2
    BLOCK_SIZE = 3


class Command(IntEnum):
    """Requests of the transmission phase."""

    READ = 0
    WRITE = 1
    DISC = 2
    FLUSH = 3
    TRIM = 4
    WRITE_ZEROES = 6
    BLOCK_STATUS = 7


class CommandFlag(IntFlag):
    """Flags of a request."""

    FUA = 1 << 0
    NO_HOLE = 1 << 1
    DF = 1 << 2
    REQ_ONE = 1 << 3


CHUNK_DONE: Final = 1
"""Flag: a structured reply's last chunk."""


class ChunkType(IntEnum):
    """Kinds of chunks of a structured reply."""

    NONE = 0
    OFFSET_DATA = 1
    BLOCK_STATUS = 5
    ERROR = 1 << 15 | 1


class Allocation(IntFlag):
    """State of a range in base:allocation."""

    HOLE = 1
    ZERO = 2


class WireError(IntEnum):
    """Error numbers on the wire; they are fixed, whatever the platform's are."""

    EPERM = 1
    EIO = 5
    ENOMEM = 12
    EINVAL = 22
    ENOSPC = 28
    EOVERFLOW = 75
    ENOTSUP = 95
    ESHUTDOWN = 108
