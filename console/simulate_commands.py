"""`deltaferry simulate`: how a site would fare, before anything is bought or enabled."""

import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from console.options import JsonOption
from console.outcomes import CommandError, ExitCode
from console.session import Session
from console.simulation_plot import CLASS_NAMES, simulation_svg
from console.site_file import load_site_file
from deltaferry.model.errors import ErrorKind
from deltaferry.planning.phrases import count_text, duration_text
from deltaferry.planning.simulation import simulate as simulated
from deltaferry.planning.simulation_report import SimulationReport
from deltaferry.planning.simulation_site import SimulatedSite, default_site
from deltaferry.planning.simulation_watch import Rule
from deltaferry.planning.slots import Priority

app = typer.Typer()

_SHOWN_VIOLATIONS = 10
_SUGGESTS_AT_EVENTS = 4_096
"""Where a Temporal server suggests that a workflow continues as new."""

_REMEDIES = {
    Rule.APPLIANCE: "add a scale-out appliance",
    Rule.HOST: "spread the VMs over more hosts, or enable fewer of one host at a time",
    Rule.DATASTORE: "spread the VMs over more datastores, or enable fewer of one datastore at a time",
    Rule.BULK: "spread the waves over more datastores, or make them smaller",
}


@app.command(epilog="Example: deltaferry simulate deploy/examples/site.toml --days 7 --plot site.svg")
def simulate(
    site_file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[SITE_FILE]",
            help="Describes the site, as deploy/examples/site.toml does; without it 500 VMs with 1,200 disks on 2 appliances.",
        ),
    ] = None,
    days: Annotated[float, typer.Option("--days", min=0.01, max=366, help="How long the site is simulated for.")] = 7,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="What is random is the same for the same seed, on every machine.")
    ] = 1,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE.svg", help="Draw slots in use and requests that wait, over time, into this file."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Simulate a site, with the functions that decide in production: waits, data loss exposure, limits that bind.

    Nothing is connected to. Ends with 1 if a limit was violated.
    """
    session = Session(None, as_json=as_json)

    def work() -> None:
        if plot is not None and plot.suffix.lower() != ".svg":
            raise CommandError(
                ExitCode.USAGE,
                f"The plot can only be drawn as SVG, and {plot.name} does not end in .svg.",
                "Write for example --plot site.svg; every browser shows it and prints it.",
                ErrorKind.BAD_INPUT,
            )
        site = load_site_file(site_file).site(seed) if site_file is not None else default_site(seed)
        began = time.process_time()
        report = simulated(site, days, seed)
        seconds = time.process_time() - began
        if plot is not None:
            _write(plot, simulation_svg(site, report))
        session.output.result(_view(site, report, seconds), _numbers(report, seconds))
        if report.limit_violations:
            raise typer.Exit(ExitCode.FAILED)

    session.carry_out(work)


def _write(plot: Path, picture: str) -> None:
    try:
        plot.write_text(picture, encoding="utf-8")
    except OSError as error:
        raise CommandError(
            ExitCode.USAGE, f"The plot cannot be written to {plot}: {error.strerror or type(error).__name__}."
        ) from None


def _numbers(report: SimulationReport, seconds: float) -> Mapping[str, Any]:
    return {
        "limit_violations": report.limit_violations,
        "longest_wait_s": {priority.name.lower(): round(report.waits[priority].longest_s, 1) for priority in Priority},
        "rpo_s": {"p50": round(report.rpo.p50_s, 1), "p95": round(report.rpo.p95_s, 1), "p99": round(report.rpo.p99_s, 1)},
        "cycles": report.cycles,
        "arbiter_max_events": report.arbiter.max_events,
        "seconds": round(seconds, 2),
        "days": report.days,
        "seed": report.seed,
        "vms": report.vms,
        "disks": report.disks,
        "checks": report.checks,
        "longest_pause_s": round(report.longest_pause_s, 1),
        "waited_for": {rule.name.lower(): round(share, 4) for rule, share in report.waited_for.items()},
        "initial_replications_done_s": report.copied_after_s,
        "uncopied": report.uncopied,
        "migrations": report.migrations,
        "arbiter": report.arbiter,
        "violations": [replace(violation) for violation in report.violations[:_SHOWN_VIOLATIONS]],
    }


def _view(site: SimulatedSite, report: SimulationReport, seconds: float) -> RenderableType:
    head = (
        f"{count_text(report.vms, 'VM')} with {count_text(report.disks, 'disk')} on {count_text(len(site.appliances), 'appliance')}, "
        f"{report.days:g} days (seed {report.seed}), in {seconds:.1f} s"
    )
    parts: list[RenderableType] = [Text(head, style="bold"), _waits(report), Text(), _rest(site, report), *_verdicts(report)]
    return Group(*parts)


def _waits(report: SimulationReport) -> RenderableType:
    table = Table(
        "cycles", "committed", "waited half below", "99 % below", "longest", box=None, pad_edge=False, title_justify="left"
    )
    for priority in Priority:
        waits = report.waits[priority]
        table.add_row(
            CLASS_NAMES[priority],
            f"{report.by_class.get(priority, 0):,}",
            _text(waits.p50_s),
            _text(waits.p99_s),
            _text(waits.longest_s),
        )
    return table


def _rest(site: SimulatedSite, report: SimulationReport) -> RenderableType:
    table = Table(box=None, show_header=False, pad_edge=False)
    rpo, arbiter = report.rpo, report.arbiter
    table.add_row(
        "exposure to data loss",
        f"half of the cycles below {_text(rpo.p50_s)}, 95 % below {_text(rpo.p95_s)}, 99 % below {_text(rpo.p99_s)}, worst {_text(rpo.longest_s)}",
    )
    copied = (
        f"{count_text(report.uncopied, 'VM')} not copied by the end"
        if report.copied_after_s is None
        else f"all done after {_text(report.copied_after_s)}"
    )
    table.add_row("initial replications", copied)
    refused = f", {report.refused_for_window} refused in a window and asked for again" if report.refused_for_window else ""
    table.add_row("migrations", f"{report.migrations}{refused}")
    waited = ", ".join(f"{rule.value} {share:.0%}" for rule, share in report.waited_for.items() if share >= 0.005)
    table.add_row("what requests waited for", waited or "nothing")
    if report.arbiter.yields:
        table.add_row("longest pause", f"{_text(report.longest_pause_s)} between giving way and going on")
    table.add_row(
        "arbiter",
        f"{arbiter.grants:,} grants and {arbiter.yields:,} times given way in {arbiter.decisions:,} decisions; "
        f"{arbiter.runs:,} runs of at most {arbiter.max_events:,} events",
    )
    table.add_row("limits", f"{report.checks:,} times looked at, {count_text(report.limit_violations, 'violation')}")
    return table


def _verdicts(report: SimulationReport) -> list[RenderableType]:
    """Return what a planner should not overlook, with what to do about it."""
    parts: list[RenderableType] = []
    for violation in report.violations[:_SHOWN_VIOLATIONS]:
        text = f"{violation.rule.value}: {violation.count} where {violation.limit} are allowed, by {violation.who} at {violation.at:%a %H:%M:%S}"
        parts.append(Text(text, style="red"))
    urgent = report.waits[Priority.PRE_FAILOVER].longest_s
    if urgent > timedelta(minutes=15).total_seconds():
        parts.append(Text(f"A pre-failover cycle waited {_text(urgent)}, longer than one chunk of 15 minutes.", style="yellow"))
    if report.arbiter.max_events > _SUGGESTS_AT_EVENTS:
        parts.append(
            Text(f"A run of the arbiter would have had {report.arbiter.max_events:,} events; 4,096 is the aim.", style="yellow")
        )
    binding = max(report.waited_for, key=lambda rule: report.waited_for[rule])
    if report.waited_for[binding] > 0.1 and report.waits[Priority.DELTA].p99_s > timedelta(hours=1).total_seconds():
        parts.append(Text(f"Deltas wait mostly for {binding.value}: {_REMEDIES[binding]}.", style="yellow"))
    return parts


def _text(seconds: float) -> str:
    return duration_text(timedelta(seconds=seconds))
