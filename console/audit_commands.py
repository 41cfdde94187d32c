"""`audit`: what does not belong at a site, repaired where that is safe."""

import uuid

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from temporalio.client import Client

from console.options import ConfigOption, JsonOption, validated
from console.outcomes import ExitCode
from console.output import local_time
from console.session import Session
from deltaferry.model.audit import Finding, Outcome, Verdict
from deltaferry.planning.phrases import count_text
from workflows import names
from workflows.messages.audit import AuditResult
from workflows.messages.operator_input import AuditInput

app = typer.Typer()


@app.command(epilog="Ends with 1 if something is left to do. Example: deltaferry audit lon1 --dry-run")
def audit(
    site: str = typer.Argument(metavar="SITE", help="The site to look through: its VMs, its slots, its target's stores."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Only report; change nothing."),
    grace: str | None = typer.Option(
        None, "--grace", metavar="DURATION", help="Neither touch nor report what is younger, e.g. PT30M; else the site's setting."
    ),
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find what belongs to no replication; remove what is ours and safe to remove, and say what to do about the rest."""
    session = Session(config, as_json=as_json)

    async def work(client: Client) -> None:
        request = validated(AuditInput, {"site": site, "dry_run": dry_run, "grace": grace}, "audit")
        result = await run_audit(client, request)
        session.output.result(audit_view(result), result)
        if result.left:
            raise typer.Exit(ExitCode.FAILED)

    session.run(work)


async def run_audit(client: Client, request: AuditInput) -> AuditResult:
    """Audit a site and wait for the result."""
    result: AuditResult = await client.execute_workflow(
        names.SITE_AUDIT,
        request,
        id=f"{names.audit_id(request.site)}/{uuid.uuid4().hex[:8]}",
        task_queue=names.CONTROL_QUEUE,
        result_type=AuditResult,
    )
    return result


def audit_view(result: AuditResult) -> RenderableType:
    """Return what an audit found, what is left first."""
    if not result.found:
        return Text(f"{result.site}: nothing found that does not belong.")
    table = Table("", "what", "found", "what to do", box=None, pad_edge=False)
    for finding in result.findings:
        became, style = _became(finding, dry_run=result.dry_run)
        what = f"{finding.what} {finding.detail}" if finding.detail else finding.what
        table.add_row(Text(became, style=style), Text(finding.code.value), Text(what), Text(finding.remedy))
    counts = f"{result.site} at {local_time(result.read_at)}: {count_text(result.found, 'finding')}, {result.repaired} repaired, {result.left} left."
    parts: list[RenderableType] = [table, Text(), Text(counts)]
    if result.found > len(result.findings):
        parts.append(Text(f"{result.found - len(result.findings)} more are in {result.report.key} in the gateway store."))
    if result.dry_run and result.to_repair:
        parts.append(Text(f"Nothing was changed. Without --dry-run {result.to_repair} would be repaired."))
    return Group(*parts)


def _became(finding: Finding, *, dry_run: bool) -> tuple[str, str]:
    if finding.outcome is Outcome.FOUND:
        return ("to repair", "yellow") if dry_run and finding.verdict is Verdict.REPAIR else ("left to you", "bold")
    return finding.outcome.value, {Outcome.REPAIRED: "green", Outcome.FAILED: "bold red"}.get(finding.outcome, "")
