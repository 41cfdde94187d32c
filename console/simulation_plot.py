"""The course of a simulation as an SVG picture: slots in use, and who waits, over time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from html import escape
from itertools import accumulate
from math import ceil, floor, log10

from deltaferry.planning.phrases import count_text, duration_text
from deltaferry.planning.simulation_report import Sample, SimulationReport
from deltaferry.planning.simulation_site import SimulatedSite
from deltaferry.planning.slots import Priority

_WIDTH, _LEFT, _RIGHT = 1280, 76, 24
_TOP = 92
_PANEL, _GAP = 190, 62
_POINTS = 1008
"""Points across: more than this are put together."""
_DAY_S = 86_400
_NAMED_DAYS = 14
_LABEL = 60
"""What a day's name takes."""

_APPLIANCE_COLOURS = ("#0b6fa4", "#5aa9c9", "#0f8a78", "#7cc4b4", "#47518f", "#9aa3d6")
CLASS_NAMES = {
    Priority.PRE_FAILOVER: "pre-failover",
    Priority.INITIAL: "initial",
    Priority.RESYNC: "resync",
    Priority.DELTA: "delta",
}
_CLASS_COLOURS = {
    Priority.PRE_FAILOVER: "#c1272d",
    Priority.INITIAL: "#0b6fa4",
    Priority.RESYNC: "#8a4fa0",
    Priority.DELTA: "#e0a030",
}
"""Told apart by people who do not see red and green alike, too."""

_STYLE = (
    "text{font-family:system-ui,'Segoe UI',Helvetica,Arial,sans-serif;fill:#22303c}"
    ".title{font-size:21px;font-weight:600}.sub{font-size:14px;fill:#51606d}.panel{font-size:15px;font-weight:600}"
    ".tick{font-size:12px;fill:#51606d}.key{font-size:13px}.grid{stroke:#e3e8ec;stroke-width:1}.day{stroke:#cdd5db;stroke-width:1}"
    ".limit{stroke:#22303c;stroke-width:1.2;stroke-dasharray:6 4}.closed{fill:#22303c;opacity:.09}"
)


@dataclass(frozen=True, slots=True)
class _Series:
    name: str
    colour: str
    values: Sequence[float]


@dataclass(frozen=True, slots=True)
class _Panel:
    """A picture of stacked series over time."""

    title: str
    series: Sequence[_Series]
    limit: float | None = None
    limit_name: str = ""


def simulation_svg(site: SimulatedSite, report: SimulationReport) -> str:
    """Return the picture as an SVG document."""
    samples = report.samples
    size = max(ceil(len(samples) / _POINTS), 1)
    bins = [samples[begin : begin + size] for begin in range(0, len(samples), size)]
    limits = site.limits
    datastores = len({disk.datastore for vm in site.vms for disk in vm.disks})
    panels = (
        _Panel(
            "Disks in transfer",
            [
                _Series(
                    appliance.name,
                    _APPLIANCE_COLOURS[number % len(_APPLIANCE_COLOURS)],
                    _mean(bins, _transfers_of(appliance.name)),
                )
                for number, appliance in enumerate(site.appliances)
            ],
            limits.disks_per_appliance * len(site.appliances),
            f"limit of {count_text(len(site.appliances), 'appliance')}",
        ),
        _Panel(
            "Disk snapshots held",
            [_Series("on all datastores", "#0f8a78", _mean(bins, lambda sample: sample.snapshots))],
            limits.snapshots_per_datastore * datastores,
            f"limit of {count_text(datastores, 'datastore')}",
        ),
        _Panel(
            "Requests that wait for slots",
            [
                _Series(CLASS_NAMES[priority], _CLASS_COLOURS[priority], _most(bins, _waiting_of(priority)))
                for priority in sorted(Priority, reverse=True)
            ],
        ),
    )
    height = _TOP + len(panels) * (_PANEL + _GAP) + 6
    middles = [bin_[len(bin_) // 2].at_s for bin_ in bins]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}">',
        f"<style>{_STYLE}</style>",
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text class="title" x="{_LEFT}" y="36">{escape(_title(report))}</text>',
        f'<text class="sub" x="{_LEFT}" y="60">{escape(_subtitle(report))}</text>',
    ]
    for number, panel in enumerate(panels):
        parts += _panel(panel, _TOP + number * (_PANEL + _GAP) + 22, middles, bins, report)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _title(report: SimulationReport) -> str:
    return f"{count_text(report.vms, 'VM')} with {count_text(report.disks, 'disk')}, {report.days:g} days simulated"


def _subtitle(report: SimulationReport) -> str:
    def longest(priority: Priority) -> str:
        waits = report.waits.get(priority)
        return duration_text(timedelta(seconds=waits.longest_s if waits else 0))

    return (
        f"{report.cycles:,} cycles · {count_text(report.limit_violations, 'limit violation')} · "
        f"longest wait: pre-failover {longest(Priority.PRE_FAILOVER)}, initial {longest(Priority.INITIAL)}, delta {longest(Priority.DELTA)} · "
        f"exposure: half below {duration_text(timedelta(seconds=report.rpo.p50_s))}, "
        f"99 % below {duration_text(timedelta(seconds=report.rpo.p99_s))}"
    )


def _transfers_of(appliance: str) -> Callable[[Sample], float]:
    return lambda sample: sample.transfers.get(appliance, 0)


def _waiting_of(priority: Priority) -> Callable[[Sample], float]:
    return lambda sample: sample.waiting.get(priority, 0)


def _mean(bins: Sequence[Sequence[Sample]], value: Callable[[Sample], float]) -> list[float]:
    return [sum(map(value, samples)) / len(samples) for samples in bins]


def _most(bins: Sequence[Sequence[Sample]], value: Callable[[Sample], float]) -> list[float]:
    """Return the most of each bin: a queue that was there for five minutes only is not to be averaged away."""
    return [max(map(value, samples)) for samples in bins]


def _panel(
    panel: _Panel, top: float, middles: Sequence[float], bins: Sequence[Sequence[Sample]], report: SimulationReport
) -> list[str]:
    span_s = report.days * _DAY_S
    right = _WIDTH - _RIGHT

    def x(at_s: float) -> float:
        return _LEFT + (right - _LEFT) * at_s / span_s

    totals = [sum(values) for values in zip(*(series.values for series in panel.series), strict=True)]
    step, highest = _scale(max([*totals, panel.limit or 0, 1]))

    def y(value: float) -> float:
        return top + _PANEL * (1 - value / highest)

    parts = [f'<text class="panel" x="{_LEFT}" y="{top - 12}">{escape(panel.title)}</text>']
    parts += _closed(bins, x, top)
    parts += _grid(step, highest, y, right)
    parts += _days(report, x, top)
    base: Sequence[float] = [0.0] * len(middles)
    for series in panel.series:
        upper = [low + value for low, value in zip(base, series.values, strict=True)]
        if any(series.values):
            points = [f"{x(at):.1f},{y(value):.1f}" for at, value in zip(middles, upper, strict=True)]
            points += [f"{x(at):.1f},{y(value):.1f}" for at, value in reversed(list(zip(middles, base, strict=True)))]
            parts.append(f'<polygon fill="{series.colour}" points="{" ".join(points)}"/>')
        base = upper
    if panel.limit is not None:
        level = y(panel.limit)
        parts.append(f'<line class="limit" x1="{_LEFT}" x2="{right}" y1="{level:.1f}" y2="{level:.1f}"/>')
    return parts + _key(panel, top, right)


def _closed(bins: Sequence[Sequence[Sample]], x: Callable[[float], float], top: float) -> list[str]:
    parts = []
    for samples in bins:
        if any(sample.closed for sample in samples):
            begin, end = x(samples[0].at_s), x(samples[-1].at_s + 300)
            parts.append(f'<rect class="closed" x="{begin:.1f}" y="{top}" width="{end - begin:.2f}" height="{_PANEL}"/>')
    return parts


def _grid(step: float, highest: float, y: Callable[[float], float], right: float) -> list[str]:
    parts = []
    for number in range(round(highest / step) + 1):
        value = number * step
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>')
    return parts


def _days(report: SimulationReport, x: Callable[[float], float], top: float) -> list[str]:
    """Return lines at midnight, and a name for every day, or for every few where there are many."""
    bottom = top + _PANEL
    parts = []
    for number in range(floor(report.days) + 1):
        at = x(number * _DAY_S)
        parts.append(f'<line class="day" x1="{at:.1f}" x2="{at:.1f}" y1="{top}" y2="{bottom + 5}"/>')
    days = ceil(report.days)
    for number in range(0, days, max(ceil(days / _NAMED_DAYS), 1)):
        seen = min(number + 1, report.days) - number
        name = (
            f"{report.begins + timedelta(days=number, hours=12):%a}, day {number + 1}" if days <= _NAMED_DAYS else f"{number + 1}"
        )
        if seen * (_WIDTH - _LEFT - _RIGHT) / report.days > _LABEL or days == 1:
            middle = x((number + seen / 2) * _DAY_S)
            parts.append(f'<text class="tick" x="{middle:.1f}" y="{bottom + 18}" text-anchor="middle">{name}</text>')
    return parts


def _key(panel: _Panel, top: float, right: float) -> list[str]:
    """Return the key, set from the right: the uppermost of the stack comes last."""
    entries = [(series.name, series.colour) for series in panel.series]
    widths = [32 + 6.7 * len(name) for name, _ in entries]
    limit_width = 44 + 6.7 * len(panel.limit_name) if panel.limit is not None else 0
    at = right - sum(widths) - limit_width
    parts = []
    for (name, colour), offset in zip(entries, accumulate([0.0, *widths[:-1]]), strict=True):
        parts.append(f'<rect x="{at + offset:.1f}" y="{top - 23}" width="12" height="12" rx="2" fill="{colour}"/>')
        parts.append(f'<text class="key" x="{at + offset + 17:.1f}" y="{top - 12}">{escape(name)}</text>')
    if panel.limit is not None:
        begin = right - limit_width
        parts.append(f'<line class="limit" x1="{begin:.1f}" x2="{begin + 28:.1f}" y1="{top - 17}" y2="{top - 17}"/>')
        parts.append(f'<text class="key" x="{begin + 34:.1f}" y="{top - 12}">{escape(panel.limit_name)}</text>')
    return parts


def _scale(highest: float) -> tuple[float, float]:
    """Return the step between lines, of 1, 2 or 5 times a power of ten, and the top of the scale: at most six lines."""
    rough = highest / 5
    power = 10 ** floor(log10(rough)) if rough > 0 else 1
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    step = max(step, 1)
    return step, ceil(highest / step) * step
