from pathlib import Path

import pytest
from temporalio import activity

from deltaferry.model.errors import DeltaferryError, ErrorKind
from workers.serving import plan_queues
from workers.settings import parse_settings

LEAST = '[installation]\nid = "a"\n'
NAMED = '[plan_worker]\nname = "london-1"\nscripts = ["/opt/plans/stop-jobs"]\n'


def test_a_worker_serves_the_scripts_of_its_settings_under_its_own_name() -> None:
    settings = parse_settings((LEAST + NAMED).encode(), "deltaferry.toml")
    assert settings.plan_worker is not None and settings.plan_worker.scripts == (Path("/opt/plans/stop-jobs"),)
    (serving,) = plan_queues(settings)
    assert serving.queue == "plan-london-1"
    assert [activity._Definition.must_from_callable(step).name for step in serving.activities] == ["run_script"]


def test_a_worker_whose_settings_name_none_runs_no_scripts() -> None:
    assert plan_queues(parse_settings(LEAST.encode(), "deltaferry.toml")) == []


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (NAMED.replace("/opt/plans/", ""), "is not an absolute path"),
        (NAMED.replace("london-1", "London 1"), "[plan_worker] name is not a name of 1 to 32 small letters"),
        ('[plan_worker]\nname = "london-1"\n', "[plan_worker] scripts is missing"),
        ('[webhooks]\nca_file = "ca.pem"\n', "[webhooks] ca_file is not an absolute path"),
    ],
)
def test_a_mistake_in_the_tables_is_a_sentence(table: str, expected: str) -> None:
    with pytest.raises(DeltaferryError) as caught:
        parse_settings((LEAST + table).encode(), "deltaferry.toml")
    assert caught.value.kind is ErrorKind.BAD_CONFIGURATION
    assert expected in caught.value.detail
