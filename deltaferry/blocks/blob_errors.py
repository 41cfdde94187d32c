"""What the blob service's refusals mean: status and `x-ms-error-code` to a kind of the taxonomy, never by text.

Source: the Blob service's *Status and error codes*, and facts C3 for Azurite's own.
"""

from datetime import timedelta
from http import HTTPStatus

from deltaferry.model.errors import DeltaferryError, ErrorKind

ERROR_CODE_HEADER = "x-ms-error-code"
DIGEST_HEADER = "x-ms-meta-digest"

_BY_CODE = {
    "SequenceNumberConditionNotMet": ErrorKind.FENCED,
    "ServerBusy": ErrorKind.STORE_THROTTLED,
    "AccountIsDisabled": ErrorKind.STORE_ACCESS_DENIED,
    "MemoryExtentStoreAtSizeLimit": ErrorKind.STORE_FULL,
    "InsufficientStorage": ErrorKind.STORE_FULL,
}
_BY_STATUS = {
    HTTPStatus.UNAUTHORIZED: ErrorKind.STORE_ACCESS_DENIED,
    HTTPStatus.FORBIDDEN: ErrorKind.STORE_ACCESS_DENIED,
    HTTPStatus.TOO_MANY_REQUESTS: ErrorKind.STORE_THROTTLED,
    HTTPStatus.SERVICE_UNAVAILABLE: ErrorKind.STORE_THROTTLED,
    HTTPStatus.INSUFFICIENT_STORAGE: ErrorKind.STORE_FULL,
}
_MAY_PASS = frozenset({
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
})  # fmt: skip


class Refused(Exception):
    """The service answered with a status of 400 or more."""

    def __init__(self, status: int, code: str, retry_after: timedelta | None) -> None:
        super().__init__(status, code)
        self.status = status
        self.code = code
        self.retry_after = retry_after

    @property
    def may_pass(self) -> bool:
        """Whether the same request may succeed a little later."""
        return self.status in _MAY_PASS


class Unanswered(Exception):
    """The connection failed, timed out, or ended before the reply did: whether the request took effect is not known."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def error_of(refusal: Refused, where: str, missing: ErrorKind) -> DeltaferryError:
    """Return the taxonomy's error for a refusal; `missing` is what a 404 means, `where` names the blob without signature."""
    kind = _BY_CODE.get(refusal.code)
    if kind is None and (refusal.status == HTTPStatus.NOT_FOUND or refusal.code == "ContainerBeingDeleted"):
        kind = missing
    if kind is None:
        kind = _BY_STATUS.get(HTTPStatus(refusal.status)) if refusal.status in HTTPStatus._value2member_map_ else None
    if kind is None:
        kind = ErrorKind.STORE_UNREACHABLE if refusal.may_pass else ErrorKind.AZURE_FAILED
    detail = f"the storage service answered {refusal.status} {refusal.code or 'without a code'} for {where}"
    return DeltaferryError(kind, detail, retry_after=refusal.retry_after)
