"""The heartbeats of a step."""

import contextvars
from concurrent.futures import ThreadPoolExecutor

from temporalio.testing import ActivityEnvironment

from activities.progress import Heartbeats, beat_for_a_request


def test_a_request_beats_for_its_step_also_from_another_thread() -> None:
    environment = ActivityEnvironment()
    beats: list[object] = []
    environment.on_heartbeat = beats.append

    def step() -> None:
        Heartbeats("a step")
        with ThreadPoolExecutor(1) as pool:
            pool.submit(contextvars.copy_context().run, beat_for_a_request).result()

    environment.run(step)
    assert beats == ["a step"]


def test_a_request_outside_of_any_step_beats_for_nobody() -> None:
    environment = ActivityEnvironment()
    beats: list[object] = []
    environment.on_heartbeat = beats.append
    environment.run(beat_for_a_request)
    beat_for_a_request()
    assert beats == []
