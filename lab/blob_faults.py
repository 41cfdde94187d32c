"""The faults of a storage account's fault table, by the names of its rows: each says what the front does to provoke it."""

from collections.abc import Mapping

from lab.control_client import BlobAction, BlobFault


def _answer(status: int, code: str, *, after_effect: bool = False) -> BlobFault:
    return BlobFault(BlobAction.ANSWER, status=status, code=code, after_effect=after_effect)


STORE_FAULTS: Mapping[str, BlobFault] = {
    "server-busy": BlobFault(BlobAction.UNAVAILABLE, retry_after_s=1),
    "ingress-limit": _answer(503, "IngressOverAccountLimit"),
    "operation-timed-out": _answer(500, "OperationTimedOut", after_effect=True),
    "internal-error": BlobFault(BlobAction.ERROR),
    "account-being-created": _answer(409, "AccountBeingCreated"),
    "no-answer": BlobFault(BlobAction.CUT),
    "reply-lost": BlobFault(BlobAction.DROP),
    "signature-expired": _answer(403, "AuthenticationFailed"),
    "not-authorized": _answer(403, "AuthorizationPermissionMismatch"),
    "account-disabled": _answer(403, "AccountIsDisabled"),
    "store-full": _answer(507, "InsufficientStorage"),
    "object-missing": _answer(404, "BlobNotFound"),
    "seed-missing": _answer(404, "BlobNotFound"),
    "exists-already": _answer(409, "BlobAlreadyExists", after_effect=True),
    "fenced": _answer(412, "SequenceNumberConditionNotMet"),
    "leased": _answer(412, "LeaseIdMissing"),
    "damaged-in-transit": _answer(400, "Md5Mismatch"),
    "unknown-refusal": _answer(400, "InvalidHeaderValue"),
    "being-deleted": _answer(409, "ContainerBeingDeleted"),
}
"""Ordered with `BlobControl.order`; narrow one to an operation or a path with `dataclasses.replace`."""
