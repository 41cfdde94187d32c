"""The guards of the data path, one mutant for each: what is taken away, and the named test that must notice.

A mutant changes source text of a copy of the tree; where the text it replaces is gone, applying it fails, so that a guard
that moved is looked for and not forgotten. The list is data: `test_mutants.py` carries it out.
"""

from dataclasses import dataclass
from pathlib import Path

_SEGMENT, _RECORDS = "tests/unit/blocks/test_segment.py", "tests/unit/blocks/test_records.py"
_FUZZ = "tests/unit/blocks/test_fuzz_decoders.py"
_PLANE, _HTTP, _NBD = (
    "tests/unit/blocks/test_data_plane.py",
    "tests/unit/blocks/test_blob_http.py",
    "tests/unit/blocks/test_nbd.py",
)
_SEEDS, _OBJECTS = "tests/unit/azure/test_seeds.py", "tests/unit/azure/test_object_store.py"
_CYCLES, _INITIAL = "tests/workflows/test_delta_cycles.py", "tests/workflows/test_initial_replication.py"
_CHECKS, _GUARDS = "tests/chaos/test_both_checks.py", "tests/chaos/test_cycle_guards.py"

_PACKING, _APPLY = "deltaferry/blocks/packing.py", "deltaferry/blocks/apply.py"
_HTTP_SOURCE, _VERIFICATION = "deltaferry/blocks/blob_http.py", "activities/verification.py"
_LISTED, _CHUNKS = "deltaferry/blocks/listed.py", "activities/sent_chunks.py"
_DELTA, _HELD = "workflows/delta_cycle.py", "activities/held_snapshots.py"


@dataclass(frozen=True, slots=True)
class Edit:
    """One replacement in a file of the tree; `old` must stand there exactly once."""

    file: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Mutant:
    """A guard taken away. `killer` is the pytest id, or the beginning of the ids, of the test that must fail without it."""

    name: str
    guard: str
    edits: tuple[Edit, ...]
    killer: str


class GuardGoneError(AssertionError):
    """The source text that a mutant replaces is not there, or not once: the table has to follow the code."""


def apply(mutant: Mutant, tree: Path) -> None:
    """Change a copy of the tree. Raises GuardGoneError."""
    for edit in mutant.edits:
        file = tree / edit.file
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        if text.count(edit.old) != 1:
            raise GuardGoneError(
                f"{mutant.name}: the text to replace stands {text.count(edit.old)} times in {edit.file}: {edit.old!r}"
            )
        file.write_text(text.replace(edit.old, edit.new), encoding="utf-8")


MUTANTS = (
    Mutant(
        "associated-data",
        "a segment's header is authenticated with its payload",
        (
            Edit(_PACKING, "encrypt_into(NONCE, payload, head, stored[len(head) :])", "encrypt_into(NONCE, payload, None, stored[len(head) :])"),
            Edit(_PACKING, "stored[:size], payload)", "None, payload)"),
        ),
        f"{_SEGMENT}::test_a_flipped_bit_anywhere_is_refused",
    ),
    Mutant(
        "cycle-key-authenticated",
        "a segment carries its cycle's key, in its name's key derivation and in its associated data, and both are compared",
        (
            Edit(_PACKING, "header.identity != expected", "header.identity.number != expected.number"),
            Edit("deltaferry/blocks/checksums.py", "salt, object_name.encode())", "salt, object_name.rpartition('/')[2].encode())"),
        ),
        f"{_SEGMENT}::test_a_segment_of_another_place_is_refused",
    ),
    Mutant(
        "checksum",
        "every piece's checksum is compared after decompression, before a byte is handed out",
        (Edit(_PACKING, "if self._hasher.checksum(part) != next(checksums):", "if not next(checksums):"),),
        f"{_SEGMENT}::test_content_that_does_not_match_its_checksum_is_refused",
    ),
    Mutant(
        "decompressed-length",
        "a payload decompresses to exactly the length that the header says",
        (Edit(_PACKING, "if filled != len(plaintext):", "if filled > len(plaintext):"),),
        f"{_FUZZ}::test_a_frame_of_another_length_never_leaves_the_buffers_old_content",
    ),
    Mutant(
        "entries-on-the-disk",
        "an entry beyond the disk's end is refused though authentic",
        (Edit("deltaferry/blocks/segment.py", "if end * SECTOR > capacity_bytes:", "if end < 0:"),),
        f"{_SEGMENT}::test_entries_outside_the_disk_or_out_of_order_are_refused_though_authentic",
    ),
    Mutant(
        "random-salt",
        "every object has a salt, and so a key, of its own",
        (Edit(_PACKING, "os.urandom(SALT_BYTES)", "bytes(SALT_BYTES)"),),
        f"{_SEGMENT}::test_two_objects_never_share_salt_or_ciphertext",
    ),
    Mutant(
        "record-checksum",
        "plans, manifests, accounts and maps carry a checksum that is compared",
        (Edit("deltaferry/blocks/records.py", "!= view[_HEAD.size : RECORD_OVERHEAD]:", "== b'':"),),
        f"{_RECORDS}::test_a_flipped_bit_anywhere_is_refused",
    ),
    Mutant(
        "one-content-a-granule",
        "two segments of one snapshot cannot disagree about a granule",
        (
            Edit(
                "deltaferry/blocks/checksum_map.py",
                "!= checksums[start + position : start + position + CHECKSUM_BYTES]:",
                "== b'':",
            ),
        ),
        f"{_RECORDS}::test_two_segments_cannot_disagree_about_a_granule",
    ),
    Mutant(
        "sector-sets",
        "the planned and the covered sectors are compared, sector by sector",
        (Edit("deltaferry/blocks/sector_sets.py", "    if source == target:\n        return", "    if len(source) >= 0:\n        return"),),
        f"{_RECORDS}::test_a_coverage_mismatch_says_how_much_and_where",
    ),
    Mutant(
        "sector-sets-at-the-seal",
        "the seal compares the sectors of the whole cycle",
        (
            Edit(
                _VERIFICATION,
                "            self._check_coverage(stores, plan, first, plan.segments, accounts[disk_key])\n",
                "",
            ),
        ),
        f"{_CHECKS}::test_an_account_that_covers_other_sectors_is_refused_at_the_seal",
    ),
    Mutant(
        "sector-sets-of-a-chunk",
        "a chunk of the initial replication is compared before its log is deleted",
        (
            Edit(
                _VERIFICATION,
                "            self._check_coverage(stores, plans[chunk.disk_key], chunk.first_segment, chunk.next_segment, [account])\n",
                "",
            ),
        ),
        f"{_CHECKS}::test_an_account_that_covers_other_sectors_keeps_a_chunks_log",
    ),
    Mutant(
        "manifest-digests",
        "at the seal the applied objects equal the manifest's, by digest",
        (Edit(_CHUNKS, "    require_same(manifest.segments, account.applied, chunk.manifest.key)\n", ""),),
        f"{_CHECKS}::test_an_account_of_other_objects_is_refused_at_the_seal",
    ),
    Mutant(
        "manifest-digest-of-an-object",
        "an object is applied only where its digest is the manifest's",
        (Edit(_LISTED, "if StoredSegment(listed.number, blake3(stored).digest(), len(stored)) != listed:", "if len(stored) != listed.size_bytes:"),),
        f"{_PLANE}::test_a_damaged_log_never_reaches_the_seed",
    ),
    Mutant(
        "account-of-this-chunk",
        "an account counts only for the chunk that it names",
        (Edit(_CHUNKS, "    if theirs != (manifest.cycle_key, manifest.disk_key, manifest.first_segment):", "    if theirs == ():"),),
        f"{_CHECKS}::test_the_account_of_another_chunk_is_refused",
    ),
    Mutant(
        "fence-on-pages",
        "every page write is conditional on the writer's own number",
        (Edit(_HTTP_SOURCE, '            "x-ms-if-sequence-number-eq": str(fence),\n', ""),),
        f"{_PLANE}::test_a_late_write_is_refused_by_the_fence",
    ),
    Mutant(
        "fence-read-back",
        "a writer whose number is not the seed's stops before its first write",
        (Edit("deltaferry/azure/seeds.py", "if found != number:", "if found < number:"),),
        f"{_SEEDS}::test_a_lower_fence_is_refused_with_the_number_found",
    ),
    Mutant(
        "seal-before-checks",
        "all seeds are sealed before anything is compared",
        (Edit(_VERIFICATION, "            stores.seeds.raise_fence(container, seed_name(disk.key), request.seal)\n", "            seed_name(disk.key)\n"),),
        f"{_CHECKS}::test_after_the_seal_no_writer_of_the_cycle_reaches_a_seed",
    ),
    Mutant(
        "point-carries-the-seal",
        "a recovery point's snapshots carry the seal's number",
        (Edit("deltaferry/azure/seeds.py", "        if number != seal:\n", "        if number < 0:\n"),),
        f"{_SEEDS}::test_a_found_snapshot_with_another_number_than_the_seal_is_fenced",
    ),
    Mutant(
        "zero-write",
        "zeros are written on a seed that is not pristine",
        (Edit(_APPLY, "elif not disk.pristine:", "elif disk.capacity_bytes == 0:"),),
        f"{_PLANE}::test_zeros_are_cleared_on_a_seed_that_is_not_pristine",
    ),
    Mutant(
        "pristine-once",
        "only the first pass that ever wrote to a seed may leave zeros out",
        (Edit("activities/apply.py", "pristine=request.initial and first_pass == request.cycle_key,", "pristine=request.initial,"),),
        f"{_GUARDS}::test_a_second_first_copy_clears_what_the_first_one_left",
    ),
    Mutant(
        "write-once-segments",
        "a stored segment is never overwritten",
        (Edit(_HTTP_SOURCE, '"If-None-Match": "*", ', ""),),
        f"{_HTTP}::test_an_object_is_stored_once_and_read_back",
    ),
    Mutant(
        "write-once-records",
        "a stored plan or manifest is never overwritten",
        (Edit("deltaferry/azure/object_store.py", "overwrite=False, metadata", "overwrite=True, metadata"),),
        f"{_OBJECTS}::test_put_new_keeps_the_stored_object_and_refers_to_it",
    ),
    Mutant(
        "snapshot-order",
        "nothing of an earlier cycle is left on the VM when a snapshot is taken",
        (Edit(_HELD, "    clear_leftovers(site, ref, beat, keep=name)\n", ""),),
        f"{_GUARDS}::test_no_snapshot_is_taken_beside_one_of_an_earlier_cycle",
    ),
    Mutant(
        "one-snapshot-a-key",
        "a cycle key stands for one snapshot, ever",
        (Edit(_HELD, " if recorded is not None else None\n", " if recorded == b'' else None\n"),),
        f"{_GUARDS}::test_a_cycles_lost_snapshot_is_not_replaced",
    ),
    Mutant(
        "commit-after-verify",
        "the new change ids become the base only after seal and both checks",
        (
            Edit(
                _DELTA,
                "        sealed = await _seal(",
                "        state.bases = tuple(DiskBase(disk.disk_key, disk.change_id, 1 << 62) for disk in run.begun.disks)\n"
                "        sealed = await _seal(",
            ),
        ),
        f"{_CYCLES}::test_the_first_failed_cycle_keeps_delta_sync_and_the_next_covers_its_range_again",
    ),
    Mutant(
        "dirty-before-writing",
        "what a cycle may write is in the state before its first write",
        (Edit(_DELTA, "        state.dirty += tuple((disk.disk_key, disk.plan) for disk in run.begun.disks if disk.plan.segments)\n", "        pass\n"),),
        f"{_CYCLES}::test_the_first_failed_cycle_keeps_delta_sync_and_the_next_covers_its_range_again",
    ),
    Mutant(
        "a-number-for-every-apply",
        "no two schedulings of an apply share a number",
        (Edit(_DELTA, "        holder.fence += 1\n        request = ApplyInput(", "        request = ApplyInput("),),
        f"{_CYCLES}::test_every_apply_and_every_seal_of_a_life_has_a_higher_number_than_all_before_it",
    ),
    Mutant(
        "retry",
        "a request that was not answered is sent again",
        (Edit(_HTTP_SOURCE, "return isinstance(error, Unanswered) or (", "return ("),),
        f"{_HTTP}::test_what_may_pass_is_tried_again",
    ),
    Mutant(
        "verified-server",
        "a server's certificate is verified",
        (Edit(_HTTP_SOURCE, "    context.minimum_version =", "    context.check_hostname = False\n    context.verify_mode = ssl.CERT_NONE\n    context.minimum_version ="),),
        f"{_HTTP}::test_tls_is_spoken_with_a_server_that_is_verified_and_with_no_other",
    ),
    Mutant(
        "complete-reads",
        "a read counts only when its chunks cover every byte once",
        (Edit("deltaferry/blocks/nbd_requests.py", "                if start != position:", "                if start < 0:"),),
        f"{_NBD}::test_a_malformed_reply_never_passes_for_data",
    ),
)  # fmt: skip
"""One guard each, and its killer."""
