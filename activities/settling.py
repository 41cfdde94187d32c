"""What a commit leaves to do: its recovery point and its record are written, and what they make superfluous is deleted."""

from collections.abc import Mapping

from pydantic import TypeAdapter
from temporalio import activity

from activities.adapters import Target
from activities.failures import translated
from activities.progress import Heartbeats
from activities.recovery_points import pruned
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.naming import COMMIT_RECORD, CYCLES_PREFIX, gateway_container, log_container
from workflows.messages.dr import PrunePointsInput
from workflows.messages.replication_state import ReplicateVmInput
from workflows.messages.step import OnReplication, SettledCycle, SettleInput

COMMIT_RECORD_ADAPTER = TypeAdapter(ReplicateVmInput)
"""The commit record is the very input that starts the entity again, as JSON."""


class Settling:
    """Works beside a target's stores once a cycle is committed, or has failed."""

    def __init__(self, targets: Mapping[str, Target]) -> None:
        self._targets = targets

    @activity.defn
    @translated
    def settle_cycle(self, request: SettleInput) -> SettledCycle:
        """Write the recovery point and the commit record; then delete all cycles' objects and the points that are due.

        With `record_only`, only the commit record is written, and nothing is deleted.
        Raises SEED_MISSING if a snapshot of the point is gone: then the record is not written either.
        """
        beats = Heartbeats("settling the commit")
        ref = request.replication.ref
        target = self._targets[ref.target]
        stores, point = target.stores, request.state.point
        if point is not None and not request.record_only:
            target.points.write(ref, point)
        record = COMMIT_RECORD_ADAPTER.dump_json(ReplicateVmInput(request.replication, request.state))
        stores.gateway.put(f"{gateway_container(ref)}/{COMMIT_RECORD}", record)
        if request.record_only:
            return SettledCycle()
        stores.log.delete_prefix(log_container(ref), CYCLES_PREFIX)
        stores.gateway.delete_prefix(gateway_container(ref), CYCLES_PREFIX)
        if point is None:
            return SettledCycle()
        if request.at is None:
            raise DeltaferryError(ErrorKind.INTERNAL, "a settlement that deletes must say by what time")
        policy = request.state.policy
        due = PrunePointsInput(request.replication, request.at, point.fence, policy.retention if policy is not None else None)
        return SettledCycle(pruned(target, due, beats.beat).points)

    @activity.defn
    @translated
    def discard_logs(self, request: OnReplication) -> None:
        """Delete the log of a cycle that failed; its plan stays until the next commit, since the next plan needs it."""
        ref = request.replication.ref
        self._targets[ref.target].stores.log.delete_prefix(log_container(ref), CYCLES_PREFIX)
