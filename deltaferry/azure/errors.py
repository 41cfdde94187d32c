"""Translates azure-core's exceptions into the taxonomy: by exception type, HTTP status and error code, never by text.

The SDK's own exception is left behind (`from None`): its text may quote request headers, a string to sign or a URL,
and an exception's cause travels into a workflow's history. What helps is kept: code, status, the service's request id.
Sources of the codes: Blob service error codes and Common REST API error codes (learn.microsoft.com/rest/api/storageservices),
Azure Resource Manager common deployment errors (learn.microsoft.com/azure/azure-resource-manager/troubleshooting).
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

from deltaferry.model.errors import DeltaferryError, ErrorKind

_K = ErrorKind

STORE_BY_CODE: Mapping[str, ErrorKind] = {
    "AccountBeingCreated": _K.STORE_UNREACHABLE,
    "AccountIsDisabled": _K.STORE_ACCESS_DENIED,
    "AuthenticationFailed": _K.STORE_ACCESS_DENIED,
    "AuthorizationFailure": _K.STORE_ACCESS_DENIED,
    "AuthorizationPermissionMismatch": _K.STORE_ACCESS_DENIED,
    "AuthorizationProtocolMismatch": _K.STORE_ACCESS_DENIED,
    "InsufficientAccountPermissions": _K.STORE_ACCESS_DENIED,
    "InvalidAuthenticationInfo": _K.STORE_ACCESS_DENIED,
    "KeyBasedAuthenticationNotPermitted": _K.STORE_ACCESS_DENIED,
    "NoAuthenticationInformation": _K.STORE_ACCESS_DENIED,
    "ContainerBeingDeleted": _K.STORE_THROTTLED,
    "IngressOverAccountLimit": _K.STORE_THROTTLED,
    "EgressOverAccountLimit": _K.STORE_THROTTLED,
    "OperationTimedOut": _K.STORE_THROTTLED,
    "ServerBusy": _K.STORE_THROTTLED,
    "MemoryExtentStoreAtSizeLimit": _K.STORE_FULL,
    "SequenceNumberConditionNotMet": _K.FENCED,
}
"""Kinds of a storage account's answers by `x-ms-error-code`; `MemoryExtentStoreAtSizeLimit` is Azurite's."""

STORE_BY_STATUS: Mapping[int, ErrorKind] = {
    401: _K.STORE_ACCESS_DENIED,
    403: _K.STORE_ACCESS_DENIED,
    408: _K.STORE_UNREACHABLE,
    429: _K.STORE_THROTTLED,
    500: _K.STORE_UNREACHABLE,
    502: _K.STORE_UNREACHABLE,
    503: _K.STORE_THROTTLED,
    504: _K.STORE_UNREACHABLE,
    507: _K.STORE_FULL,
}

ARM_BY_CODE: Mapping[str, ErrorKind] = {
    "AuthorizationFailed": _K.AZURE_PERMISSION,
    "LinkedAuthorizationFailed": _K.AZURE_PERMISSION,
    "LinkedAccessCheckFailed": _K.AZURE_PERMISSION,
    "RequestDisallowedByPolicy": _K.AZURE_PERMISSION,
    "ScopeLocked": _K.AZURE_PERMISSION,
    "AuthenticationFailed": _K.AZURE_LOGIN_REJECTED,
    "ExpiredAuthenticationToken": _K.AZURE_LOGIN_REJECTED,
    "InvalidAuthenticationToken": _K.AZURE_LOGIN_REJECTED,
    "InvalidAuthenticationTokenTenant": _K.AZURE_LOGIN_REJECTED,
    "OperationNotAllowedByQuota": _K.AZURE_QUOTA,
    "PublicIPCountLimitReached": _K.AZURE_QUOTA,
    "QuotaExceeded": _K.AZURE_QUOTA,
    "QuotaExceededForSubscription": _K.AZURE_QUOTA,
    "ResourceQuotaExceeded": _K.AZURE_QUOTA,
    "SkuNotAvailable": _K.AZURE_QUOTA,
    "InvalidResourceGroup": _K.AZURE_NOT_FOUND,
    "NotFound": _K.AZURE_NOT_FOUND,
    "ParentResourceNotFound": _K.AZURE_NOT_FOUND,
    "ResourceGroupNotFound": _K.AZURE_NOT_FOUND,
    "ResourceNotFound": _K.AZURE_NOT_FOUND,
    "SubscriptionNotFound": _K.AZURE_NOT_FOUND,
    "InvalidResourceReference": _K.AZURE_NOT_FOUND,
    "DiskBlobNotFound": _K.AZURE_NOT_FOUND,
    "PropertyChangeNotAllowed": _K.AZURE_CONFLICT,
    "InvalidResourceLocation": _K.AZURE_CONFLICT,
    "ResourceExists": _K.AZURE_CONFLICT,
    "NicInUse": _K.AZURE_FAILED,
    "NicReservedForAnotherVm": _K.AZURE_FAILED,
    "BadRequest": _K.BAD_INPUT,
    "InvalidParameter": _K.BAD_INPUT,
    "InvalidRequestFormat": _K.BAD_INPUT,
    "OperationThrottled": _K.AZURE_THROTTLED,
    "ResourceRequestsThrottled": _K.AZURE_THROTTLED,
    "SubscriptionRequestsThrottled": _K.AZURE_THROTTLED,
    "TooManyRequests": _K.AZURE_THROTTLED,
}
"""Kinds of Azure Resource Manager's errors by `error.code`, of a reply or of a failed long-running operation."""

VM_CREATION_CODES: Mapping[str, ErrorKind] = {"OperationNotAllowed": _K.AZURE_QUOTA}
"""Compute refuses a new VM over the quota of cores with this code, which elsewhere stands for a state that may pass."""

ARM_BY_STATUS: Mapping[int, ErrorKind] = {
    400: _K.BAD_INPUT,
    401: _K.AZURE_LOGIN_REJECTED,
    403: _K.AZURE_PERMISSION,
    404: _K.AZURE_NOT_FOUND,
    408: _K.AZURE_UNREACHABLE,
    429: _K.AZURE_THROTTLED,
    502: _K.AZURE_UNREACHABLE,
    503: _K.AZURE_THROTTLED,
    504: _K.AZURE_UNREACHABLE,
}

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
    status = error.status_code if isinstance(error, HttpResponseError) and error.status_code is not None else 0
    if 200 <= status < 300:  # a good reply that broke off in its body
        return DeltaferryError(_K.STORE_UNREACHABLE, f"{what}: the reply was cut short")
    kind = STORE_BY_CODE.get(error_code(error))
    if kind is None:
        if status == 404:
            kind = missing
        elif isinstance(error, ClientAuthenticationError):
            kind = _K.STORE_ACCESS_DENIED
        else:
            kind = STORE_BY_STATUS.get(status, _K.INTERNAL)
    return DeltaferryError(kind, f"{what}: {_answer(error)}", retry_after=retry_after(error))


def arm_error(error: AzureError, what: str, here: Mapping[str, ErrorKind] = MappingProxyType({})) -> DeltaferryError:
    """Return the taxonomy's error for a failure of Azure Resource Manager, with Azure's own message for the operator.

    `here` says what codes mean in this operation, before `ARM_BY_CODE`.
    """
    if _is_connection_failure(error):
        return DeltaferryError(_K.AZURE_UNREACHABLE, f"{what}: {_connection_failure(error)}")
    status = error.status_code if isinstance(error, HttpResponseError) and error.status_code is not None else 0
    code = error_code(error)
    kind = here.get(code) or ARM_BY_CODE.get(code)
    if kind is None:
        kind = (
            _K.AZURE_LOGIN_REJECTED
            if isinstance(error, ClientAuthenticationError)
            else ARM_BY_STATUS.get(status, _K.AZURE_FAILED)
        )
    detail = f"{what}: {_answer(error)}"
    if isinstance(error, HttpResponseError) and error.error is not None and error.error.message:
        detail += ": " + _SIGNATURE.sub(r"\1…", str(error.error.message))[:_MESSAGE_LIMIT]
    return DeltaferryError(kind, detail, retry_after=retry_after(error))


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
