"""The fault tables of Azure Resource Manager, Key Vault and the identity; a storage account's is in model/store_faults.py.

A fault is told by its error code (of a reply, or of a failed long-running operation), by its status where no row has
its code, and by the exception's type, never by text. Sources: Azure Resource Manager common deployment errors
(learn.microsoft.com/azure/azure-resource-manager/troubleshooting), Compute and Network error codes, Key Vault
authentication, requests and responses, Microsoft Entra authentication error codes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from deltaferry.model.errors import ErrorKind
from deltaferry.model.faults import FaultClass, FaultRow
from deltaferry.model.store_faults import StoreFault

_K = ErrorKind
_C = FaultClass


class During(StrEnum):
    """In which operations a code has a meaning of its own."""

    ANY = "any operation"
    VM_CREATION = "creation of a VM"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceFault(FaultRow):
    """A row by error codes, or by statuses where no row has the code; a row with neither is told by the exception."""

    codes: tuple[str, ...] = ()
    statuses: tuple[int, ...] = ()
    during: During = During.ANY


ARM_UNANSWERED = ServiceFault(
    name="no-answer",
    answer=_C.RETRY,
    kind=_K.AZURE_UNREACHABLE,
    meaning="The connection was refused, timed out, or ended before the reply did.",
)
ARM_TOKEN_REFUSED = ServiceFault(
    name="token-refused",
    statuses=(401,),
    codes=(
        "AuthenticationFailed",
        "ExpiredAuthenticationToken",
        "InvalidAuthenticationToken",
        "InvalidAuthenticationTokenTenant",
    ),
    answer=_C.RE_LOGIN,
    kind=_K.AZURE_LOGIN_REJECTED,
    meaning="The token has expired or is not accepted; the next attempt uses a new one.",
)
ARM_OTHER = ServiceFault(
    name="other-failure",
    statuses=(500,),
    answer=_C.RETRY,
    kind=_K.AZURE_FAILED,
    meaning="A failure that no other row names.",
)

ARM_FAULTS: tuple[ServiceFault, ...] = (
    ServiceFault(
        name="throttled",
        statuses=(429, 503),
        codes=("OperationThrottled", "ResourceRequestsThrottled", "SubscriptionRequestsThrottled", "TooManyRequests"),
        answer=_C.RETRY,
        kind=_K.AZURE_THROTTLED,
        meaning="The subscription, region or principal is over its limit of requests.",
    ),
    ServiceFault(
        name="gateway-error",
        statuses=(408, 502, 504),
        answer=_C.RETRY,
        kind=_K.AZURE_UNREACHABLE,
        meaning="A gateway of Azure's did not get an answer in time; the request may have taken effect.",
    ),
    ARM_UNANSWERED,
    ServiceFault(
        name="reply-lost",
        answer=_C.SETTLED,
        kind=None,
        meaning="A request took effect, and its reply was lost.",
        remedy="Nothing: it is sent again; a PUT changes nothing the second time, and what exists is found by name and tags.",
    ),
    ARM_TOKEN_REFUSED,
    ServiceFault(
        name="not-authorized",
        statuses=(403,),
        codes=("AuthorizationFailed", "LinkedAuthorizationFailed", "LinkedAccessCheckFailed"),
        answer=_C.OPERATOR,
        kind=_K.AZURE_PERMISSION,
        meaning="The worker's identity lacks an action on the resource or on one that it refers to.",
    ),
    ServiceFault(
        name="policy",
        codes=("RequestDisallowedByPolicy",),
        answer=_C.OPERATOR,
        kind=_K.AZURE_PERMISSION,
        meaning="An Azure Policy forbids the resource as it was asked for.",
        remedy="Exempt the resource group from the policy named in the message, or change the target properties.",
    ),
    ServiceFault(
        name="scope-locked",
        codes=("ScopeLocked",),
        answer=_C.OPERATOR,
        kind=_K.AZURE_PERMISSION,
        meaning="A management lock forbids the change.",
        remedy="Remove the lock.",
    ),
    ServiceFault(
        name="quota",
        codes=(
            "QuotaExceeded",
            "QuotaExceededForSubscription",
            "ResourceQuotaExceeded",
            "OperationNotAllowedByQuota",
            "PublicIPCountLimitReached",
        ),
        answer=_C.OPERATOR,
        kind=_K.AZURE_QUOTA,
        meaning="The subscription's quota of the resource is used up.",
    ),
    ServiceFault(
        name="cores-quota",
        codes=("OperationNotAllowed",),
        during=During.VM_CREATION,
        answer=_C.OPERATOR,
        kind=_K.AZURE_QUOTA,
        meaning="The quota of cores of the region or the size's family is used up.",
    ),
    ServiceFault(
        name="size-not-available",
        codes=("SkuNotAvailable",),
        answer=_C.OPERATOR,
        kind=_K.AZURE_QUOTA,
        meaning="The subscription may not use the size or disk type in the region or zone.",
        remedy="Choose another size, zone or region.",
    ),
    ServiceFault(
        name="allocation-failed",
        codes=("AllocationFailed", "ZonalAllocationFailed", "OverconstrainedAllocationRequest"),
        answer=_C.RETRY,
        kind=_K.AZURE_FAILED,
        meaning="The region or zone has no capacity for the size at the moment.",
        remedy="If it persists, choose another size or zone.",
    ),
    ServiceFault(
        name="not-found",
        statuses=(404,),
        codes=(
            "InvalidResourceGroup",
            "NotFound",
            "ParentResourceNotFound",
            "ResourceGroupNotFound",
            "ResourceNotFound",
            "SubscriptionNotFound",
            "InvalidResourceReference",
            "DiskBlobNotFound",
        ),
        answer=_C.OPERATOR,
        kind=_K.AZURE_NOT_FOUND,
        meaning="A resource that the operation refers to does not exist.",
    ),
    ServiceFault(
        name="conflict",
        codes=("PropertyChangeNotAllowed", "InvalidResourceLocation", "ResourceExists"),
        answer=_C.OPERATOR,
        kind=_K.AZURE_CONFLICT,
        meaning="A resource of that name exists and differs in what cannot be changed.",
    ),
    ServiceFault(
        name="in-use",
        codes=("NicInUse", "NicReservedForAnotherVm"),
        answer=_C.RETRY,
        kind=_K.AZURE_FAILED,
        meaning="A resource is still attached to, or kept for, another one.",
    ),
    ServiceFault(
        name="operation-in-progress",
        codes=("AnotherOperationInProgress", "Conflict", "OperationNotAllowed", "RetryableError", "ConflictingUserInput"),
        statuses=(409,),
        answer=_C.RETRY,
        kind=_K.AZURE_FAILED,
        meaning="Another operation on the resource runs, or its present state does not allow this one.",
    ),
    ServiceFault(
        name="precondition-failed",
        codes=("PreconditionFailed",),
        statuses=(412,),
        answer=_C.RETRY,
        kind=_K.AZURE_FAILED,
        meaning="Somebody else changed the resource between reading and writing it.",
        remedy="Nothing: it is read and decided again.",
    ),
    ServiceFault(
        name="operation-failed",
        codes=("InternalExecutionError", "InternalOperationError", "InternalServerError"),
        answer=_C.RETRY,
        kind=_K.AZURE_FAILED,
        meaning="A long-running operation was accepted and ended Failed; what it left is removed before the next attempt.",
    ),
    ServiceFault(
        name="bad-request",
        codes=("BadRequest", "InvalidParameter", "InvalidRequestFormat"),
        statuses=(400,),
        answer=_C.OPERATOR,
        kind=_K.BAD_INPUT,
        meaning="A value of the request, mostly of the target properties, is not accepted.",
    ),
    ARM_OTHER,
)
"""Azure Resource Manager: Compute, Network, and the long-running operations of both."""

VAULT_UNANSWERED = ServiceFault(
    name="vault-no-answer",
    answer=_C.RETRY,
    kind=_K.KEY_VAULT_UNREACHABLE,
    meaning="The connection to the vault was refused, timed out, or ended before the reply did.",
)
VAULT_OTHER = ServiceFault(
    name="vault-other",
    statuses=(400, 409),
    answer=_C.OPERATOR,
    kind=_K.KEY_UNAVAILABLE,
    meaning="The vault cannot unwrap or wrap with the key: it is disabled, deleted, or of another kind.",
    remedy="Enable or recover the key, with its old versions: what they wrapped opens with them alone.",
)

VAULT_FAULTS: tuple[ServiceFault, ...] = (
    ServiceFault(
        name="vault-throttled",
        codes=("Throttled",),
        statuses=(429,),
        answer=_C.RETRY,
        kind=_K.KEY_VAULT_UNREACHABLE,
        meaning="The vault is over its limit of operations.",
    ),
    ServiceFault(
        name="vault-failed",
        statuses=(408, 500, 502, 503, 504),
        answer=_C.RETRY,
        kind=_K.KEY_VAULT_UNREACHABLE,
        meaning="The vault, or a gateway before it, failed.",
    ),
    VAULT_UNANSWERED,
    ServiceFault(
        name="vault-token-refused",
        codes=("Unauthorized",),
        statuses=(401,),
        answer=_C.RE_LOGIN,
        kind=_K.AZURE_LOGIN_REJECTED,
        meaning="The vault does not accept the token; the next attempt uses a new one.",
    ),
    ServiceFault(
        name="vault-forbidden",
        codes=("Forbidden", "ForbiddenByPolicy", "ForbiddenByFirewall", "ForbiddenByRbac"),
        statuses=(403,),
        answer=_C.OPERATOR,
        kind=_K.KEY_UNAVAILABLE,
        meaning="The identity lacks keys/get, wrapKey or unwrapKey, or the vault's firewall keeps the worker out.",
    ),
    ServiceFault(
        name="key-not-found",
        codes=("KeyNotFound",),
        statuses=(404,),
        answer=_C.OPERATOR,
        kind=_K.KEY_UNAVAILABLE,
        meaning="The key, or the version that wrapped the data key, is gone.",
        remedy="Recover the key or its version (soft delete): without it the stored segments cannot be read.",
    ),
    VAULT_OTHER,
)
"""Azure Key Vault."""

LOGIN_REFUSED = ServiceFault(
    name="login-refused",
    answer=_C.OPERATOR,
    kind=_K.AZURE_LOGIN_REJECTED,
    meaning="Microsoft Entra refused the identity: a wrong or expired secret or certificate, an unknown application or tenant; "
    "or the worker's machine has no identity to log in with.",
)
LOGIN_UNANSWERED = ServiceFault(
    name="login-no-answer",
    answer=_C.RETRY,
    kind=_K.AZURE_UNREACHABLE,
    meaning="The log-in endpoint, or the machine's own identity endpoint, does not answer.",
)
LOGIN_FAILED = ServiceFault(
    name="login-failed",
    statuses=(500, 502, 503, 504),
    answer=_C.RETRY,
    kind=_K.AZURE_UNREACHABLE,
    meaning="The log-in endpoint, or a gateway before it, failed.",
)
IDENTITY_FAULTS: tuple[ServiceFault, ...] = (LOGIN_REFUSED, LOGIN_FAILED, LOGIN_UNANSWERED)
"""The worker's identity. azure-identity raises ClientAuthenticationError for every refusal and gives the AADSTS number in
its text alone, so that a wrong secret, an expired one and an unknown application are one row: their remedy is the same."""

BEING_DELETED = StoreFault(
    name="being-deleted",
    codes=("ContainerBeingDeleted",),
    answer=_C.RETRY,
    kind=_K.STORE_THROTTLED,
    meaning="A container is to be created while its namesake is being deleted.",
)
"""What the code means to who manages containers; to the data plane the container is gone."""


def by_code(rows: tuple[ServiceFault, ...], during: During = During.ANY) -> Mapping[str, ErrorKind]:
    """Return the kinds of a table by error code; the rows of one operation come before those of any."""
    general = {code: row.kind for row in rows if row.during is During.ANY for code in row.codes}
    special = {code: row.kind for row in rows if row.during is during for code in row.codes}
    return {code: kind for code, kind in {**general, **special}.items() if kind is not None}


def by_status(rows: tuple[ServiceFault, ...]) -> Mapping[int, ErrorKind]:
    """Return the kinds of a table by HTTP status."""
    return {status: row.kind for row in rows for status in row.statuses if row.kind is not None}
