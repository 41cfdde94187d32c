"""The verbs of disaster recovery, beside those of `commands`: each an update, which answers, and a signal of the same name."""

from typing import Any

from temporalio import workflow

from deltaferry.planning.dr_states import DrOperation
from workflows.entity.commands import ReplicationCommands
from workflows.messages.operator_input import (
    ChangePointOptions,
    CleanUpOptions,
    FailoverOptions,
    MigrateOptions,
    PolicyOptions,
    Reason,
    ReprotectOptions,
    TestOptions,
)

_NO_REASON = Reason()
_LATEST = FailoverOptions()
_AS_USUAL = MigrateOptions()
_ALL_TESTS = CleanUpOptions()
_CAREFUL = ReprotectOptions()

_REASON = 'input: {"reason": "why"} or nothing'
_POINT = "latest, latest-app-consistent, a cycle key, shared:KEY, or an instant"
_TEST = f'input: {{"network": "drill", "subnet": "default", "point": "latest", "reason": "why"}}; a point: {_POINT}'
_CLEAN_UP = 'input: {"test": 1, "reason": "why"} or nothing for all'
_FAILOVER = f'input: {{"point": "latest", "shut_down_source": true, "reason": "why"}} or nothing; a point: {_POINT}'
_PLANNED = 'input: as of migrate_now, {"shutdown_timeout": "PT10M", "allow_power_off": false, "reason": "why"}, or nothing'
_CHANGE = f'input: {{"point": "2026-11-22T12:00:00Z", "reason": "why"}}; a point: {_POINT}'
_LOCATION = '{"datastore": "ds2", "host": "esx-2", "folder": "/prod", "name": "web-01", "networks": {"VM Network": "prod"}}'
_REPROTECT = (
    'input: {"confirm_losses": false, "power_off_source": false, "reason": "why"} or nothing; '
    f'for a new VM at another place besides "location": {_LOCATION}'
)
_POLICY = 'input: {"name": "gold", "rpo_threshold": "PT4H", "retention": "P1D"}'


class RecoveryCommands(ReplicationCommands):
    """The handlers; what is done with an accepted command is in the classes built on this one."""

    # --- test_migrate ---

    @workflow.update(
        name=DrOperation.TEST_MIGRATE.value,
        description=f"Make a VM from a recovery point in an isolated network; replication goes on. {_TEST}",
    )
    def test_migrate(self, options: TestOptions) -> str:
        """Try the VM out."""
        return self._carry_out(DrOperation.TEST_MIGRATE, options)

    @test_migrate.validator
    def _test_migrate_valid(self, options: TestOptions) -> None:
        self._check(DrOperation.TEST_MIGRATE, options)

    @workflow.signal(
        name=DrOperation.TEST_MIGRATE.value,
        description=f"Make a VM from a recovery point in an isolated network; replication goes on. {_TEST}",
    )
    def test_migrate_signal(self, options: Any = None) -> None:
        """Try the VM out."""
        self._signalled(DrOperation.TEST_MIGRATE, options, TestOptions)

    # --- clean_up ---

    @workflow.update(name=DrOperation.CLEAN_UP.value, description=f"Delete what tests have made. {_CLEAN_UP}")
    def clean_up(self, options: CleanUpOptions = _ALL_TESTS) -> str:
        """Delete tests."""
        return self._carry_out(DrOperation.CLEAN_UP, options)

    @clean_up.validator
    def _clean_up_valid(self, options: CleanUpOptions = _ALL_TESTS) -> None:
        self._check(DrOperation.CLEAN_UP, options)

    @workflow.signal(name=DrOperation.CLEAN_UP.value, description=f"Delete what tests have made. {_CLEAN_UP}")
    def clean_up_signal(self, options: Any = None) -> None:
        """Delete tests."""
        self._signalled(DrOperation.CLEAN_UP, options, CleanUpOptions)

    # --- failover ---

    @workflow.update(name=DrOperation.FAILOVER.value, description=f"Start the VM in Azure from a recovery point. {_FAILOVER}")
    def failover(self, options: FailoverOptions = _LATEST) -> str:
        """Fail over."""
        return self._carry_out(DrOperation.FAILOVER, options)

    @failover.validator
    def _failover_valid(self, options: FailoverOptions = _LATEST) -> None:
        self._check(DrOperation.FAILOVER, options)

    @workflow.signal(name=DrOperation.FAILOVER.value, description=f"Start the VM in Azure from a recovery point. {_FAILOVER}")
    def failover_signal(self, options: Any = None) -> None:
        """Fail over."""
        self._signalled(DrOperation.FAILOVER, options, FailoverOptions)

    # --- planned_failover ---

    @workflow.update(
        name=DrOperation.PLANNED_FAILOVER.value,
        description=f"Shut the source down and start the VM in Azure with all its data. {_PLANNED}",
    )
    def planned_failover(self, options: MigrateOptions = _AS_USUAL) -> str:
        """Fail over, losing nothing."""
        return self._carry_out(DrOperation.PLANNED_FAILOVER, options)

    @planned_failover.validator
    def _planned_failover_valid(self, options: MigrateOptions = _AS_USUAL) -> None:
        self._check(DrOperation.PLANNED_FAILOVER, options)

    @workflow.signal(
        name=DrOperation.PLANNED_FAILOVER.value,
        description=f"Shut the source down and start the VM in Azure with all its data. {_PLANNED}",
    )
    def planned_failover_signal(self, options: Any = None) -> None:
        """Fail over, losing nothing."""
        self._signalled(DrOperation.PLANNED_FAILOVER, options, MigrateOptions)

    # --- change_recovery_point ---

    @workflow.update(
        name=DrOperation.CHANGE_POINT.value,
        description=f"Replace the failed-over VM by one from another recovery point. {_CHANGE}",
    )
    def change_recovery_point(self, options: ChangePointOptions) -> str:
        """Change the recovery point."""
        return self._carry_out(DrOperation.CHANGE_POINT, options)

    @change_recovery_point.validator
    def _change_recovery_point_valid(self, options: ChangePointOptions) -> None:
        self._check(DrOperation.CHANGE_POINT, options)

    @workflow.signal(
        name=DrOperation.CHANGE_POINT.value,
        description=f"Replace the failed-over VM by one from another recovery point. {_CHANGE}",
    )
    def change_recovery_point_signal(self, options: Any = None) -> None:
        """Change the recovery point."""
        self._signalled(DrOperation.CHANGE_POINT, options, ChangePointOptions)

    # --- commit ---

    @workflow.update(
        name=DrOperation.COMMIT.value, description=f"Make the failover final, and delete the other recovery points. {_REASON}"
    )
    def commit(self, options: Reason = _NO_REASON) -> str:
        """Commit the failover."""
        return self._carry_out(DrOperation.COMMIT, options)

    @commit.validator
    def _commit_valid(self, options: Reason = _NO_REASON) -> None:
        self._check(DrOperation.COMMIT, options)

    @workflow.signal(
        name=DrOperation.COMMIT.value, description=f"Make the failover final, and delete the other recovery points. {_REASON}"
    )
    def commit_signal(self, options: Any = None) -> None:
        """Commit the failover."""
        self._signalled(DrOperation.COMMIT, options, Reason)

    # --- cancel_failover ---

    @workflow.update(name=DrOperation.CANCEL.value, description=f"Delete the failed-over VM and replicate again. {_REASON}")
    def cancel_failover(self, options: Reason = _NO_REASON) -> str:
        """Cancel the failover."""
        return self._carry_out(DrOperation.CANCEL, options)

    @cancel_failover.validator
    def _cancel_failover_valid(self, options: Reason = _NO_REASON) -> None:
        self._check(DrOperation.CANCEL, options)

    @workflow.signal(name=DrOperation.CANCEL.value, description=f"Delete the failed-over VM and replicate again. {_REASON}")
    def cancel_failover_signal(self, options: Any = None) -> None:
        """Cancel the failover."""
        self._signalled(DrOperation.CANCEL, options, Reason)

    # --- reprotect ---

    @workflow.update(name=DrOperation.REPROTECT.value, description=f"Replicate the failed-over VM back to its site. {_REPROTECT}")
    def reprotect(self, options: ReprotectOptions = _CAREFUL) -> str:
        """Reprotect."""
        return self._carry_out(DrOperation.REPROTECT, options)

    @reprotect.validator
    def _reprotect_valid(self, options: ReprotectOptions = _CAREFUL) -> None:
        self._check(DrOperation.REPROTECT, options)

    @workflow.signal(name=DrOperation.REPROTECT.value, description=f"Replicate the failed-over VM back to its site. {_REPROTECT}")
    def reprotect_signal(self, options: Any = None) -> None:
        """Reprotect."""
        self._signalled(DrOperation.REPROTECT, options, ReprotectOptions)

    # --- failback ---

    @workflow.update(name=DrOperation.FAILBACK.value, description=f"Stop the VM in Azure and start it at its site. {_REASON}")
    def failback(self, options: Reason = _NO_REASON) -> str:
        """Fail back."""
        return self._carry_out(DrOperation.FAILBACK, options)

    @failback.validator
    def _failback_valid(self, options: Reason = _NO_REASON) -> None:
        self._check(DrOperation.FAILBACK, options)

    @workflow.signal(name=DrOperation.FAILBACK.value, description=f"Stop the VM in Azure and start it at its site. {_REASON}")
    def failback_signal(self, options: Any = None) -> None:
        """Fail back."""
        self._signalled(DrOperation.FAILBACK, options, Reason)

    # --- commit_failback ---

    @workflow.update(
        name=DrOperation.COMMIT_FAILBACK.value, description=f"Delete the VM in Azure and replicate to Azure again. {_REASON}"
    )
    def commit_failback(self, options: Reason = _NO_REASON) -> str:
        """Commit the failback."""
        return self._carry_out(DrOperation.COMMIT_FAILBACK, options)

    @commit_failback.validator
    def _commit_failback_valid(self, options: Reason = _NO_REASON) -> None:
        self._check(DrOperation.COMMIT_FAILBACK, options)

    @workflow.signal(
        name=DrOperation.COMMIT_FAILBACK.value, description=f"Delete the VM in Azure and replicate to Azure again. {_REASON}"
    )
    def commit_failback_signal(self, options: Any = None) -> None:
        """Commit the failback."""
        self._signalled(DrOperation.COMMIT_FAILBACK, options, Reason)

    # --- update_policy ---

    @workflow.update(name=DrOperation.UPDATE_POLICY.value, description=f"Change the replication policy. {_POLICY}")
    def update_policy(self, options: PolicyOptions) -> str:
        """Change the policy."""
        return self._carry_out(DrOperation.UPDATE_POLICY, options)

    @update_policy.validator
    def _update_policy_valid(self, options: PolicyOptions) -> None:
        self._check(DrOperation.UPDATE_POLICY, options)

    @workflow.signal(name=DrOperation.UPDATE_POLICY.value, description=f"Change the replication policy. {_POLICY}")
    def update_policy_signal(self, options: Any = None) -> None:
        """Change the policy."""
        self._signalled(DrOperation.UPDATE_POLICY, options, PolicyOptions)
