"""Translates azure-core's exceptions into the taxonomy by the fault tables: exception type, status and code, never text.

The SDK's own exception is left behind (`from None`): its text may quote request headers, a string to sign or a URL,
and an exception's cause travels into a workflow's history. What helps is kept: code, status, the service's request id.
The rows and their sources are in `fault_table.py` and, for storage accounts, in `model/store_faults.py`.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from types import MappingProxyType

from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    ServiceRequestError,
    ServiceResponseError,
)
from msal.exceptions import MsalServiceError  # type: ignore[import-untyped]

from deltaferry.azure.fault_table import (
    ARM_FAULTS,
    BEING_DELETED,
    LOGIN_REFUSED,
    LOGIN_UNANSWERED,
    VAULT_FAULTS,
    During,
    by_code,
    by_status,
)
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.store_faults import UNKNOWN_REFUSAL, store_fault

_K = ErrorKind

ARM_BY_CODE = by_code(ARM_FAULTS)
"""Kinds of Azure Resource Manager's errors by `error.code`, of a reply or of a failed long-running operation."""

VM_CREATION_CODES: Mapping[str, ErrorKind] = by_code(ARM_FAULTS, During.VM_CREATION)
"""Compute refuses a new VM over the quota of cores with a code that elsewhere stands for a state that may pass."""

ARM_BY_STATUS = by_status(ARM_FAULTS)
_VAULT_BY_CODE = by_code(VAULT_FAULTS)
_VAULT_BY_STATUS = by_status(VAULT_FAULTS)

_MESSAGE_LIMIT = 400
_SECONDS = re.compile(r"\d+(\.\d+)?")
_SIGNATURE = re.compile(r"(sig=)[^&\s\"'<>]+", re.IGNORECASE)


def _header(error: AzureError, name: str) -> str:
    """Return a header of the reply that an error stands for, or an empty string."""
    response = error.response if isinstance(error, HttpResponseError) else None
    headers: Mapping[str, str] = getattr(response, "headers", {})
    return headers.get(name) or ""


def error_code(error: AzureError) -> str:
    """Return the service's own error code, or an empty string."""
    if not isinstance(error, HttpResponseError):
        return ""
    header = _header(error, "x-ms-error-code")
    if header:
        return header
    own = getattr(error, "error_code", None)
    if own:
        return str(getattr(own, "value", own))
    return str(error.error.code) if error.error is not None and error.error.code else ""


def retry_after(error: AzureError) -> timedelta | None:
    """Return a reply's Retry-After (seconds, or an HTTP date), or None."""
    value = _header(error, "Retry-After")
    if not value:
        return None
    if _SECONDS.fullmatch(value.strip()):
        return timedelta(seconds=float(value))
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return max(timedelta(0), at - datetime.now(UTC))


def _is_connection_failure(error: AzureError) -> bool:
    return isinstance(error, (ServiceRequestError, ServiceResponseError)) or (
        isinstance(error, HttpResponseError) and error.response is None and not isinstance(error, ClientAuthenticationError)
    )


def _connection_failure(error: AzureError) -> str:
    """Name the innermost exception's type: a connection error's text may hold a URL with its signature."""
    innermost: BaseException = error
    while isinstance(innermost, AzureError) and innermost.inner_exception is not None:
        innermost = innermost.inner_exception
    return type(innermost).__name__


def _answer(error: AzureError) -> str:
    if not isinstance(error, HttpResponseError) or error.response is None:
        return type(error).__name__
    parts = [error_code(error) or type(error).__name__, f"HTTP {error.status_code}"]
    request_id = _header(error, "x-ms-request-id")
    if request_id:
        parts.append(f"request {request_id}")
    return ", ".join(parts)


def store_error(error: AzureError, what: str, missing: ErrorKind) -> DeltaferryError:
    """Return the taxonomy's error for a storage account's failure; `missing` is what a 404 means here."""
    if _is_connection_failure(error):
        return DeltaferryError(_K.STORE_UNREACHABLE, f"{what}: {_connection_failure(error)}")
    status = _status(error)
    if 200 <= status < 300:  # a good reply that broke off in its body
        return DeltaferryError(_K.STORE_UNREACHABLE, f"{what}: the reply was cut short")
    return DeltaferryError(_store_kind(error, status, missing), f"{what}: {_answer(error)}", retry_after=retry_after(error))


def _store_kind(error: AzureError, status: int, missing: ErrorKind) -> ErrorKind:
    code = error_code(error)
    if code in BEING_DELETED.codes:
        return _K.STORE_THROTTLED
    row = store_fault(status, code, missing)
    if row is None and isinstance(error, ClientAuthenticationError):
        return _K.STORE_ACCESS_DENIED
    return (row or UNKNOWN_REFUSAL).kind or _K.AZURE_FAILED


def _status(error: AzureError) -> int:
    return error.status_code if isinstance(error, HttpResponseError) and error.status_code is not None else 0


def arm_error(error: AzureError, what: str, here: Mapping[str, ErrorKind] = MappingProxyType({})) -> DeltaferryError:
    """Return the taxonomy's error for a failure of Azure Resource Manager, with Azure's own message for the operator.

    `here` says what codes mean in this operation, before `ARM_BY_CODE`.
    """
    if _is_connection_failure(error):
        return DeltaferryError(_K.AZURE_UNREACHABLE, f"{what}: {_connection_failure(error)}")
    code = error_code(error)
    kind = here.get(code) or ARM_BY_CODE.get(code)
    if kind is None:
        kind = (
            _K.AZURE_LOGIN_REJECTED
            if isinstance(error, ClientAuthenticationError)
            else ARM_BY_STATUS.get(_status(error), _K.AZURE_FAILED)
        )
    detail = f"{what}: {_answer(error)}"
    if isinstance(error, HttpResponseError) and error.error is not None and error.error.message:
        detail += ": " + _SIGNATURE.sub(r"\1…", str(error.error.message))[:_MESSAGE_LIMIT]
    return DeltaferryError(kind, detail, retry_after=retry_after(error))


def vault_error(error: AzureError, what: str) -> DeltaferryError:
    """Return the taxonomy's error for a failure of Key Vault. Its message is left out: the code says what is to be done."""
    if _is_connection_failure(error):
        return DeltaferryError(_K.KEY_VAULT_UNREACHABLE, f"{what}: {_connection_failure(error)}")
    kind = _VAULT_BY_CODE.get(error_code(error)) or _VAULT_BY_STATUS.get(_status(error), _K.KEY_UNAVAILABLE)
    return DeltaferryError(kind, f"{what}: {_answer(error)}", retry_after=retry_after(error))


def identity_error(error: AzureError, what: str) -> DeltaferryError:
    """Return the taxonomy's error for a log-in that brought no token. Nothing of its text is kept."""
    refused = isinstance(error, ClientAuthenticationError) and not _was_unanswered(error)
    row = LOGIN_REFUSED if refused else LOGIN_UNANSWERED
    return DeltaferryError(row.kind or _K.AZURE_FAILED, f"{what}: {type(error).__name__}")


def _was_unanswered(error: AzureError) -> bool:
    """Return whether no answer, or a 5xx, is behind a failed log-in: azure-identity calls that ClientAuthenticationError too."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (ServiceRequestError, ServiceResponseError, OSError, MsalServiceError)):
            return True
        cause = cause.__cause__
    return False


@contextmanager
def store_errors(what: str, missing: ErrorKind = ErrorKind.STORE_OBJECT_MISSING) -> Iterator[None]:
    """Translate what a storage account raises inside; `what` names the operation and its object, never a signature."""
    try:
        yield
    except AzureError as error:
        raise store_error(error, what, missing) from None


@contextmanager
def arm_errors(what: str, here: Mapping[str, ErrorKind] = MappingProxyType({})) -> Iterator[None]:
    """Translate what Azure Resource Manager raises inside; `what` names the operation and its resource."""
    try:
        yield
    except AzureError as error:
        raise arm_error(error, what, here) from None
