"""The fault table of a storage account: what its refusals mean, by `x-ms-error-code` and by status, never by text.

Both users of a storage account read it: the data plane's own client (blocks/) and the SDK's (azure/). Sources: *Blob
service error codes* and *Common REST API error codes* (learn.microsoft.com/rest/api/storageservices), facts C3 for
Azurite's own.
"""

from dataclasses import dataclass

from deltaferry.model.errors import ErrorKind
from deltaferry.model.faults import FaultClass, FaultRow

_K = ErrorKind
_C = FaultClass


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFault(FaultRow):
    """A row by the codes of a refusal, or by its status where no row has its code; a row with neither is no refusal."""

    codes: tuple[str, ...] = ()
    statuses: tuple[int, ...] = ()


MISSING_OBJECT = StoreFault(
    name="object-missing",
    statuses=(404,),
    codes=("BlobNotFound", "ContainerNotFound", "ResourceNotFound", "ContainerBeingDeleted"),
    meaning="An object of the log or gateway store, or its container, is gone.",
    answer=_C.REPAIR,
    kind=_K.STORE_OBJECT_MISSING,
)
MISSING_SEED = StoreFault(
    name="seed-missing",
    statuses=(404,),
    codes=("BlobNotFound", "ContainerNotFound", "ResourceNotFound", "ContainerBeingDeleted"),
    meaning="A seed disk's page blob is gone.",
    answer=_C.RESYNC,
    kind=_K.SEED_MISSING,
)
UNANSWERED = StoreFault(
    name="no-answer",
    meaning="The connection was refused, timed out, or ended before the reply did.",
    answer=_C.RETRY,
    kind=_K.STORE_UNREACHABLE,
)
UNKNOWN_REFUSAL = StoreFault(
    name="unknown-refusal",
    meaning="A refusal that no other row names, such as a malformed request.",
    answer=_C.RETRY,
    kind=_K.AZURE_FAILED,
    remedy="Read the code in the message; if it persists, report it.",
)

STORE_FAULTS: tuple[StoreFault, ...] = (
    StoreFault(
        name="server-busy",
        codes=("ServerBusy",),
        statuses=(429, 503),
        meaning="The account or the blob is over its limit of requests or bytes.",
        answer=_C.RETRY,
        kind=_K.STORE_THROTTLED,
    ),
    StoreFault(
        name="ingress-limit",
        codes=("IngressOverAccountLimit", "EgressOverAccountLimit"),
        meaning="The account is over its limit of bytes in or out.",
        answer=_C.RETRY,
        kind=_K.STORE_THROTTLED,
    ),
    StoreFault(
        name="operation-timed-out",
        codes=("OperationTimedOut",),
        meaning="The service gave up a request in time; it may have taken effect.",
        answer=_C.RETRY,
        kind=_K.STORE_UNREACHABLE,
    ),
    StoreFault(
        name="internal-error",
        statuses=(408, 500, 502, 504),
        meaning="The service, or a proxy before it, failed.",
        answer=_C.RETRY,
        kind=_K.STORE_UNREACHABLE,
    ),
    StoreFault(
        name="account-being-created",
        codes=("AccountBeingCreated",),
        meaning="The account does not serve yet.",
        answer=_C.RETRY,
        kind=_K.STORE_UNREACHABLE,
    ),
    UNANSWERED,
    StoreFault(
        name="reply-lost",
        meaning="A write took effect, and its reply was lost.",
        answer=_C.SETTLED,
        kind=None,
        remedy="Nothing: the write is repeated, finds its own work done or does the same again, and succeeds.",
    ),
    StoreFault(
        name="signature-expired",
        codes=("AuthenticationFailed", "InvalidAuthenticationInfo", "NoAuthenticationInformation"),
        statuses=(401,),
        meaning="A shared access signature has expired, an account key was rotated, or a token is not accepted.",
        answer=_C.RE_LOGIN,
        kind=_K.STORE_ACCESS_DENIED,
        remedy="Nothing where a signature expired: the next attempt makes a new one. Otherwise check the account key or identity.",
    ),
    StoreFault(
        name="not-authorized",
        statuses=(403,),
        codes=(
            "AuthorizationFailure",
            "AuthorizationPermissionMismatch",
            "AuthorizationProtocolMismatch",
            "InsufficientAccountPermissions",
            "KeyBasedAuthenticationNotPermitted",
        ),
        meaning="The credential is known and lacks the right, or the account's network rules keep the worker out.",
        answer=_C.OPERATOR,
        kind=_K.STORE_ACCESS_DENIED,
        remedy="Assign the worker's identity Storage Blob Data Contributor, and allow its network on the account.",
    ),
    StoreFault(
        name="account-disabled",
        codes=("AccountIsDisabled",),
        meaning="The account was disabled, mostly with its subscription.",
        answer=_C.OPERATOR,
        kind=_K.STORE_ACCESS_DENIED,
        remedy="Enable the subscription or the account again.",
    ),
    StoreFault(
        name="store-full",
        codes=("InsufficientStorage", "MemoryExtentStoreAtSizeLimit"),
        statuses=(507,),
        meaning="The account has no room left.",
        answer=_C.OPERATOR,
        kind=_K.STORE_FULL,
    ),
    MISSING_OBJECT,
    MISSING_SEED,
    StoreFault(
        name="exists-already",
        codes=("BlobAlreadyExists", "UnauthorizedBlobOverwrite"),
        meaning="An object that is written once exists: an earlier attempt stored it.",
        answer=_C.SETTLED,
        kind=None,
        remedy="Nothing: the stored object is used.",
    ),
    StoreFault(
        name="fenced",
        codes=("SequenceNumberConditionNotMet",),
        meaning="A newer writer has raised the page blob's sequence number.",
        answer=_C.REPAIR,
        kind=_K.FENCED,
    ),
    StoreFault(
        name="leased",
        codes=(
            "LeaseIdMissing",
            "LeaseAlreadyPresent",
            "LeaseIdMismatchWithBlobOperation",
            "LeaseLost",
            "LeaseIdMismatchWithContainerOperation",
        ),
        meaning="Somebody else holds a lease on the blob or container; Deltaferry takes none.",
        answer=_C.OPERATOR,
        kind=_K.STORE_LEASED,
    ),
    StoreFault(
        name="damaged-in-transit",
        codes=("Md5Mismatch", "Crc64Mismatch"),
        meaning="The body arrived other than it was sent.",
        answer=_C.RETRY,
        kind=_K.STORE_UNREACHABLE,
        remedy="If it persists, look for a device on the way that changes traffic.",
    ),
    UNKNOWN_REFUSAL,
)

_BY_CODE = {code: row for row in STORE_FAULTS for code in row.codes if row not in (MISSING_OBJECT, MISSING_SEED)}
_BY_STATUS = {status: row for row in STORE_FAULTS for status in row.statuses}
_MISSING_CODES = frozenset(MISSING_OBJECT.codes)


def store_fault(status: int, code: str, missing: ErrorKind) -> StoreFault | None:
    """Return the row of a refusal, or None where none names it; `missing` is what an absent object means to the caller."""
    found = _BY_CODE.get(code)
    if found is not None:
        return found
    if code in _MISSING_CODES or status == 404:
        return MISSING_SEED if missing is ErrorKind.SEED_MISSING else MISSING_OBJECT
    return _BY_STATUS.get(status)
