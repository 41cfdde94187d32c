"""Defects and complaints of comparable products, each with the tests that would fail if this project had it too.

`REGRESSIONS` is the list: B1 to B12 are defects found by reading other products' code, the numbered complaints are what
their users report. Where a test of another part proves it already, it is named and not repeated.
`test_the_list.py` checks that every named test exists and that nothing is left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Regression:
    """One defect, and the node ids of the tests that guard against it."""

    defect: str
    tests: tuple[str, ...]


_HERE = "tests/regressions"
_DISKS = "tests/e2e/test_disks_and_tracking.py"
_VSPHERE = "tests/unit/vsphere"

REGRESSIONS: Mapping[str, Regression] = {
    "B1": Regression(
        "CDI reads the first page of changed areas for ever, where there are more than 2,000.",
        (
            f"{_HERE}/test_changed_areas.py::test_b1_more_than_2000_areas_are_all_read",
            f"{_VSPHERE}/test_changed_areas.py::test_more_than_two_thousand_areas_with_empty_pages_in_the_middle_are_all_told",
            f"{_DISKS}::test_more_than_two_thousand_areas_in_descending_order_are_all_replicated",
        ),
    ),
    "B2": Regression(
        "os-migrate stores the change id before the first copy: deltas follow on a half-empty disk.",
        (
            f"{_HERE}/test_cycles.py::test_b2_a_first_copy_that_failed_is_no_base_for_a_delta",
            "tests/workflows/test_initial_replication.py"
            "::test_a_failed_initial_replication_waits_for_retry_and_goes_on_from_its_marks",
        ),
    ),
    "B3": Regression(
        "os-migrate never advances its change id: every sync sends again all that changed since the first day.",
        (
            f"{_HERE}/test_cycles.py::test_b3_what_a_commit_carried_is_not_carried_again",
            "tests/workflows/test_delta_cycles.py::test_a_commit_makes_the_new_change_ids_the_base_of_the_next_cycle",
        ),
    ),
    "B4": Regression(
        "os-migrate powers a Linux source off after snapshot, copy and conversion: writes in between are lost.",
        (
            f"{_HERE}/test_cutover.py::test_b4_what_a_guest_writes_until_it_is_off_is_on_the_target",
            "tests/workflows/test_migration.py"
            "::test_migrate_is_an_on_demand_delta_then_shutdown_then_a_final_delta_then_the_target_vm",
        ),
    ),
    "B5": Regression(
        "vJailbreak takes a quiesced snapshot where it had to log in again, and a plain one otherwise.",
        (f"{_HERE}/test_snapshots.py::test_b5_a_snapshot_is_not_quiesced_also_after_a_new_log_in",),
    ),
    "B6": Regression(
        "vJailbreak removes its snapshot with its children: a user's snapshot on top of it goes too.",
        (
            f"{_HERE}/test_snapshots.py::test_b6_removing_our_snapshot_keeps_all_that_others_took_on_top_of_it",
            f"{_DISKS}::test_snapshots_of_others_are_never_removed_not_even_as_children_of_ours",
        ),
    ),
    "B7": Regression(
        "vJailbreak takes a snapshot's disks for the VM's by index: disk B gets the change id of disk A.",
        (
            f"{_HERE}/test_cycles.py::test_b7_each_disk_has_its_own_change_id_whatever_order_vcenter_lists_them_in",
            f"{_VSPHERE}/test_devices.py::test_disks_come_in_the_order_of_their_keys_whatever_vcenters_order_is",
        ),
    ),
    "B8": Regression(
        "Coriolis ends a cycle at the first disk without changes: the disks after it are left out.",
        (f"{_HERE}/test_cycles.py::test_b8_a_disk_without_changes_does_not_end_the_cycle_for_the_disks_after_it",),
    ),
    "B9": Regression(
        "migratekit, vJailbreak and os-migrate kill their reader: its sessions linger on the ESXi host.",
        (
            f"{_HERE}/test_transient.py::test_b9_no_reader_is_left_on_an_esxi_host",
            f"{_VSPHERE}/test_exports.py::test_nbdkit_serves_while_the_disk_is_open_and_closes_vddk_afterwards",
            f"{_VSPHERE}/test_exports.py::test_nbdkit_is_ended_when_the_reader_fails",
        ),
    ),
    "B10": Regression(
        "migratekit never grows its target, ignores errors of writing its state, and leaves out the rest of a clean-up.",
        (
            f"{_HERE}/test_transient.py::test_b10_a_record_that_cannot_be_written_is_an_error_and_takes_no_commit_back",
            f"{_DISKS}::test_a_changed_set_of_disks_parks_the_replication_and_no_snapshot_is_taken",
            "tests/e2e/test_resync.py::test_a_resync_begins_by_itself_and_the_replica_follows_the_source_again",
            "tests/workflows/test_ending.py::test_a_stop_that_fails_half_way_is_finished_by_retry",
        ),
    ),
    "B11": Regression(
        "vJailbreak derives its phase from events that age out, and its retry hears no cutover for up to three hours.",
        (
            f"{_HERE}/test_signals.py::test_b11_a_cutover_is_heard_at_once_while_a_failed_cycle_waits_for_its_next_try",
            "tests/workflows/test_schedule.py"
            "::test_for_a_month_every_delta_sleeps_min_of_max_of_an_hour_and_half_the_last_duration_and_twelve_hours",
            "tests/workflows/test_pausing.py::test_pause_during_a_sleep_takes_effect_at_once_and_no_cycle_runs_until_resume",
        ),
    ),
    "B12": Regression(
        "Xen Orchestra left out the final delta without a snapshot before it, and disks and snapshots from the tenth on.",
        (
            f"{_HERE}/test_cycles.py::test_b12_no_disk_is_lost_on_a_vm_with_many_disks_and_many_snapshots_of_others",
            f"{_HERE}/test_cutover.py::test_b4_what_a_guest_writes_until_it_is_off_is_on_the_target",
            "tests/e2e/test_commands.py::test_a_source_that_is_already_off_is_migrated_with_one_delta",
        ),
    ),
    "complaint 4": Regression(
        "A copy fails at 98 % on disks of odd sizes.",
        (
            f"{_HERE}/test_seeds.py::test_complaint_4_no_read_goes_beyond_a_disk_of_any_size",
            f"{_HERE}/test_seeds.py::test_complaint_4_disks_of_odd_sizes_are_carried_to_their_last_sector",
            f"{_DISKS}::test_disks_of_odd_sizes_are_replicated_to_their_last_sector",
        ),
    ),
    "complaint 5": Regression(
        "An incremental copy dies of a start offset at the disk's end.",
        (f"{_HERE}/test_changed_areas.py::test_complaint_5_nothing_is_asked_for_at_the_end_of_a_disk",),
    ),
    "complaint 7": Regression(
        "Snapshots stay on vCenter after a success or a failure.",
        (
            f"{_HERE}/test_order.py::test_complaint_7_what_lost_runs_left_is_removed_and_nothing_of_others",
            f"{_DISKS}::test_a_leftover_snapshot_of_ours_is_removed_before_the_next_one_is_taken",
            "tests/e2e/test_one_vm.py::test_a_migrated_vm_is_byte_identical_and_nothing_is_left_behind",
        ),
    ),
    "complaint 8": Regression(
        "File systems are damaged after warm migrations: snapshots taken before the last one was removed and merged.",
        (
            f"{_HERE}/test_order.py::test_complaint_8_the_last_snapshot_is_removed_and_consolidated_before_the_next_is_taken",
            f"{_HERE}/test_order.py::test_complaint_8_what_a_guest_writes_while_snapshots_come_go_and_merge_is_in_the_next_cycle",
            f"{_DISKS}::test_no_snapshot_is_taken_until_the_disks_are_consolidated",
        ),
    ),
    "complaint 15": Regression(
        "A passing error of vCenter ends hours of work.",
        (
            f"{_HERE}/test_transient.py::test_complaint_15_a_fault_of_vcenter_costs_one_attempt",
            f"{_HERE}/test_transient.py::test_complaint_15_a_read_that_breaks_off_is_taken_up_where_it_was",
            f"{_DISKS}::test_a_session_that_expires_in_the_middle_of_a_cycle_is_renewed",
            f"{_DISKS}::test_a_vcenter_that_does_not_answer_for_some_seconds_delays_a_cycle_and_fails_none",
        ),
    ),
    "complaint 21": Regression(
        "A quiesced snapshot that fails, or was none, ends the cycle or is believed: a Windows guest without VSS cannot be copied warm.",
        (
            "tests/e2e/test_quiescing_by_hand.py"
            "::test_a_guest_without_running_tools_or_that_fails_gives_a_crash_consistent_cycle",
            "tests/e2e/test_quiescing_by_hand.py::test_points_are_of_the_kind_that_was_obtained_and_say_why_it_is_less",
            "tests/workflows/test_quiescing.py::test_a_quiesce_that_fails_fails_no_cycle_says_why_and_is_not_repeated_at_once",
        ),
    ),
    "complaint 24": Regression(
        "Zeros are left out on a target that does not read as zero.",
        (
            f"{_HERE}/test_seeds.py::test_complaint_24_what_became_a_hole_is_cleared_on_a_seed_that_was_written_before",
            "tests/unit/blocks/test_data_plane.py::test_zeros_are_cleared_on_a_seed_that_is_not_pristine",
            f"{_DISKS}::test_zeros_written_in_a_delta_are_zero_on_the_seed_and_only_cleared",
        ),
    ),
    "complaint 29": Regression(
        "After an error of change tracking a whole device is copied, where checksums over what is allocated would do.",
        (
            f"{_HERE}/test_ladder.py::test_complaint_29_a_fault_of_change_tracking_gives_up_one_rung_of_precision_at_a_time",
            "tests/workflows/test_repairing.py::test_the_ladder_is_climbed_down_one_rung_at_a_time_and_only_on_request",
            "tests/e2e/test_resync_by_hand.py::test_a_resync_without_any_change_id_brings_what_changed_and_nothing_else",
        ),
    ),
}

EXPECTED = (
    *(f"B{number}" for number in range(1, 13)),
    *(f"complaint {number}" for number in (4, 5, 7, 8, 15, 21, 24, 29)),
)
