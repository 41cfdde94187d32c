"""`reprotect` to another place: what is sent, and what is said of a place that cannot be used."""

import json

import pytest

from console import recovery_commands
from deltaferry.planning.dr_states import DrOperation
from workflows.messages.operator_input import AlternateLocation, ReprotectOptions

from .conftest import Running, Synced
from .test_usage import call


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [
        (("--power-off-source", "--reason", "why"), ReprotectOptions(False, True, "why")),
        (("--datastore", "ds2", "--host", "esx-2"), ReprotectOptions(location=AlternateLocation("ds2", host="esx-2"))),
        (
            (
                *("--datastore", "ds2", "--cluster", "c1", "--resource-pool", "gold", "--folder", "/prod", "--name", "web-02"),
                *("--network", "VM Network=prod", "--network", "backup=backup=2"),
            ),
            ReprotectOptions(
                location=AlternateLocation(
                    "ds2",
                    cluster="c1",
                    resource_pool="gold",
                    folder="/prod",
                    name="web-02",
                    networks={"VM Network": "prod", "backup": "backup=2"},
                )
            ),
        ),
    ],
)
def test_the_options_are_the_place_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], sent: ReprotectOptions
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(recovery_commands, "_send", lambda *given: asked.extend((given[3], given[4]())))
    code, _, _ = call("reprotect", "web-01", *arguments)
    assert (code, asked) == (0, [DrOperation.REPROTECT, sent])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--host", "esx-2"), "Another place for the VM needs a datastore."),
        (("--network", "a=b"), "Another place for the VM needs a datastore."),
        (("--datastore", "ds2", "--host", "h", "--network", "prod"), "--network prod cannot be used."),
        (("--datastore", "ds2", "--host", "h", "--network", "a=b", "--network", "a=c"), "--network a=c cannot be used."),
    ],
)
async def test_a_place_that_is_not_whole_is_wrong_usage(
    running: Running, synced: Synced, arguments: tuple[str, ...], told: str
) -> None:
    failed = await running.json("reprotect", synced.vm, *arguments, exit_code=2)
    assert failed["error"]["sentence"] == told


async def test_without_a_failover_the_states_refuse_it_as_ever(running: Running, synced: Synced) -> None:
    failed = await running.json("reprotect", synced.vm, "--datastore", "ds2", "--host", "esx-2", exit_code=3)
    assert "reprotect is accepted when a failover was committed" in json.dumps(failed)
