import dataclasses
import importlib
from collections import Counter
from pathlib import Path

from temporalio import activity
from temporalio.client import Client

from workers.serving import control_queues
from workers.settings import load_settings
from workflows import names

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "deploy" / "examples" / "deltaferry.toml"


async def test_a_control_worker_answers_what_needs_neither_vsphere_nor_stores() -> None:
    client = await Client.connect("127.0.0.1:7233", lazy=True)
    (control,) = control_queues(load_settings(EXAMPLE), client)
    definitions = [activity._Definition.must_from_callable(step) for step in control.activities]
    assert control.queue == names.CONTROL_QUEUE
    assert {definition.name for definition in definitions} >= {"describe_site", "next_off_hours", "list_blackouts"}


async def test_a_control_worker_keeps_every_replication_of_all_its_sites_in_memory() -> None:
    client = await Client.connect("127.0.0.1:7233", lazy=True)
    settings = load_settings(EXAMPLE)
    limits = dataclasses.replace(next(iter(settings.sites.values())).limits, replications_per_site=1500)
    larger = {name: dataclasses.replace(site, limits=limits) for name, site in settings.sites.items()}
    (control,) = control_queues(dataclasses.replace(settings, sites=larger), client)
    assert control.cached_workflows > 1500 * len(larger)


def test_no_two_steps_have_one_name() -> None:
    steps = [
        getattr(member, "__temporal_activity_definition").name
        for file in sorted((ROOT / "activities").glob("*.py"))
        for group in vars(importlib.import_module(f"activities.{file.stem}")).values()
        if isinstance(group, type) and group.__module__ == f"activities.{file.stem}"
        for member in vars(group).values()
        if hasattr(member, "__temporal_activity_definition")
    ]
    assert len(steps) > 40
    assert [name for name, count in Counter(steps).items() if count > 1] == []
