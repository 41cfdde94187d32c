"""What people see of a replication, from what workflows and heartbeats say."""

import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from rich.console import Console, RenderableType

from console.live_progress import LiveStep, summed_up
from console.output import local_time
from console.recovery_commands import points_table
from console.views import Snapshot, replication_view, replications_table, resync_text, scrub_text
from deltaferry.model.errors import ErrorKind
from deltaferry.model.recovery_points import PointKind
from deltaferry.model.replication import CycleKind, ObjectRef, Store
from deltaferry.model.states import HealthError, JobOutcome
from deltaferry.model.units import MIB
from deltaferry.planning.ladder import Rung
from workflows.messages.point_views import PointList, PointView
from workflows.messages.replication_state import CycleRecord, MigrationResult, Refusal, ResyncRecord, ScrubRecord
from workflows.messages.views import DiskView, RepairView, StatusView

AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SENDING = LiveStep("transfer", "sending changed blocks", True, 1, 50 * MIB, 100 * MIB, 20 * MIB, 5.0 * MIB, 10.0)
APPLYING = LiveStep(
    "apply", "applying to the seed disks", True, 2, 10 * MIB, 40 * MIB, 0, 1.0 * MIB, 30.0, "the account throttles"
)
SILENT = LiveStep("begin_cycle", "begin cycle", False, 1)


def printed(view: RenderableType) -> str:
    console = Console(record=True, width=160, file=io.StringIO())
    console.print(view)
    return console.export_text()


def a_status(**changes: object) -> StatusView:
    values: dict[str, object] = {
        "vm": "web-01", "site": "lab", "instance_uuid": "5021", "replication_id": "00", "replication_state": "Delta sync",
        "migration_state": "Migration failed", "activity": "the migration failed", "percent": None, "last_recovery_point": AT,
        "next_cycle_at": None, "predicted_downtime_s": 90.0, "cycles_committed": 3, "delta_bytes_sent": 5 * MIB, "verified_blocks": 80,
        "initial": (), "job_id": None, "health": (), "allowed": ("pause", "stop"), "last_refused": None, "migration": None, "migrated_at": None,
    }  # fmt: skip
    return StatusView(**{**values, **changes})  # type: ignore[arg-type]


def test_a_transfer_moves_the_bar_between_what_is_verified_and_all() -> None:
    progress = summed_up(40.0, [APPLYING, SENDING])
    assert (progress.percent, progress.bytes_done, progress.eta_s) == (70.0, 50 * MIB, 10.0)


def test_applying_behind_the_transfer_does_not_move_an_initial_replications_bar() -> None:
    assert summed_up(40.0, [APPLYING]).percent == 40.0


def test_a_delta_cycle_shows_the_step_that_has_numbers() -> None:
    assert summed_up(None, [SILENT, APPLYING]).percent == 25.0
    assert summed_up(None, [SILENT]).percent is None
    assert summed_up(None, []).steps == ()


def test_a_replication_shows_bars_health_refusals_and_its_migration() -> None:
    error = HealthError(ErrorKind.AZURE_QUOTA, "No cores left.", "The quota.", "Ask for more.", False, AT)
    migration = MigrationResult(
        JobOutcome.FAILED, None, None, (("import disks", 12.5),), ("Powered off [hard].",), True, (), error
    )
    status = a_status(
        health=(error,), last_refused=Refusal("resume", "Not paused.", AT), migration=migration, warnings=("It costs money.",)
    )
    disks = (DiskView(2000, "Hard disk 1", 8 * MIB, True, 4 * MIB, None, (MIB, 0)),)
    text = printed(replication_view(Snapshot("vm/lab/5021", status, disks, (), summed_up(None, [SENDING, APPLYING, SILENT]))))
    for expected in (
        "50 MiB of 100 MiB, 20 MiB sent", "5.0 MiB/s, 10 s left", "attempt 2, the account throttles", "waits for a worker",
        "AzureQuota at", "No cores left.", "Ask for more. It waits for you.", "Last refused request: resume", "Not paused.",
        "Migration: Failed", "import disks  12.5 s", "Powered off [hard].", "It costs money.", "1 min 30 s", "50 %", "pause, stop",
    ):  # fmt: skip
        assert expected in text


def shown(status: StatusView, *steps: LiveStep) -> str:
    return printed(replication_view(Snapshot("vm/lab/5021", status, (), (), summed_up(status.percent, steps))))


def test_a_comparison_shows_its_own_step_and_the_percentage_of_the_resync() -> None:
    checking = LiveStep("check_seed", "checking seed disks", True, 1, 90 * MIB, 100 * MIB)
    comparing = LiveStep("compare_source", "comparing the source", True, 1, 30 * MIB, 100 * MIB)
    progress = summed_up(40.0, [checking, comparing])
    assert (progress.percent, progress.bytes_done) == (40.0, 30 * MIB)


def test_a_scrub_has_a_bar_of_its_own_and_is_no_cycles_progress() -> None:
    checking = LiveStep("check_seed", "checking seed disks", True, 1, 90 * MIB, 100 * MIB)
    assert summed_up(None, [checking]).percent is None
    text = shown(a_status(scrub_percent=33.3), checking)
    for expected in ("seed disks verified", "33.3 %", "90 MiB of 100 MiB"):
        assert expected in text


def test_a_replication_that_needs_a_repair_shows_why_how_and_when() -> None:
    repair = RepairView("CbtReset", "CbtReset: it was reset", "checksums", "CbtReset: it was reset: checksums", AT, AT, 0)
    pending = shown(a_status(replication_state="Repair pending", repair=repair))
    assert f"CbtReset: it was reset: checksums; begins at {local_time(AT)}" in pending
    assert "; waits for repair" in shown(a_status(replication_state="Repair pending", repair=replace(repair, starts_at=None)))
    assert "; asked for or under way" in shown(a_status(replication_state="Resync in progress", repair=repair))


def test_resyncs_and_scrubs_show_what_differed() -> None:
    resynced = ResyncRecord(ErrorKind.CBT_RESET, Rung.ALLOCATED, AT, AT, 100 * MIB, 10 * MIB)
    scrubbed = ScrubRecord(AT, AT, 12 * MIB, 0)
    text = shown(a_status(resyncs=(resynced,), last_scrub=scrubbed, next_scrub_at=AT))
    assert resync_text(resynced)[:40] in text
    assert resync_text(resynced).endswith("10 MiB differed, 10.00 % of 100 MiB compared")
    assert scrub_text(scrubbed) in text
    assert scrub_text(scrubbed).endswith("12 MiB read, nothing differed")
    assert "Next verified" in text
    assert "64 KiB differed" in scrub_text(replace(scrubbed, differing_bytes=64 << 10))
    assert "the account throttles" in scrub_text(replace(scrubbed, failure="the account throttles"))
    assert "nothing was compared" in resync_text(replace(resynced, rung=Rung.FULL, compared_bytes=0))


def test_times_are_local_and_name_their_zone() -> None:
    assert local_time(AT) == AT.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
    assert local_time(None, "none yet") == "none yet"


def test_an_empty_list_says_how_to_begin() -> None:
    assert "deltaferry enable" in printed(replications_table([]))


def test_a_point_that_is_less_than_was_asked_for_says_why_wherever_it_is_shown() -> None:
    less = PointView("7-key", PointKind.FILE_SYSTEM_CONSISTENT, AT, 7, MIB, note="No freeze script told that it ran.")
    app = PointView("6-key", PointKind.APP_CONSISTENT, AT, 6, MIB)
    listed = PointList(ObjectRef(Store.GATEWAY, "point-list", "1"), 2, 1, 0, (less, app), app, AT)
    table = printed(points_table(listed))
    for expected in ("file-system-consistent", "app-consistent", "No freeze script told that it ran."):
        assert expected in table
    cycle = CycleRecord(
        "7-key", CycleKind.DELTA, AT, AT, True, timedelta(minutes=1), decision="the next starts soon",
        consistency=PointKind.FILE_SYSTEM_CONSISTENT, quiesced="No freeze script told that it ran.",
    )  # fmt: skip
    status = a_status(points=listed)
    page = printed(replication_view(Snapshot("vm/lab/5021", status, (), (cycle,), summed_up(None, []))))
    text = " ".join(page.split())
    assert "2 points, 1 app-consistent (the latest of 2026-03-01 12:00:00 UTC)" in text
    assert "file-system-consistent: No freeze script told that it ran." in text
    assert "Quiescing:" in text
