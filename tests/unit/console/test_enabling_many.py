"""Choosing many VMs and what is printed of them, without a server: the parts between the arguments and Temporal."""

import io
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from console.discovery_views import EnabledVm, inventory_view, outcomes_view, plan_view, vm_row
from console.enabling_many import Choice, Which, choose, read_lines
from console.inventories import KnownSite, selection_of
from console.outcomes import CommandError, ExitCode
from deltaferry.model.inventory import DiscoveredSite, DiscoveredVm, SiteInventory, UnreadableVm
from deltaferry.model.vm import Claim, PowerState
from deltaferry.planning.enable_plan import SiteFacts, Verdict, Wanted, plan
from deltaferry.planning.measured_rate import Rate
from deltaferry.planning.slots import SlotLimits
from tests.unit.planning.discovered import GIB, discovered, disk, snapshot
from workers.settings import load_settings
from workflows.messages.operator_input import TargetProperties

EXAMPLE = Path(__file__).parents[3] / "deploy" / "examples" / "deltaferry.toml"

WEB = discovered("web-01", folder="/Production/Web", disks=(disk(0), disk(1, 100 * GIB, "ds2")), committed=4 * GIB)
OTHER = discovered("web-02", folder="/Production", snapshots=(snapshot("old"),), power=PowerState.OFF)
CLAIMED = discovered("db-01", claim=Claim("prod", "0" * 16))
RUNNING = discovered("db-02")


def known(*vms: DiscoveredVm, ago: timedelta = timedelta(minutes=5)) -> KnownSite:
    settings = load_settings(EXAMPLE)
    found = DiscoveredSite(
        vms or (WEB, OTHER, CLAIMED, RUNNING), (), (UnreadableVm("vm-9", "ghost", "the site's user lacks System.Read"),)
    )
    inventory = SiteInventory(1, "prod", "london", datetime.now(UTC) - ago, found)
    replications = {RUNNING.vm.instance_uuid: f"vm/london/{RUNNING.vm.instance_uuid}"}
    return KnownSite("london", settings, inventory, replications)


def chosen(which: Which, site: KnownSite, target: TargetProperties | None = None) -> tuple[Choice, ...]:
    return choose(site, which, read_lines(which), target or TargetProperties(), auto_repair=True)


def refusal(which: Which, site: KnownSite, target: TargetProperties | None = None) -> CommandError:
    with pytest.raises(CommandError) as caught:
        chosen(which, site, target)
    return caught.value


def printed(view: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=250)
    console.print(view, markup=False, highlight=False)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


# --- choosing ---


def test_an_expression_chooses_by_what_runs_now_and_by_claims() -> None:
    site = known()
    assert [choice.vm for choice in chosen(Which(where="not replicated"), site)] == [WEB, OTHER]
    assert [choice.vm for choice in chosen(Which(where="replicated"), site)] == [CLAIMED, RUNNING]


def test_each_choice_is_an_input_of_its_own_with_the_options_for_all() -> None:
    (choice, _) = chosen(Which(where="folder=/Production/*"), known(), TargetProperties(subnet="web"))
    assert (choice.request.vm, choice.request.site) == (WEB.vm.instance_uuid, "london")
    assert choice.request.target == TargetProperties(subnet="web")


def test_one_name_in_azure_for_many_vms_is_refused() -> None:
    error = refusal(Which(where="name~web-*"), known(), TargetProperties(vm_name="shop"))
    assert (error.code, "cannot all be named 'shop'" in error.sentence) == (ExitCode.USAGE, True)
    (choice,) = chosen(Which(where="name=web-01"), known(), TargetProperties(vm_name="shop"))
    assert choice.request.target.vm_name == "shop"


def test_an_expression_that_chooses_nothing_ends_with_4() -> None:
    assert refusal(Which(where="name=nobody"), known()).code == ExitCode.NOT_FOUND


def test_a_mistake_in_an_expression_is_wrong_usage() -> None:
    with pytest.raises(CommandError) as caught:
        selection_of("colour=green")
    assert (caught.value.code, "there is no field 'colour'" in caught.value.sentence) == (ExitCode.USAGE, True)


def test_one_vm_is_chosen_by_name_or_uuid() -> None:
    assert [choice.vm for choice in chosen(Which(vm="web-02"), known())] == [OTHER]
    assert [choice.vm for choice in chosen(Which(vm=WEB.vm.instance_uuid.upper()), known())] == [WEB]
    assert refusal(Which(vm="nobody"), known()).code == ExitCode.NOT_FOUND
    twins = known(discovered("twin", folder="/a"), discovered("twin", folder="/b"))
    assert refusal(Which(vm="twin"), twins).code == ExitCode.USAGE


def listed(folder: Path, *lines: str) -> Which:
    file = folder / "vms.csv"
    file.write_text("\n".join(lines), encoding="utf-8")
    return Which(csv=file)


def test_a_cell_comes_before_the_option_for_all_and_tags_are_joined(tmp_path: Path) -> None:
    which = listed(tmp_path, "vm,subnet,tags", "web-01,db,owner=shop", "web-02,,")
    common = TargetProperties(subnet="web", size="Standard_D2s_v5", tags={"env": "prod"})
    first, second = chosen(which, known(), common)
    assert first.request.target == TargetProperties(subnet="db", size="Standard_D2s_v5", tags={"env": "prod", "owner": "shop"})
    assert second.request.target == common


def test_all_wrong_lines_of_a_list_are_told_and_it_is_no_list(tmp_path: Path) -> None:
    which = listed(tmp_path, "vm,size", "nobody,", "web-01,Standard_D2s_v5")
    error = refusal(which, known())
    assert error.code == ExitCode.USAGE
    assert error.sentence.splitlines()[0] == f"{which.csv} cannot be used, and nothing was started."
    assert error.sentence.splitlines()[1].startswith("Line 2: the inventory has no VM")


def test_a_name_for_the_whole_list_is_refused(tmp_path: Path) -> None:
    which = listed(tmp_path, "vm", "web-01")
    assert refusal(which, known(), TargetProperties(vm_name="shop")).remedy == "Write the names in its column vm_name."


def test_a_list_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    assert refusal(Which(csv=tmp_path / "none.csv"), known()).code == ExitCode.NOT_FOUND
    file = tmp_path / "latin.csv"
    file.write_bytes(b"vm\nw\xe9b\n")
    assert "It is not UTF-8 text" in refusal(Which(csv=file), known()).sentence


# --- what people read ---


def test_the_list_shows_what_matters_with_its_age() -> None:
    site = known()
    shown = printed(inventory_view(site, site.inventory.found.vms))
    for expected in (
        "/Production/Web",
        "ds1, ds2",
        "140 GiB",
        "8 GiB",
        "esxi-1",
        "Ubuntu",
        "efi",
        "4 VMs of london",
        "5 min ago",
    ):
        assert expected in shown
    assert "Not listed: ghost: the site's user lacks System.Read." in shown
    assert "1 of 4 VMs of london" in printed(inventory_view(site, [WEB]))


def test_a_row_for_programs_says_what_replicates_the_vm() -> None:
    site = known()
    rows = {vm.vm.name: vm_row(site, vm) for vm in site.inventory.found.vms}
    assert rows["web-01"].replicated_by == ""
    assert rows["db-01"].replicated_by == "replication 0000000000000000 of the installation prod"
    assert rows["db-02"].replicated_by == f"vm/london/{RUNNING.vm.instance_uuid}"
    assert [(row.label, row.datastore, row.committed_bytes) for row in rows["web-01"].disks] == [
        ("Hard disk 1", "ds1", 4 * GIB),
        ("Hard disk 2", "ds2", 4 * GIB),
    ]


def test_the_plan_shows_verdicts_sums_time_and_limits() -> None:
    site = known()
    facts = SiteFacts("prod", {"london-1": 0}, SlotLimits(disks_per_host=1), {})
    wanted = [Wanted(vm, vm.vm.name, replicated_by=site.replicated_by(vm)) for vm in site.inventory.found.vms]
    shown = printed(plan_view(site, plan(wanted, facts, Rate(GIB / 60, False, "Assumed."))))
    for expected in (
        "1 VM to copy: 2 disks, 140 GiB, of which 8 GiB at most have to be read.",
        "Estimated time: 8 min if all run side by side as far as the limits allow, 8 min one after another.",
        "Assumed.",
        "Limit: At most 1 disk of the host esxi-1 can be in transfer; these are 2.",
        "web-02: [SnapshotsPresent] Change block tracking cannot be enabled while web-02 has 1 snapshot: 'old'.",
        "db-01: replication 0000000000000000 of the installation prod replicates it already.",
        "Not checked here:",
    ):
        assert expected in shown


def test_the_outcomes_are_a_table_with_the_sentences_and_the_counts() -> None:
    outcomes = [
        EnabledVm("web-01", "u1", Verdict.ENABLED, "vm/london/u1", warnings=("[ToolsNotRunning] Start them.",)),
        EnabledVm("web-02", "u2", Verdict.REFUSED, "", "It has a snapshot. Remove it."),
    ]
    shown = printed(outcomes_view(outcomes))
    for expected in ("vm/london/u1", "It has a snapshot. Remove it.", "Warning: [ToolsNotRunning] Start them."):
        assert expected in shown
    assert "1 enabled, 0 replicated already, 1 refused." in shown
