"""What workflows tell Prometheus (`[metrics] prometheus`): age of recovery points, cycles, bytes, slots and the wait for them.

Temporal's meter keeps silent during replay, so nothing is counted twice. Labels are few: the site, and the VM where one
number per VM is what is wanted.
"""

from datetime import datetime, timedelta

from temporalio import workflow

from deltaferry.model.replication import CycleKind, ReplicationRef
from workflows.messages.replication_state import CycleRecord

POINT_TIME = "deltaferry_recovery_point_time"
CYCLES = "deltaferry_cycles"
BYTES_READ = "deltaferry_bytes_read"
BYTES_SENT = "deltaferry_bytes_sent"
CYCLE_DURATION = "deltaferry_cycle_duration"
SLOTS_WAIT = "deltaferry_slots_wait"
SLOTS_IN_USE = "deltaferry_disk_slots_in_use"
REQUESTS_WAITING = "deltaferry_slot_requests_waiting"


def point_committed(ref: ReplicationRef, vm_name: str, taken_at: datetime) -> None:
    """Note when the latest recovery point's snapshot was taken: the RPO is `time() - deltaferry_recovery_point_time`."""
    gauge = workflow.metric_meter().create_gauge(POINT_TIME, "Source time of the latest recovery point, Unix seconds", "s")
    gauge.set(int(taken_at.timestamp()), {"site": ref.site, "vm": vm_name})


def cycle_ended(site: str, record: CycleRecord) -> None:
    """Count a cycle, its bytes, and how long it took without the wait for slots."""
    meter = workflow.metric_meter()
    labels = {"site": site, "kind": record.kind.value}
    outcome = "committed" if record.committed else "failed"
    meter.create_counter(CYCLES, "Cycles that ended").add(1, {**labels, "outcome": outcome})
    meter.create_counter(BYTES_READ, "Bytes read from source disks", "By").add(record.bytes_read, labels)
    meter.create_counter(BYTES_SENT, "Bytes sent to the log, compressed and encrypted", "By").add(record.bytes_sent, labels)
    meter.create_histogram_timedelta(CYCLE_DURATION, "From snapshot to commit or failure", "s").record(record.duration, labels)


def slots_granted(site: str, kind: CycleKind, waited: timedelta) -> None:
    """Note how long a request for slots waited."""
    histogram = workflow.metric_meter().create_histogram_timedelta(SLOTS_WAIT, "Wait for slots", "s")
    histogram.record(waited, {"site": site, "kind": kind.value})


def slots_shown(site: str, in_use: int, waiting: int) -> None:
    """Note a site's disk slots in use and requests waiting, as its arbiter sees them."""
    meter = workflow.metric_meter()
    meter.create_gauge(SLOTS_IN_USE, "Disk slots in use").set(in_use, {"site": site})
    meter.create_gauge(REQUESTS_WAITING, "Requests for slots that wait").set(waiting, {"site": site})
