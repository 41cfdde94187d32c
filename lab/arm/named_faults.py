"""The faults of Azure Resource Manager's fault table, by the names of its rows: each says what the lab does to provoke it."""

from collections.abc import Mapping
from dataclasses import dataclass

from lab.arm.faults import Faults, Refusal

_DISKS = "/disks/"
_VMS = "/virtualmachines/"
_SNAPSHOTS = "/snapshots/"
_DATA = "/md-"
"""How the paths of signatures begin."""


@dataclass(frozen=True, slots=True)
class OperationFails:
    """A long-running operation is accepted, and ends Failed with this code."""

    action: str
    code: str


@dataclass(frozen=True, slots=True)
class Throttled:
    """The next request is answered 429 with this Retry-After."""

    retry_after_s: float


@dataclass(frozen=True, slots=True)
class ReplyLost:
    """The next request of a method is carried out and not answered."""

    method: str
    path_contains: str


@dataclass(frozen=True, slots=True)
class NoCoresLeft:
    """The region's quota of cores is used up, until the faults are cleared."""


NamedArmFault = Refusal | OperationFails | Throttled | ReplyLost | NoCoresLeft

ARM_FAULTS: Mapping[str, NamedArmFault] = {
    "throttled": Throttled(90),
    "gateway-error": Refusal(504, "GatewayTimeout", path_contains=_DISKS),
    "no-answer": Refusal(0, path_contains=_DISKS),
    "reply-lost": ReplyLost("PUT", _DISKS),
    "token-refused": Refusal(401, "ExpiredAuthenticationToken", path_contains=_DISKS),
    "not-authorized": Refusal(403, "AuthorizationFailed", path_contains=_DISKS),
    "policy": Refusal(403, "RequestDisallowedByPolicy", path_contains=_DISKS),
    "scope-locked": Refusal(409, "ScopeLocked", path_contains=_DISKS),
    "quota": Refusal(409, "QuotaExceeded", path_contains=_DISKS),
    "cores-quota": NoCoresLeft(),
    "size-not-available": Refusal(409, "SkuNotAvailable", path_contains=_VMS),
    "allocation-failed": OperationFails("virtualmachines.create", "AllocationFailed"),
    "not-found": Refusal(404, "ResourceGroupNotFound", path_contains=_DISKS),
    "conflict": Refusal(409, "PropertyChangeNotAllowed", path_contains=_DISKS),
    "in-use": Refusal(400, "NicInUse", path_contains=_VMS),
    "operation-in-progress": Refusal(409, "AnotherOperationInProgress", path_contains=_DISKS),
    "precondition-failed": Refusal(412, "PreconditionFailed", path_contains=_DISKS),
    "operation-failed": OperationFails("disks.import", "InternalExecutionError"),
    "bad-request": Refusal(400, "InvalidParameter", path_contains=_DISKS),
    "other-failure": Refusal(500, "SomethingElse", path_contains=_DISKS),
}


RECOVERY_FAULTS: Mapping[str, NamedArmFault] = {
    "snapshot-rate": Refusal(409, "SnapshotOperationRateExceeded", path_contains=_SNAPSHOTS),
    "snapshot-count": Refusal(409, "SnapshotCountExceeded", path_contains=_SNAPSHOTS),
    "snapshot-failed": OperationFails("snapshots.create", "InternalExecutionError"),
    "snapshot-reply-lost": ReplyLost("PUT", _SNAPSHOTS),
    "signatures-used-up": Refusal(409, "OperationNotAllowed", "POST", "/begingetaccess"),
    "signature-expired": Refusal(403, "AuthenticationFailed", "GET", _DATA),
    "disk-read-busy": Refusal(503, "ServerBusy", "GET", _DATA),
    "disk-read-no-answer": Refusal(0, method="GET", path_contains=_DATA),
    "disk-read-lost": ReplyLost("GET", _DATA),
    "deallocate-failed": OperationFails("virtualmachines.deallocate", "InternalExecutionError"),
    "start-failed": OperationFails("virtualmachines.start", "AllocationFailed"),
    "vm-delete-failed": OperationFails("virtualmachines.delete", "InternalExecutionError"),
}
"""What happens to disaster recovery: not rows of the fault table, which is of replication and migration."""


def ask_for(name: str, faults: Faults) -> None:
    """Ask for a fault by name. Raises KeyError if there is none of that name."""
    match {**ARM_FAULTS, **RECOVERY_FAULTS}[name]:
        case Refusal() as refusal:
            faults.refuse_next(refusal)
        case OperationFails(action, code):
            faults.fail_next(action, code, "Failed on request of the lab.", 1)
        case Throttled(retry_after_s):
            faults.throttle_next(1, retry_after_s)
        case ReplyLost(method, path_contains):
            faults.drop_responses(1, method, path_contains)
        case NoCoresLeft():
            faults.cores_quota = 0
