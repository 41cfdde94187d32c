"""How a replication goes on when its VM came home to another place (spec §8): for the VM that was made there, under its id.

A replication's workflow id is computed from its VM's instance UUID, and the VM is another one now. So it hands its state to
a workflow of the new id, with the replication's own id and all that is stored under that, and ends.
"""

import dataclasses
from abc import abstractmethod
from typing import Any

from temporalio import workflow
from temporalio.exceptions import WorkflowAlreadyStartedError

from activities.cleanup import SourceCleanup
from deltaferry.planning.dr_states import TESTS_UP, AnyOperation
from deltaferry.planning.transitions import Verdict
from workflows import names
from workflows.entity.failback import EntityFailback
from workflows.messages.operator_input import ReprotectOptions
from workflows.messages.replication_state import ReplicateVmInput
from workflows.messages.reverse_records import MadeVm
from workflows.messages.site import Placement
from workflows.messages.step import CleanSourceInput
from workflows.policies import PREPARE
from workflows.reverse.steps import at_place, keep_made_vm, release_mark
from workflows.slots.holding import leave_site
from workflows.steps import perform

_ACCEPTED = "A VM is made at that place, and gets what the VM in Azure holds; the one that it came from stays as it is."


class EntityElsewhere(EntityFailback):
    """Goes over to the VM that was made at another place, and lets go of the one that it came from."""

    async def _let_original_go(self, made: MadeVm) -> None:
        """Let the VM that was made stay, and give the one that it came from back as stopping replication gives it back."""
        s = self._state
        await keep_made_vm(self._replication, made)
        await release_mark(self._replication)
        placement = s.placement if s.cbt_enabled_by_us else Placement()
        async with self._slots.momentary_snapshot(self.profile(), placement):
            await perform(
                SourceCleanup.clean_source,
                CleanSourceInput(self._replication, s.cbt_enabled_by_us),
                queue=names.vsphere_queue(self._replication.ref.site),
                limits=PREPARE,
                summary="give the VM that it came from back as it was",
            )

    def _move_to(self, made: MadeVm) -> None:
        """Take the VM that was made for the replicated one from now on; its replication goes on under that one's workflow id."""
        s = self._state
        self._replication = dataclasses.replace(at_place(self._replication, made), vm_name=made.name)
        s.cbt_enabled_by_us, s.placement = True, made.placement
        self._moved_to = names.replication_id(self._replication.ref.site, made.instance_uuid)

    def judge(self, operation: AnyOperation, argument: Any) -> Verdict:
        """Return whether an operation is accepted now; nothing is any more once the replication goes on under another id."""
        if self._moved_to:
            return Verdict(False, f"The VM came home to another place: its replication goes on as {self._moved_to}.")
        verdict = super().judge(operation, argument)
        reverse = self._has_reverse()
        given = isinstance(argument, ReprotectOptions) and argument.location is not None
        if verdict.accepted and given:
            return Verdict(True, _ACCEPTED)
        if verdict.accepted or not given or reverse is None or not reverse.job_id:
            return verdict
        return Verdict(
            False,
            f"{verdict.sentence} To use another location, cancel the workflow {reverse.job_id} first: it undoes what it did.",
        )

    async def _go_on_elsewhere(self) -> None:
        """Start the replication under the id of the VM that it goes on for; this workflow ends."""
        await self._cut_has_ended()
        await self._leave_group()
        await self._archive()
        await workflow.wait_condition(
            lambda: (
                workflow.all_handlers_finished() and not self._starting and all(t.state in TESTS_UP for t in self._state.tests)
            )
        )
        await self._record()  # what was reported meanwhile; `adopt` would start the same
        try:
            await workflow.start_child_workflow(
                names.REPLICATE_VM,
                ReplicateVmInput(self._replication, self._state),
                id=self._moved_to,
                task_queue=names.CONTROL_QUEUE,
                parent_close_policy=workflow.ParentClosePolicy.ABANDON,
                static_summary=f"replication of {self._replication.vm_name}",
            )
        except WorkflowAlreadyStartedError:
            workflow.logger.info("the replication goes on as %s already", self._moved_to)
        await leave_site(self.profile(), workflow.info().workflow_id)
        self._say(f"the VM came home to another place: its replication goes on as {self._moved_to}")

    @abstractmethod
    async def _archive(self) -> None:
        """Archive this run's history."""

    @abstractmethod
    async def _leave_group(self) -> None:
        """Leave the replication group, if it is in one."""
