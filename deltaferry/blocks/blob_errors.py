"""What the blob service's refusals mean to the data plane: by the storage account's fault table, never by text."""

from datetime import timedelta
from http import HTTPStatus

from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.store_faults import UNKNOWN_REFUSAL, store_fault

ERROR_CODE_HEADER = "x-ms-error-code"
DIGEST_HEADER = "x-ms-meta-digest"

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
    row = store_fault(refusal.status, refusal.code, missing) or UNKNOWN_REFUSAL
    kind = row.kind or ErrorKind.AZURE_FAILED
    detail = f"the storage service answered {refusal.status} {refusal.code or 'without a code'} for {where}"
    return DeltaferryError(kind, detail, retry_after=refusal.retry_after)
