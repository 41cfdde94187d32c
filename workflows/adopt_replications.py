"""`AdoptReplications`: starts replications again from their commit records, after the Temporal database was lost."""

import dataclasses

from temporalio import workflow
from temporalio.exceptions import FailureError, WorkflowAlreadyStartedError

with workflow.unsafe.imports_passed_through():
    from activities.archive import Archive
    from activities.site import SiteActivities
    from deltaferry.model.errors import ErrorKind
    from deltaferry.model.states import MigrationState
    from workflows import names
    from workflows.messages.operator_input import AdoptInput
    from workflows.messages.replication_state import EntityState, FailureView, ReplicateVmInput
    from workflows.messages.site import SiteInput, SiteProfile
    from workflows.messages.step import AdoptResult, CommitRecords, CommitRecordsInput
    from workflows.policies import ASK
    from workflows.refusals import EXAMPLES
    from workflows.slots.holding import ensure_arbiter
    from workflows.steps import failure_of, health_error, perform, refusal


@workflow.defn(name=names.ADOPT_REPLICATIONS)
class AdoptReplications:
    """Reads the gateway store and starts every replication of a site that does not run."""

    @workflow.run
    async def run(self, request: AdoptInput | None = None) -> AdoptResult:
        """Adopt a site's replications, or one VM's, page by page of their commit records."""
        if request is None:
            raise refusal(ErrorKind.BAD_INPUT, f"AdoptReplications needs an input. Write for example {EXAMPLES['AdoptInput']}")
        try:
            profile = await perform(
                SiteActivities.describe_site,
                SiteInput(request.site),
                queue=names.CONTROL_QUEUE,
                limits=ASK,
                summary=f"site {request.site}",
            )
            found = await self._page(profile, request.vm, "")
            await ensure_arbiter(_newest(profile, found))
            result = await self._adopted(AdoptResult((), ()), found)
            while found.ended_with:
                found = await self._page(profile, request.vm, found.ended_with)
                result = await self._adopted(result, found)
            return result
        except FailureError as error:
            failure = failure_of(error)
            raise refusal(failure.kind, failure.detail) from error

    async def _page(self, profile: SiteProfile, vm: str | None, after: str) -> CommitRecords:
        return await perform(
            Archive.read_commit_records,
            CommitRecordsInput(profile, after, vm),
            queue=names.apply_queue(profile.target),
            limits=ASK,
            summary=f"read the commit records{' behind ' + after if after else ''}",
        )

    async def _adopted(self, so_far: AdoptResult, found: CommitRecords) -> AdoptResult:
        """Start what a page has and does not run."""
        adopted = list(so_far.adopted)
        skipped = [*so_far.skipped, *((name, "its commit record cannot be used") for name in found.unreadable)]
        for record in found.records:
            ref = record.replication.ref
            workflow_id = names.replication_id(ref.site, ref.instance_uuid)
            try:
                await workflow.start_child_workflow(
                    names.REPLICATE_VM,
                    ReplicateVmInput(record.replication, self._awakened(record.state)),
                    id=workflow_id,
                    task_queue=names.CONTROL_QUEUE,
                    parent_close_policy=workflow.ParentClosePolicy.ABANDON,
                    static_summary=f"replication of {record.replication.vm_name}",
                )
            except WorkflowAlreadyStartedError:
                skipped.append((workflow_id, "it runs already"))
                continue
            adopted.append(workflow_id)
        return AdoptResult(tuple(adopted), tuple(skipped))

    def _awakened(self, state: EntityState) -> EntityState:
        """Return a state to start from: a migration that was queued is not begun by itself. One in progress is the entity's to look after."""
        if state.migration_state is not MigrationState.MIGRATION_QUEUED:
            return state
        cut = FailureView(ErrorKind.INTERRUPTED, "The replication was adopted while a migration was queued; it has not begun.")
        return dataclasses.replace(
            state, migration_state=MigrationState.MIGRATION_FAILED, health=(health_error(cut, workflow.now(), retried=False),)
        )


def _newest(configured: SiteProfile, first_page: CommitRecords) -> SiteProfile:
    """Return the site's settings as operators last changed them, as far as any replication has heard of it."""
    newest = first_page.settings
    if newest is None or newest.revision <= configured.revision:
        return configured
    return dataclasses.replace(newest, appliance=configured.appliance)
