"""The verbs that people and services send to a replication: each one an update, which answers, and a signal of the same name.

Handlers only judge and set fields; the run method decides what happens. An update that the state refuses fails with the
sentence that says why; a signal that is refused, or that cannot be read, changes nothing and is shown as the last
refused request.
"""

import dataclasses
from abc import abstractmethod
from datetime import datetime
from typing import Any, TypeVar

from temporalio import workflow

from deltaferry.model.errors import ErrorKind
from deltaferry.model.states import Operation
from deltaferry.planning.dr_operations import judge
from deltaferry.planning.dr_states import AnyOperation, DrSituation
from deltaferry.planning.transitions import Verdict
from workflows.messages.operator_input import EndOptions, MigrateOptions, Reason, RepairOptions, TargetProperties, VerifyOptions
from workflows.messages.replication_state import Refusal
from workflows.refusals import UnreadableInputError, read_input
from workflows.steps import refusal

T = TypeVar("T")

_NO_REASON = Reason()
_AS_USUAL = MigrateOptions()
_PLAIN_END = EndOptions()
_PLAIN_REPAIR = RepairOptions()
_PLAIN_VERIFY = VerifyOptions()

_REASON = 'input: {"reason": "why"} or nothing'
_MIGRATE = 'input: {"keep_source_running": false, "shutdown_timeout": "PT10M", "allow_power_off": false, "override_blackout": false, "reason": "why"} or nothing'
_REPAIR = 'input: {"full_copy": false, "reset_tracking": false, "reason": "why"} or nothing'
_VERIFY = 'input: {"with_source": false, "reason": "why"} or nothing'
_END = 'input: {"keep_change_tracking": false, "reason": "why"} or nothing'
_TARGET = 'input: {"size": "Standard_D4s_v5", "subnet": "web"}: the properties to change'


class ReplicationCommands:
    """The handlers; what a workflow does with an accepted command is its own."""

    @abstractmethod
    def situation(self) -> DrSituation:
        """Return what the table of allowed operations needs to know."""

    @abstractmethod
    def accept(self, operation: AnyOperation, argument: Any) -> None:
        """Note an accepted command for the run method."""

    @abstractmethod
    def refused(self, refused: Refusal) -> None:
        """Note a refused signal for status and details."""

    def judge(self, operation: AnyOperation, argument: Any) -> Verdict:
        """Return whether an operation is accepted now, with the sentence."""
        situation = self.situation()
        if isinstance(argument, MigrateOptions) and argument.override_blackout:
            situation = dataclasses.replace(situation, closed_until=None)
        return judge(operation, situation)

    def _check(self, operation: AnyOperation, argument: Any = None) -> None:
        verdict = self.judge(operation, argument)
        if not verdict.accepted:
            raise refusal(ErrorKind.OPERATION_REFUSED, verdict.sentence)

    def _carry_out(self, operation: AnyOperation, argument: Any) -> str:
        verdict = self.judge(operation, argument)
        if not verdict.accepted:
            raise refusal(ErrorKind.OPERATION_REFUSED, verdict.sentence)
        self.accept(operation, argument)
        return verdict.sentence

    def _signalled(self, operation: AnyOperation, raw: Any, kind: type[T]) -> None:
        now: datetime = workflow.now()
        try:
            argument = read_input(operation.value, kind, raw)
        except UnreadableInputError as error:
            self.refused(Refusal(operation.value, str(error), now))
            return
        verdict = self.judge(operation, argument)
        if verdict.accepted:
            self.accept(operation, argument)
        else:
            self.refused(Refusal(operation.value, verdict.sentence, now))

    # --- pause ---

    @workflow.update(name=Operation.PAUSE.value, description=f"Finish the running cycle, then run none until resume. {_REASON}")
    def pause(self, reason: Reason = _NO_REASON) -> str:
        """Pause."""
        return self._carry_out(Operation.PAUSE, reason)

    @pause.validator
    def _pause_valid(self, reason: Reason = _NO_REASON) -> None:
        self._check(Operation.PAUSE)

    @workflow.signal(name=Operation.PAUSE.value, description=f"Finish the running cycle, then run none until resume. {_REASON}")
    def pause_signal(self, reason: Any = None) -> None:
        """Pause."""
        self._signalled(Operation.PAUSE, reason, Reason)

    # --- resume ---

    @workflow.update(name=Operation.RESUME.value, description=f"Run cycles again. {_REASON}")
    def resume(self, reason: Reason = _NO_REASON) -> str:
        """Resume."""
        return self._carry_out(Operation.RESUME, reason)

    @resume.validator
    def _resume_valid(self, reason: Reason = _NO_REASON) -> None:
        self._check(Operation.RESUME)

    @workflow.signal(name=Operation.RESUME.value, description=f"Run cycles again. {_REASON}")
    def resume_signal(self, reason: Any = None) -> None:
        """Resume."""
        self._signalled(Operation.RESUME, reason, Reason)

    # --- migrate ---

    @workflow.update(name=Operation.MIGRATE.value, description=f"Migrate now. {_MIGRATE}")
    def migrate_now(self, options: MigrateOptions = _AS_USUAL) -> str:
        """Migrate."""
        return self._carry_out(Operation.MIGRATE, options)

    @migrate_now.validator
    def _migrate_valid(self, options: MigrateOptions = _AS_USUAL) -> None:
        self._check(Operation.MIGRATE, options)

    @workflow.signal(name=Operation.MIGRATE.value, description=f"Migrate now. {_MIGRATE}")
    def migrate_signal(self, options: Any = None) -> None:
        """Migrate."""
        self._signalled(Operation.MIGRATE, options, MigrateOptions)

    # --- retry ---

    @workflow.update(name=Operation.RETRY.value, description=f"Try again what failed and waits. {_REASON}")
    def retry(self, reason: Reason = _NO_REASON) -> str:
        """Retry."""
        return self._carry_out(Operation.RETRY, reason)

    @retry.validator
    def _retry_valid(self, reason: Reason = _NO_REASON) -> None:
        self._check(Operation.RETRY)

    @workflow.signal(name=Operation.RETRY.value, description=f"Try again what failed and waits. {_REASON}")
    def retry_signal(self, reason: Any = None) -> None:
        """Retry."""
        self._signalled(Operation.RETRY, reason, Reason)

    # --- repair ---

    @workflow.update(
        name=Operation.REPAIR.value, description=f"Resynchronise a replication that is Repair pending, now. {_REPAIR}"
    )
    def repair(self, options: RepairOptions = _PLAIN_REPAIR) -> str:
        """Repair."""
        return self._carry_out(Operation.REPAIR, options)

    @repair.validator
    def _repair_valid(self, options: RepairOptions = _PLAIN_REPAIR) -> None:
        self._check(Operation.REPAIR)

    @workflow.signal(
        name=Operation.REPAIR.value, description=f"Resynchronise a replication that is Repair pending, now. {_REPAIR}"
    )
    def repair_signal(self, options: Any = None) -> None:
        """Repair."""
        self._signalled(Operation.REPAIR, options, RepairOptions)

    # --- resync ---

    @workflow.update(
        name=Operation.RESYNC.value,
        description=f"Compare the seed disks with the source by checksums, now, and send what differs. {_REPAIR}",
    )
    def resync(self, options: RepairOptions = _PLAIN_REPAIR) -> str:
        """Resynchronise."""
        return self._carry_out(Operation.RESYNC, options)

    @resync.validator
    def _resync_valid(self, options: RepairOptions = _PLAIN_REPAIR) -> None:
        self._check(Operation.RESYNC)

    @workflow.signal(
        name=Operation.RESYNC.value,
        description=f"Compare the seed disks with the source by checksums, now, and send what differs. {_REPAIR}",
    )
    def resync_signal(self, options: Any = None) -> None:
        """Resynchronise."""
        self._signalled(Operation.RESYNC, options, RepairOptions)

    # --- verify ---

    @workflow.update(
        name=Operation.VERIFY.value, description=f"Read the seed disks and compare them with what was committed. {_VERIFY}"
    )
    def verify(self, options: VerifyOptions = _PLAIN_VERIFY) -> str:
        """Verify."""
        return self._carry_out(Operation.VERIFY, options)

    @verify.validator
    def _verify_valid(self, options: VerifyOptions = _PLAIN_VERIFY) -> None:
        self._check(Operation.VERIFY)

    @workflow.signal(
        name=Operation.VERIFY.value, description=f"Read the seed disks and compare them with what was committed. {_VERIFY}"
    )
    def verify_signal(self, options: Any = None) -> None:
        """Verify."""
        self._signalled(Operation.VERIFY, options, VerifyOptions)

    # --- rollback ---

    @workflow.update(name=Operation.ROLLBACK.value, description=f"Power the source on again after a failed migration. {_REASON}")
    def rollback(self, reason: Reason = _NO_REASON) -> str:
        """Roll back."""
        return self._carry_out(Operation.ROLLBACK, reason)

    @rollback.validator
    def _rollback_valid(self, reason: Reason = _NO_REASON) -> None:
        self._check(Operation.ROLLBACK)

    @workflow.signal(name=Operation.ROLLBACK.value, description=f"Power the source on again after a failed migration. {_REASON}")
    def rollback_signal(self, reason: Any = None) -> None:
        """Roll back."""
        self._signalled(Operation.ROLLBACK, reason, Reason)

    # --- stop ---

    @workflow.update(name=Operation.STOP.value, description=f"End replication and delete everything it made. {_END}")
    def stop(self, options: EndOptions = _PLAIN_END) -> str:
        """Stop."""
        return self._carry_out(Operation.STOP, options)

    @stop.validator
    def _stop_valid(self, options: EndOptions = _PLAIN_END) -> None:
        self._check(Operation.STOP)

    @workflow.signal(name=Operation.STOP.value, description=f"End replication and delete everything it made. {_END}")
    def stop_signal(self, options: Any = None) -> None:
        """Stop."""
        self._signalled(Operation.STOP, options, EndOptions)

    # --- complete ---

    @workflow.update(name=Operation.COMPLETE.value, description=f"Finish a migration: delete all but the migrated VM. {_END}")
    def complete(self, options: EndOptions = _PLAIN_END) -> str:
        """Complete."""
        return self._carry_out(Operation.COMPLETE, options)

    @complete.validator
    def _complete_valid(self, options: EndOptions = _PLAIN_END) -> None:
        self._check(Operation.COMPLETE)

    @workflow.signal(name=Operation.COMPLETE.value, description=f"Finish a migration: delete all but the migrated VM. {_END}")
    def complete_signal(self, options: Any = None) -> None:
        """Complete."""
        self._signalled(Operation.COMPLETE, options, EndOptions)

    # --- update_target ---

    @workflow.update(name=Operation.UPDATE_TARGET.value, description=f"Change properties of the VM to make. {_TARGET}")
    def update_target(self, target: TargetProperties) -> str:
        """Change the target's properties."""
        return self._carry_out(Operation.UPDATE_TARGET, target)

    @update_target.validator
    def _update_target_valid(self, target: TargetProperties) -> None:
        self._check(Operation.UPDATE_TARGET)

    @workflow.signal(name=Operation.UPDATE_TARGET.value, description=f"Change properties of the VM to make. {_TARGET}")
    def update_target_signal(self, target: Any = None) -> None:
        """Change the target's properties."""
        self._signalled(Operation.UPDATE_TARGET, target, TargetProperties)
