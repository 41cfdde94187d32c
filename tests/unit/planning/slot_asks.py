"""Requests and leases for the tests of slots, named by their holders."""

from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from deltaferry.planning.slots import Lease, Priority, SlotLimits, SlotRequest

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LIMITS = SlotLimits()


def ask(
    name: str,
    disks: int = 1,
    priority: Priority = Priority.DELTA,
    *,
    ticket: int = 0,
    waited: timedelta = timedelta(0),
    host: str = "esxi-1",
    appliance: str = "a1",
    datastores: tuple[tuple[str, int], ...] | None = None,
    in_progress: bool = False,
) -> SlotRequest:
    stores = (("ds1", disks),) if datastores is None else datastores
    return SlotRequest(f"vm/{name}", "1", priority, appliance, host, disks, stores, ticket, NOW - waited, in_progress)


def hold(request: SlotRequest) -> Lease:
    return Lease(f"lease-{request.holder}", request.holder, request.request_id, request.priority, request.appliance, request.host,
                 request.disks, request.datastores)  # fmt: skip


def names(granted: tuple[SlotRequest, ...]) -> list[str]:
    return [request.holder.removeprefix("vm/") for request in granted]


REQUESTS = st.lists(
    st.builds(
        ask,
        st.uuids().map(str),
        st.integers(0, 20),
        st.sampled_from(Priority),
        ticket=st.integers(0, 50),
        waited=st.timedeltas(timedelta(0), timedelta(hours=6)),
        host=st.sampled_from(["esxi-1", "esxi-2", "esxi-3"]),
        appliance=st.sampled_from(["a1", "a2"]),
        datastores=st.lists(st.tuples(st.sampled_from(["ds1", "ds2"]), st.integers(0, 20)), max_size=2).map(tuple),
        in_progress=st.booleans(),
    ),
    max_size=12,
)
SMALL = SlotLimits(disks_per_appliance=12, disks_per_host=8, snapshots_per_datastore=15)
