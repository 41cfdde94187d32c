from pathlib import Path

from temporalio import activity
from temporalio.client import Client

from workers.serving import control_queues
from workers.settings import load_settings
from workflows import names

EXAMPLE = Path(__file__).parents[3] / "deploy" / "examples" / "deltaferry.toml"


async def test_a_control_worker_answers_what_needs_neither_vsphere_nor_stores() -> None:
    client = await Client.connect("127.0.0.1:7233", lazy=True)
    (control,) = control_queues(load_settings(EXAMPLE), client)
    definitions = [activity._Definition.must_from_callable(step) for step in control.activities]
    assert control.queue == names.CONTROL_QUEUE
    assert {definition.name for definition in definitions} >= {"describe_site", "next_off_hours", "list_blackouts"}
