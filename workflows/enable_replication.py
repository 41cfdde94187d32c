"""`EnableReplication`: what people start. It checks, starts the replication under its one right id, and ends with that id."""

from temporalio import workflow
from temporalio.exceptions import FailureError, WorkflowAlreadyStartedError

with workflow.unsafe.imports_passed_through():
    from activities.policies import Policies
    from activities.prerequisites import SourceChecks, TargetChecks
    from activities.site import SiteActivities
    from deltaferry.model.errors import ErrorKind
    from deltaferry.model.policy import ReplicationPolicy
    from deltaferry.model.replication import ReplicationRef
    from deltaferry.planning.policy import Schedule, contradictions
    from workflows import names
    from workflows.messages.operator_input import EnableInput, PolicyOptions
    from workflows.messages.replication_state import EntityState, ReplicateVmInput, Replication
    from workflows.messages.site import (
        CheckedSource,
        CheckSourceInput,
        CheckTargetInput,
        EnableResult,
        FindingView,
        SiteInput,
        SiteProfile,
    )
    from workflows.policies import ASK
    from workflows.refusals import EXAMPLES
    from workflows.slots.holding import ensure_arbiter
    from workflows.steps import failure_of, perform, refusal

_ERROR = "error"


@workflow.defn(name=names.ENABLE_REPLICATION)
class EnableReplication:
    """Finds the VM, runs the read-only prerequisite checks, starts the entity: that start is the lock."""

    @workflow.run
    async def run(self, request: EnableInput | None = None) -> EnableResult:
        """Enable replication of one VM. Fails with every finding at once."""
        if request is None:
            raise refusal(ErrorKind.BAD_INPUT, f"EnableReplication needs an input. Write for example {EXAMPLES['EnableInput']}")
        try:
            profile = await self._site(request)
            policy = await self._policy(profile, request.policy)
            source = await self._check_source(profile, request)
            findings = source.findings + await self._check_target(profile, source, request)
        except FailureError as error:
            failure = failure_of(error)
            if failure.kind is ErrorKind.INTERRUPTED:
                raise refusal(
                    ErrorKind.VSPHERE_UNREACHABLE,
                    f"No worker answered for the site {request.site!r}: is its source worker running, and the target's? ({failure.detail})",
                ) from error
            raise refusal(failure.kind, failure.detail) from error
        self._refuse_findings(source, findings)
        return await self._start(profile, source, request, findings, policy)

    async def _site(self, request: EnableInput) -> SiteProfile:
        return await perform(
            SiteActivities.describe_site,
            SiteInput(request.site),
            queue=names.CONTROL_QUEUE,
            limits=ASK,
            summary=f"site {request.site}",
        )

    async def _policy(self, profile: SiteProfile, asked: PolicyOptions | str | None) -> ReplicationPolicy | None:
        """Return the policy that is asked for, by name or whole; refuse one that cannot be kept at the site."""
        if asked is None:
            return None
        if isinstance(asked, PolicyOptions):
            policy = asked.policy()
        else:
            policy = await perform(Policies.find_policy, asked, queue=names.CONTROL_QUEUE, limits=ASK, summary=f"policy {asked}")
        found = contradictions(policy, Schedule(profile.min_interval, profile.max_interval))
        if found:
            raise refusal(ErrorKind.BAD_INPUT, f"The policy cannot be kept. {' '.join(found)}")
        return policy

    async def _check_source(self, profile: SiteProfile, request: EnableInput) -> CheckedSource:
        return await perform(
            SourceChecks.check_source,
            CheckSourceInput(profile, request.vm, request.target, failback_wanted=request.policy is not None),
            queue=names.vsphere_queue(profile.site),
            limits=ASK,
            summary=f"find and check {request.vm}",
        )

    async def _check_target(self, profile: SiteProfile, source: CheckedSource, request: EnableInput) -> tuple[FindingView, ...]:
        checked = await perform(
            TargetChecks.check_target,
            CheckTargetInput(profile.target, request.target, source.vm_name),
            queue=names.azure_queue(profile.target),
            limits=ASK,
            summary=f"check the target {profile.target}",
        )
        return checked.findings

    def _refuse_findings(self, source: CheckedSource, findings: tuple[FindingView, ...]) -> None:
        errors = [finding for finding in findings if finding.severity == _ERROR]
        lines = [f"- **{f.severity}** `{f.code}`: {f.cause} {f.remedy}" for f in findings]
        workflow.set_current_details("\n".join([f"### {source.vm_name}", "", *(lines or ["All prerequisites are met."])]))
        if errors:
            sentences = " ".join(f"[{f.code}] {f.cause} {f.remedy}" for f in errors)
            raise refusal(
                ErrorKind.PREREQUISITES_FAILED,
                f"{source.vm_name} cannot be replicated yet; {len(errors)} prerequisite(s) failed. {sentences}",
            )

    async def _start(
        self,
        profile: SiteProfile,
        source: CheckedSource,
        request: EnableInput,
        findings: tuple[FindingView, ...],
        policy: ReplicationPolicy | None,
    ) -> EnableResult:
        ref = ReplicationRef(
            installation=profile.installation,
            site=profile.site,
            target=profile.target,
            instance_uuid=source.instance_uuid,
            replication_id=workflow.uuid4().hex[:16],
        )
        replication = Replication(ref, source.vm_name, profile, source.disks, source.generation, source.os_type)
        state = EntityState(target=request.target, placement=source.placement, auto_repair=request.auto_repair)
        state.policy = policy
        workflow_id = names.replication_id(profile.site, source.instance_uuid)
        await ensure_arbiter(profile)
        try:
            await workflow.start_child_workflow(
                names.REPLICATE_VM,
                ReplicateVmInput(replication, state),
                id=workflow_id,
                task_queue=names.CONTROL_QUEUE,
                parent_close_policy=workflow.ParentClosePolicy.ABANDON,
                static_summary=f"replication of {source.vm_name}",
            )
        except WorkflowAlreadyStartedError:
            raise refusal(
                ErrorKind.ALREADY_PROTECTED, f"{source.vm_name} is being replicated already: its workflow is {workflow_id}."
            ) from None
        return EnableResult(workflow_id, source.vm_name, source.instance_uuid, ref.replication_id, findings)
