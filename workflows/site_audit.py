"""`SiteAudit`: finds what does not belong at a site, repairs what is ours and safe, and reports the rest.

The lists pass between its steps through the gateway store; only numbers and the first findings pass through its history.
"""

from temporalio import workflow
from temporalio.exceptions import FailureError

with workflow.unsafe.imports_passed_through():
    from activities.audit import AuditSource, AuditTarget
    from activities.audit_repairs import AuditSourceRepairs, AuditTargetRepairs
    from activities.site import SiteActivities
    from deltaferry.model.audit import Outcome
    from deltaferry.model.errors import ErrorKind
    from deltaferry.planning.phrases import count_text
    from workflows import names
    from workflows.messages.audit import AuditResult, AuditStep
    from workflows.messages.operator_input import AuditInput
    from workflows.messages.site import SiteInput, SiteProfile
    from workflows.policies import ASK, CLEAN, DISCOVER
    from workflows.refusals import EXAMPLES
    from workflows.steps import failure_of, perform, refusal


@workflow.defn(name=names.SITE_AUDIT)
class SiteAudit:
    """Audits a site once: started by the schedule `audit/<site>`, by `deltaferry audit`, or by hand."""

    @workflow.run
    async def run(self, request: AuditInput | None = None) -> AuditResult:
        """Look at both sides, then ask who runs, judge, and repair; in this order, which makes it safe."""
        if request is None:
            raise refusal(ErrorKind.BAD_INPUT, f"SiteAudit needs an input. Write for example {EXAMPLES['AuditInput']}")
        try:
            profile = await perform(
                SiteActivities.describe_site,
                SiteInput(request.site),
                queue=names.CONTROL_QUEUE,
                limits=ASK,
                summary=f"site {request.site}",
            )
            step = AuditStep(profile, self._key(), request.dry_run, request.grace)
            result = await self._look(profile, step)
            if result.to_repair and not request.dry_run:
                result = await self._repair(profile, step)
        except FailureError as error:
            failure = failure_of(error)
            if failure.kind is ErrorKind.INTERRUPTED:
                raise refusal(
                    ErrorKind.VSPHERE_UNREACHABLE,
                    f"No worker answered for the site {request.site!r}: is its source worker running, and the target's? ({failure.detail})",
                ) from error
            raise refusal(failure.kind, failure.detail) from error
        workflow.set_current_details(details(result))
        return result

    def _key(self) -> str:
        return f"{workflow.now():%Y%m%dT%H%M%SZ}-{workflow.info().run_id[:8]}"

    async def _look(self, profile: SiteProfile, step: AuditStep) -> AuditResult:
        await perform(
            AuditTarget.survey_target,
            step,
            queue=names.azure_queue(profile.target),
            limits=DISCOVER,
            summary="commit records, stores, Azure",
        )
        await perform(
            AuditSource.survey_source,
            step,
            queue=names.vsphere_queue(profile.site),
            limits=DISCOVER,
            summary=f"the VMs of {profile.site}",
        )
        return await perform(
            AuditTarget.judge_site,
            step,
            queue=names.apply_queue(profile.target),
            limits=DISCOVER,
            summary="who runs, and what belongs to nobody",
        )

    async def _repair(self, profile: SiteProfile, step: AuditStep) -> AuditResult:
        await perform(
            AuditSourceRepairs.repair_source,
            step,
            queue=names.vsphere_queue(profile.site),
            limits=CLEAN,
            summary="remove snapshots, consolidate, release slots",
        )
        return await perform(
            AuditTargetRepairs.repair_target,
            step,
            queue=names.apply_queue(profile.target),
            limits=CLEAN,
            summary="delete logs",
        )


def details(result: AuditResult) -> str:
    """Return what the Temporal UI shows of an audit."""
    counts = [
        f"{count_text(result.found, 'finding')}, {result.repaired} repaired, {result.left} left",
        *([f"{result.failed} could not be repaired"] if result.failed else []),
        *([f"dry run: {result.to_repair} would be repaired"] if result.dry_run else []),
    ]
    lines = [f"### {result.site} at {result.read_at:%Y-%m-%d %H:%M:%S} UTC", "", *(f"- {count}" for count in counts), ""]
    for finding in result.findings:
        became = f"**{finding.outcome.value}** " if finding.outcome is not Outcome.FOUND else ""
        why = f" ({finding.detail})" if finding.detail else ""
        lines.append(f"- {became}`{finding.code.value}` {finding.what} {finding.remedy}{why}")
    if result.found > len(result.findings):
        lines += ["", f"{result.found - len(result.findings)} more are in the report."]
    return "\n".join([*lines, "", f"Report: `{result.report.key}` in the gateway store."])
