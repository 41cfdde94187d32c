"""What Prometheus is told of a replication, once for each thing that happens."""

from temporalio.runtime import MetricBuffer, Runtime, TelemetryConfig

from tests.workflows.servers import start_dev_server
from tests.workflows.site_bench import shared_workers, site_bench
from tests.workflows.stand_ins import StandIns
from workflows import meters


async def test_cycles_bytes_points_and_slots_are_metered() -> None:
    buffer = MetricBuffer(10_000)
    stand_ins = StandIns()
    async with (
        await start_dev_server(Runtime(telemetry=TelemetryConfig(metrics=buffer))) as server,
        shared_workers(server.client, stand_ins),
        site_bench(server.client, stand_ins, "metered") as bench,
    ):
        running = await bench.replicated(due=True)
        view = await running.until_committed(2)
        (cycle,) = await running.cycles()
    told = [
        (u.metric.name, dict(u.attributes), u.value) for u in buffer.retrieve_updates() if u.metric.name.startswith("deltaferry")
    ]
    of = {name: [(labels, value) for known, labels, value in told if known == name] for name, _, _ in told}
    site = {"site": "metered"}
    assert [value for labels, value in of[meters.CYCLES] if labels.items() >= {**site, "outcome": "committed"}.items()] == [1]
    assert [value for _, value in of[meters.BYTES_SENT]] == [cycle.bytes_sent]
    assert [value for _, value in of[meters.BYTES_READ]] == [cycle.bytes_read]
    assert len(of[meters.CYCLE_DURATION]) == 1 and len(of[meters.SLOTS_WAIT]) == 1
    assert view.last_recovery_point is not None
    labels, newest = of[meters.POINT_TIME][-1]
    assert (newest, labels.items() >= {**site, "vm": running.vm}.items()) == (int(view.last_recovery_point.timestamp()), True)
    assert {value for _, value in of[meters.SLOTS_IN_USE]} >= {2}
