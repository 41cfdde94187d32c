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
    from workflows.holding_slots import ensure_arbiter
    from workflows.operator_input import AdoptInput
    from workflows.policies import ASK
    from workflows.refusals import EXAMPLES
    from workflows.replication_state import EntityState, FailureView, ReplicateVmInput
    from workflows.site_messages import SiteInput, SiteProfile
    from workflows.step_messages import AdoptResult
    from workflows.steps import failure_of, health_error, perform, refusal


@workflow.defn(name=names.ADOPT_REPLICATIONS)
class AdoptReplications:
    """Reads the gateway store and starts every replication of a site that does not run."""

    @workflow.run
    async def run(self, request: AdoptInput | None = None) -> AdoptResult:
        """Adopt a site's replications, or one VM's."""
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
            found = await perform(
                Archive.read_commit_records,
                profile,
                queue=names.apply_queue(profile.target),
                limits=ASK,
                summary="read the commit records",
            )
        except FailureError as error:
            failure = failure_of(error)
            raise refusal(failure.kind, failure.detail) from error
        await ensure_arbiter(_newest(profile, [record.state for record in found.records]))
        adopted: list[str] = []
        skipped = [(name, "its commit record cannot be used") for name in found.unreadable]
        for record in found.records:
            ref = record.replication.ref
            if request.vm not in (None, record.replication.vm_name, ref.instance_uuid):
                continue
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


def _newest(configured: SiteProfile, states: list[EntityState]) -> SiteProfile:
    """Return the site's settings as operators last changed them, as far as any replication has heard of it."""
    known = [state.profile for state in states if state.profile is not None]
    newest = max(known, key=lambda profile: profile.revision, default=configured)
    if newest.revision <= configured.revision:
        return configured
    return dataclasses.replace(newest, appliance=configured.appliance)
