"""The fault table of reading a snapshot's disks: what NBD and nbdkit tell apart, and what VDDK keeps to itself.

nbdkit's vddk plugin reports VDDK's errors as a sentence in its log (`VixDiskLib_GetErrorText`), without the VixError
number, and to the NBD client as EIO, whatever they are. Since no text decides here, all of them are one kind, whose
remedy suits them all: the step is tried again, and reads anew which host runs the VM, in a new VDDK session.
Source: libguestfs/nbdkit, plugins/vddk (`VDDK_ERROR`); facts F18.
"""

from dataclasses import dataclass

from deltaferry.model.errors import ErrorKind
from deltaferry.model.faults import FaultClass, FaultRow

_K = ErrorKind
_C = FaultClass


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingFault(FaultRow):
    """A row, and by what it is known: in words, since every one of them has the same kind."""

    known_by: str


READING_FAULTS: tuple[ReadingFault, ...] = (
    ReadingFault(
        name="connection-refused",
        known_by="connection refused, or closed before the handshake",
        answer=_C.RE_READ_HOST,
        kind=_K.DISK_READ_FAILED,
        meaning="The host was evacuated or restarts, or a firewall keeps the appliance out.",
    ),
    ReadingFault(
        name="connection-cut",
        known_by="connection ended in the middle of a reply",
        answer=_C.RE_READ_HOST,
        kind=_K.DISK_READ_FAILED,
        meaning="The VM moved to another host, or the host or nbdkit ended.",
    ),
    ReadingFault(
        name="read-error",
        known_by="NBD error EIO",
        answer=_C.RE_READ_HOST,
        kind=_K.DISK_READ_FAILED,
        meaning="VDDK could not read, for whatever reason.",
    ),
    ReadingFault(
        name="read-too-large",
        known_by="NBD error ENOMEM",
        answer=_C.RE_READ_HOST,
        kind=_K.DISK_READ_FAILED,
        meaning="The server could not allocate a buffer.",
        remedy="If it persists, read fewer disks of that ESXi host at a time.",
    ),
    ReadingFault(
        name="host-going-down",
        known_by="NBD error ESHUTDOWN",
        answer=_C.RE_READ_HOST,
        kind=_K.DISK_READ_FAILED,
        meaning="The server is being stopped.",
    ),
    ReadingFault(
        name="nfc-connections-used-up",
        known_by="export refused in the handshake",
        answer=_C.RE_READ_HOST,
        kind=_K.DISK_READ_FAILED,
        meaning="The host has no NFC connection left, or no longer has the snapshot.",
        remedy="If it persists, read fewer disks of that ESXi host at a time.",
    ),
)

NOT_TOLD_APART: tuple[tuple[str, str], ...] = (
    ("VIX_E_HOST_NETWORK_CONN_REFUSED, VIX_E_HOST_NETWORK_CONN_RESET", "the ESXi host does not accept NFC connections"),
    ("VIX_E_HOST_SERVER_SHUTDOWN", "the host is being evacuated"),
    ("NFC error 5, failed to allocate", "the host's NFC buffers are used up"),
    ("VIX error 13 (You do not have access rights)", "wrong credentials, or an old server's name for a network error"),
    ("VIX_E_FILE_NOT_FOUND", "the disk's file is gone"),
    ("VIX_E_SSL_ERROR", "the thumbprint is not the server's"),
)
"""VDDK errors that all arrive as EIO, or as an nbdkit that ends before it serves: error, what it means."""
