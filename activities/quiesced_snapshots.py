"""The snapshot of a cycle that wants an application-consistent point: quiesced where the guest lets itself be, else as ever.

A quiesce that fails fails no cycle. What became of the request is stored before the other snapshot is taken, so that no
repetition asks the guest again; a quiesced snapshot that arrives after that is found by its name and removed, before the
other is taken, when that is released, or by whoever clears the VM next (`clear_leftovers`).
"""

from pydantic import TypeAdapter
from temporalio import activity

from activities.adapters import Site
from activities.held_snapshots import pass_gates, record_snapshot, recorded_snapshot, take_snapshot
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.naming import (
    SNAPSHOT_DESCRIPTION,
    freeze_mark_name,
    gateway_container,
    quiesce_name,
    quiesced_snapshot_name,
)
from deltaferry.model.quiescing import QuiesceAnswer, QuiesceOrder, QuiesceOutcome
from deltaferry.model.replication import ReplicationRef
from deltaferry.model.vm import Snapshot
from deltaferry.planning.quiescing import not_obtained, obtained
from deltaferry.ports.access import Beat

_IN_VAIN = frozenset({ErrorKind.QUIESCE_FAILED, ErrorKind.SNAPSHOT_REFUSED, ErrorKind.VSPHERE_FAULT})
"""What vSphere says where it took no quiesced snapshot. Not all of it may be the guest's doing: then the other snapshot meets it too."""

_OUTCOME = TypeAdapter(QuiesceOutcome)


def take_quiesced_snapshot(
    site: Site, ref: ReplicationRef, cycle_key: str, order: QuiesceOrder, beat: Beat, growth_bytes: tuple[tuple[int, int], ...]
) -> tuple[Snapshot, QuiesceOutcome]:
    """Return the cycle's snapshot, and what was obtained of the guest. Raises what `take_snapshot` raises."""
    gateway, outcome_key = site.stores.gateway, f"{gateway_container(ref)}/{quiesce_name(cycle_key)}"
    stored = gateway.get_if_exists(outcome_key)
    outcome = _OUTCOME.validate_json(stored) if stored is not None else None
    if outcome is None:
        snapshot, outcome = _ask(site, ref, cycle_key, order, beat, growth_bytes)
        _, kept = gateway.put_or_get(outcome_key, _OUTCOME.dump_json(outcome))
        outcome = _OUTCOME.validate_json(kept)
        if snapshot is not None:
            return snapshot, outcome
        activity.logger.info("the guest was not quiesced: %s", outcome.sentence)
    return take_snapshot(site, ref, cycle_key, beat, growth_bytes=growth_bytes), outcome


def _ask(
    site: Site, ref: ReplicationRef, cycle_key: str, order: QuiesceOrder, beat: Beat, growth_bytes: tuple[tuple[int, int], ...]
) -> tuple[Snapshot | None, QuiesceOutcome]:
    """Have the guest quiesced; return the snapshot that was taken, if one was, and what it is worth."""
    hypervisor = site.hypervisor
    mark_key = f"{gateway_container(ref)}/{freeze_mark_name(cycle_key)}"
    snapshot = recorded_snapshot(site, ref, cycle_key)
    if snapshot is None:
        name = quiesced_snapshot_name(ref, cycle_key)
        pass_gates(site, ref, name, beat, growth_bytes)
        site.stores.gateway.put_new(mark_key, hypervisor.read_vm(ref.instance_uuid).freeze_mark.encode())
        try:
            snapshot = hypervisor.take_snapshot(ref.instance_uuid, name, SNAPSHOT_DESCRIPTION, beat, order)
        except DeltaferryError as error:
            if error.kind is ErrorKind.GUEST_TOOLS_UNAVAILABLE:
                return None, not_obtained(QuiesceAnswer.NOT_ASKED, error.detail)
            if error.kind in _IN_VAIN:
                return None, not_obtained(QuiesceAnswer.FAILED, error.detail)
            raise
        record_snapshot(site, ref, cycle_key, snapshot)
    before = site.stores.gateway.get(mark_key).decode()
    mark = hypervisor.read_vm(ref.instance_uuid).freeze_mark
    return snapshot, obtained(windows=order.windows, quiesced=snapshot.quiesced, script_ran=bool(mark) and mark != before)
