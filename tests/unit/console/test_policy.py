"""`policy` against a real Temporal server with the real book of policies, and the activity that looks one up."""

from uuid import uuid4

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment
from typer.testing import CliRunner

from activities.policies import Policies
from console.main import app

from .conftest import Running


@pytest.fixture
def name() -> str:
    """A policy's name that no other test uses."""
    return f"gold-{uuid4().hex[:8]}"


@pytest.mark.parametrize("verb", ["create", "list", "show", "delete"])
def test_every_policy_commands_help_has_an_example_of_itself(verb: str) -> None:
    result = CliRunner().invoke(app, ["policy", verb, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert f"Example: deltaferry policy {verb}" in result.stdout
    assert "--json" in result.stdout


async def test_a_policy_is_made_listed_found_by_name_changed_and_deleted(running: Running, name: str) -> None:
    made = await running.json("policy", "create", name, "--rpo", "4h", "--retention", "3d")
    assert f"The policy {name} is made" in made["result"]
    listed = (await running.json("policy", "list"))["policies"]
    assert next(one["retention"] for one in listed if one["name"] == name) == "P3D"
    found = await ActivityEnvironment().run(Policies(running.client).find_policy, name)
    assert (found.name, found.rpo_threshold.total_seconds()) == (name, 4 * 3600)
    await running.json("policy", "create", name, "--rpo", "8h", "--replace")
    shown = (await running.json("policy", "show", name))["policy"]
    assert (shown["rpo_threshold"], shown["retention"], shown["app_consistent_every"]) == ("PT8H", "P1D", None)
    human = await running.call("policy", "show", name)
    assert human.exit_code == 0 and "8 h 00 min" in human.stdout
    deleted = await running.json("policy", "delete", name)
    assert "replications that were given it keep it" in deleted["result"]
    failed = await running.json("policy", "show", name, exit_code=4)
    assert f"There is no policy {name}" in failed["error"]["sentence"]


async def test_a_policy_that_contradicts_itself_is_refused_with_every_sentence(running: Running, name: str) -> None:
    failed = await running.json(
        "policy", "create", name, "--rpo", "4h", "--retention", "16d", "--app-consistent", "30m", "--failback-interval", "1m", exit_code=2
    )  # fmt: skip
    for expected in ("at most 15 days", "write between 1 and 12 hours", "The failback interval is 1 min"):
        assert expected in failed["error"]["sentence"]


async def test_a_policy_with_app_consistent_points_is_made_and_says_what_they_cost(running: Running, name: str) -> None:
    made = await running.json("policy", "create", name, "--rpo", "4h", "--app-consistent", "4h")
    assert made["policy"]["app_consistent_every"] == "PT4H"
    assert "takes longer and slows the application" in made["cautions"][0]


async def test_a_name_is_taken_only_once_unless_it_is_replaced(running: Running, name: str) -> None:
    failed = await running.json("policy", "create", name, "--rpo", "4h", "--replace", exit_code=2)
    assert f"There is no policy {name}" in failed["error"]["sentence"]
    await running.json("policy", "create", name, "--rpo", "4h")
    failed = await running.json("policy", "create", name, "--rpo", "4h", exit_code=3)
    assert f"There is a policy {name} already" in failed["error"]["sentence"]


async def test_a_name_that_there_is_not_is_refused_with_those_there_are(running: Running, name: str) -> None:
    await running.json("policy", "create", name, "--rpo", "4h")
    with pytest.raises(ApplicationError) as caught:
        await ActivityEnvironment().run(Policies(running.client).find_policy, "no-such-policy")
    assert caught.value.type == "BadInput"
    assert name in caught.value.message
