"""How an audit's result is shown: what is left first, and in words that say whether something is to be done."""

from datetime import UTC, datetime

import pytest
from rich.console import Console

from activities.audit import result
from console.audit_commands import audit_view
from deltaferry.model.audit import AUDIT_VERSION, AuditReport, Finding, FindingCode, Outcome, Verdict
from deltaferry.model.replication import ObjectRef, Store
from workflows.messages.audit import SHOWN_FINDINGS, AuditResult
from workflows.site_audit import details

REF = ObjectRef(Store.GATEWAY, "df-sites/lab/london/audits/1/report", "etag")
AT = datetime(2026, 11, 22, 9, tzinfo=UTC)


def finding(verdict: Verdict, outcome: Outcome = Outcome.FOUND, number: int = 1, detail: str = "") -> Finding:
    code = FindingCode.SNAPSHOT if verdict is Verdict.REPAIR else FindingCode.CLAIM
    return Finding(
        code, verdict, f"Thing {number} is there.", "VM web-01", "Do this.", f"key-{number}", outcome=outcome, detail=detail
    )


def audited(*findings: Finding, dry_run: bool = False) -> AuditResult:
    return result(REF, AuditReport(AUDIT_VERSION, "lab", "london", dry_run, AT, findings))


def text(shown: AuditResult) -> str:
    console = Console(width=200, record=True, file=None)
    with console.capture() as captured:
        console.print(audit_view(shown))
    return captured.get()


@pytest.mark.parametrize(
    ("shown", "left", "to_repair"),
    [
        (audited(), 0, 0),
        (audited(finding(Verdict.REPAIR, Outcome.REPAIRED)), 0, 0),
        (audited(finding(Verdict.REPAIR, Outcome.PASSED_OVER)), 0, 0),
        (audited(finding(Verdict.REPAIR, Outcome.FAILED)), 1, 0),
        (audited(finding(Verdict.REPAIR), dry_run=True), 1, 1),
        (audited(finding(Verdict.REPORT), finding(Verdict.REPAIR, Outcome.REPAIRED)), 1, 0),
    ],
)
def test_what_is_left_is_what_was_neither_repaired_nor_passed_over(shown: AuditResult, left: int, to_repair: int) -> None:
    assert (shown.left, shown.to_repair) == (left, to_repair)


def test_nothing_found_is_one_sentence() -> None:
    assert text(audited()).strip() == "london: nothing found that does not belong."


def test_a_dry_run_says_what_would_be_repaired_and_that_nothing_was_changed() -> None:
    shown = text(audited(finding(Verdict.REPAIR), finding(Verdict.REPORT, number=2), dry_run=True))
    assert "to repair" in shown and "left to you" in shown
    assert "Nothing was changed. Without --dry-run 1 would be repaired." in shown


def test_a_repair_that_failed_says_why_and_comes_before_what_is_done() -> None:
    failed = finding(Verdict.REPAIR, Outcome.FAILED, 2, "ConsolidationStuck: a lock.")
    shown = text(audited(finding(Verdict.REPAIR, Outcome.REPAIRED), failed))
    assert shown.index("ConsolidationStuck: a lock.") < shown.index("Thing 1")
    assert "2 findings, 1 repaired, 1 left" in shown


def test_a_long_list_is_cut_and_the_rest_is_in_the_report() -> None:
    shown = audited(*(finding(Verdict.REPORT, number=number) for number in range(SHOWN_FINDINGS + 7)))
    assert (len(shown.findings), shown.found) == (SHOWN_FINDINGS, SHOWN_FINDINGS + 7)
    assert f"7 more are in {REF.key}" in text(shown)
    assert "7 more are in the report." in details(shown)


def test_the_details_page_names_the_report_and_what_became_of_each_finding() -> None:
    page = details(audited(finding(Verdict.REPAIR, Outcome.REPAIRED), finding(Verdict.REPORT, number=2)))
    assert "1 repaired, 1 left" in page
    assert "**repaired** `Snapshot` Thing 1 is there." in page
    assert "`Claim` Thing 2 is there. Do this." in page
    assert REF.key in page
