"""What the command line sends to workflows, and when it sends it again."""

import asyncio
from datetime import timedelta
from typing import Any, cast

import pytest
from temporalio.client import WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

from console.client import update


class Receiver:
    """A workflow that takes updates after a while; the first ones meet it between two runs."""

    def __init__(self, refusals: int = 0) -> None:
        self.let_go = asyncio.Event()
        self.sent = 0
        self._refusals = refusals

    async def execute_update(self, name: str, **_: Any) -> str:
        self.sent += 1
        await self.let_go.wait()
        if self.sent <= self._refusals:
            raise RPCError("the run is ending", RPCStatusCode.FAILED_PRECONDITION, b"")
        return f"{name} is taken"


def _send(receiver: Receiver) -> "asyncio.Task[str]":
    handle = cast("WorkflowHandle[Any, Any]", receiver)
    return asyncio.create_task(update(handle, "complete", within=timedelta(seconds=1)))


async def test_updates_that_are_sent_at_the_same_time_are_each_sent_once() -> None:
    receivers = [Receiver() for _ in range(4)]
    sending = [_send(receiver) for receiver in receivers]
    for receiver, sent in zip(receivers, sending, strict=True):
        receiver.let_go.set()
        assert await sent == "complete is taken"
    assert [receiver.sent for receiver in receivers] == [1, 1, 1, 1]


async def test_an_update_that_meets_a_run_just_as_it_ends_is_sent_to_the_next_one() -> None:
    receiver = Receiver(refusals=1)
    receiver.let_go.set()
    assert await _send(receiver) == "complete is taken"
    assert receiver.sent == 2


async def test_an_update_that_no_worker_answers_is_not_sent_again() -> None:
    class Deaf(Receiver):
        async def execute_update(self, name: str, **_: Any) -> str:
            self.sent += 1
            raise RPCError("no answer", RPCStatusCode.DEADLINE_EXCEEDED, b"")

    receiver = Deaf()
    with pytest.raises(RPCError):
        await _send(receiver)
    assert receiver.sent == 1
