"""`deltaferry simulate`: no server is needed, and nothing is connected to."""

import json
import xml.etree.ElementTree as ET
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from console.main import app
from console.simulation_plot import simulation_svg
from console.site_file import load_site_file
from deltaferry.planning.simulation import simulate
from deltaferry.planning.simulation_site import SimulatedAppliance, default_site
from deltaferry.planning.windows import parse_windows

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "deploy" / "examples" / "site.toml"
SVG = "{http://www.w3.org/2000/svg}"

SMALL = """
time_zone = "Europe/London"
migrations_per_day = 12
blackout = "Monday;12:00;1h"

[vms]
count = 12
disks = 30
hosts = 2
datastores = 2
used_gib_per_disk = 20
waves = 2
wave_every = "4h"

[[vm]]
name = "sql-01"
host = "esxi-01"
disks = [{datastore = "datastore-01", used_gib = 30}, {datastore = "ssd", used_gib = 5}]
enabled_after = "1h"
churn = 6

[appliances.one]
line = "300 Mbit/s"

[appliances.two]
line = "1 Gbit/s"
blackout = "Monday;14:00;30m"
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    file = tmp_path / "site.toml"
    file.write_text(SMALL)
    return file


def call(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["simulate", *arguments], env={"COLUMNS": "200"})
    return result.exit_code, result.stdout, result.stderr


def test_the_last_line_for_programs_is_one_object_with_what_a_planner_asks(small: Path) -> None:
    code, out, _ = call(str(small), "--days", "1", "--json")
    assert code == 0
    numbers = json.loads(out.splitlines()[-1])
    assert numbers["limit_violations"] == 0
    assert numbers["longest_wait_s"].keys() == {"pre_failover", "resync", "initial", "delta"}
    assert numbers["longest_wait_s"]["pre_failover"] <= timedelta(minutes=15).total_seconds()
    assert timedelta(hours=1).total_seconds() < numbers["rpo_s"]["p50"] <= numbers["rpo_s"]["p99"]
    assert numbers["cycles"] > 100
    assert 0 < numbers["arbiter_max_events"] <= 4096
    assert numbers["seconds"] > 0
    assert (numbers["vms"], numbers["disks"]) == (13, 32)


def test_people_read_waits_exposure_and_what_was_waited_for(small: Path) -> None:
    code, out, _ = call(str(small), "--days", "0.5")
    assert code == 0
    for part in ("13 VMs with 32 disks on 2 appliances", "pre-failover", "exposure to data loss", "waited for", "0 violations"):
        assert part in out


def test_the_plot_is_an_svg_with_three_panels_and_a_key(small: Path, tmp_path: Path) -> None:
    plot = tmp_path / "site.svg"
    assert call(str(small), "--days", "1", "--plot", str(plot))[0] == 0
    picture = ET.parse(plot).getroot()
    texts = [text.text or "" for text in picture.iter(f"{SVG}text")]
    for part in (
        "Disks in transfer",
        "Disk snapshots held",
        "Requests that wait for slots",
        "one",
        "two",
        "initial",
        "limit of 2 appliances",
    ):
        assert part in texts
    assert len(list(picture.iter(f"{SVG}polygon"))) >= 4
    assert any("0 limit violations" in text for text in texts)


def test_names_in_a_plot_cannot_break_it(small: Path) -> None:
    site = load_site_file(small).site(1)
    odd = SimulatedAppliance('<a & "b">', 10**9)
    report = simulate(site, 0.1, 1)
    ET.fromstring(simulation_svg(type(site)(site.vms, (odd,)), report))


def test_a_plot_of_another_kind_is_refused_before_anything_is_simulated(small: Path, tmp_path: Path) -> None:
    code, _, err = call(str(small), "--days", "366", "--plot", str(tmp_path / "site.png"))
    assert (code, "can only be drawn as SVG" in err, "--plot site.svg" in err) == (2, True, True)


def test_a_plot_that_cannot_be_written_says_so(small: Path, tmp_path: Path) -> None:
    code, _, err = call(str(small), "--days", "0.05", "--plot", str(tmp_path / "nowhere" / "site.svg"))
    assert (code, "cannot be written" in err, "Traceback" in err) == (2, True, False)


def test_the_example_is_read_and_its_defaults_are_those_of_the_site_without_a_file() -> None:
    site, default = load_site_file(EXAMPLE).site(1), default_site(1)
    assert (len(site.vms), sum(len(vm.disks) for vm in site.vms)) == (500, 1200)
    assert (site.limits, site.churn, site.costs) == (default.limits, default.churn, default.costs)
    assert (site.min_interval, site.max_interval, site.chunk) == (default.min_interval, default.max_interval, default.chunk)
    assert site.appliances == default.appliances
    assert site.blackout == parse_windows("Sunday;2:00;4h") == default.blackout


def test_every_key_of_the_example_that_is_commented_out_is_accepted(tmp_path: Path) -> None:
    lines = [
        line.removeprefix("# ") if " = " in line and line.startswith("# ") else line for line in EXAMPLE.read_text().splitlines()
    ]
    file = tmp_path / "all.toml"
    file.write_text("\n".join(lines))
    assert load_site_file(file).site(1) == load_site_file(EXAMPLE).site(1)


def test_a_simulation_begins_at_the_sites_own_midnight(tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text(SMALL.replace('"Europe/London"', '"Europe/London"\nbegins = "2026-07-06"'))
    assert load_site_file(file).site(1).begins.isoformat() == "2026-07-05T23:00:00+00:00"


@pytest.mark.parametrize(
    ("wrong", "right", "parts"),
    [
        ('time_zone = "Europe/London"', 'time_zone = "Londres"', ("[time_zone]", "IANA time zone", 'Write time_zone = "')),
        ("count = 12", "count = 0", ("[vms] count", "too small")),
        ("disks = 30", "disks = 3000", ("[vms]", "write from 12 to 144 disks")),
        ("disks = 30", "disc = 30", ("[vms] disc", "Did you mean disks?")),
        ('wave_every = "4h"', "wave_every = 4", ("[vms] wave_every", "not a duration")),
        ('line = "300 Mbit/s"', 'line = "fast"', ("[appliances.one] line", "at least 1 Mbit/s")),
        ('line = "300 Mbit/s"', 'line = "unlimited"', ("[appliances.one] line", "is not a rate")),
        ('blackout = "Monday;12:00;1h"', 'blackout = "Someday;12:00;1h"', ("[blackout]", "a day that is not a day of the week")),
        ("churn = 6", "churn = -1", ("[vm.0] churn", "too small")),
        ('host = "esxi-01"', "", ("[vm.0] host", "is missing")),
        ("used_gib = 30", 'used_gib = "30"', ("used_gib", "not a number")),
        ("migrations_per_day = 12", "migrations_per_day = nan", ("[migrations_per_day]",)),
        ("migrations_per_day = 12", 'min_interval = "13h"', ("min_interval above its max_interval",)),
        ("migrations_per_day = 12", 'chunk_max = "16m"', ("[chunk_max]", "more than 15 minutes")),
        ("migrations_per_day = 12", 'begins = "Monday"', ("[begins]", "not a date")),
        ("migrations_per_day = 12", "begins = 2026-01-05", ("[begins]",)),
        ("time_zone", "time zone", ("not a TOML file",)),
    ],
)
def test_a_wrong_site_file_ends_with_2_and_a_sentence_that_says_where(
    wrong: str, right: str, parts: tuple[str, ...], tmp_path: Path
) -> None:
    file = tmp_path / "site.toml"
    assert wrong in SMALL
    file.write_text(SMALL.replace(wrong, right, 1))
    code, _, err = call(str(file))
    assert (code, "Traceback" in err) == (2, False)
    for part in (*parts, "site.toml"):
        assert part in err


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[appliances.one]\n", "has no VMs"),
        ("[vms]\ncount = 2\ndisks = 4\n", "has no appliance"),
        ("[churn]\nday_begins = 20\nday_ends = 3\n[vms]\n[appliances.one]\n", "day_begins after its day_ends"),
        (
            '[[vm]]\nname = "a"\nhost = "h"\ndisks = [{datastore = "d", used_gib = 1}]\n' * 2 + "[appliances.one]\n",
            "more than one VM",
        ),
    ],
)
def test_what_a_site_cannot_be_without_is_said(text: str, part: str, tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text(text)
    code, _, err = call(str(file))
    assert (code, part in err) == (2, True)


def test_a_missing_site_file_ends_with_2() -> None:
    code, _, err = call("/no/such/site.toml")
    assert (code, "/no/such/site.toml cannot be read" in err) == (2, True)
