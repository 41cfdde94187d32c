import asyncio
import io
import json
import logging
from collections.abc import Iterator
from datetime import timedelta

import pytest
from temporalio import activity, workflow
from temporalio.testing import ActivityEnvironment

from workers.logs import MAX_LINE_CHARACTERS, configure_logs, redact

SECRETS = [
    "https://acc.blob.core.windows.net/c/b?sv=2024&sig=ABCdef%2Bxyz%3D&se=2026",
    "Authorization: Bearer ABCdef.ghi-jkl_mno",
    "SharedKey acc:ABCdef+xyz=",
    "DefaultEndpointsProtocol=https;AccountName=acc;AccountKey=ABCdef+xyz==;EndpointSuffix=core",
    "token eyJABCdef0123456789.eyJABCdef0123.ABCdef",
    "vmware_soap_session=ABCdef0123",
    "password=ABCdef",
]


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_json_line_has_time_level_logger_message_and_extras(stream: io.StringIO) -> None:
    configure_logs("info", "json", stream)
    logging.getLogger("deltaferry.test").info("cycle %s committed", "7-abc", extra={"bytes_sent": 5, "disks": [2000, 2001]})
    (line,) = lines(stream)
    assert line["event"] == "cycle 7-abc committed"
    assert (line["level"], line["logger"], line["bytes_sent"], line["disks"]) == ("info", "deltaferry.test", 5, [2000, 2001])
    assert str(line["timestamp"]).endswith("Z")


def test_a_line_below_the_level_is_not_written(stream: io.StringIO) -> None:
    configure_logs("warning", "json", stream)
    logging.getLogger("deltaferry.test").info("quiet")
    assert stream.getvalue() == ""


def test_configuring_twice_writes_each_line_once(stream: io.StringIO) -> None:
    configure_logs("info", "json", stream)
    configure_logs("info", "json", stream)
    logging.getLogger("deltaferry.test").info("once")
    assert len(lines(stream)) == 1


@pytest.mark.parametrize("text", SECRETS)
@pytest.mark.parametrize("form", ["json", "text"])
def test_what_looks_like_a_secret_is_redacted_in_message_extra_and_traceback(stream: io.StringIO, text: str, form: str) -> None:
    configure_logs("info", form, stream)
    try:
        raise RuntimeError(text)
    except RuntimeError:
        logging.getLogger("deltaferry.test").exception("failed: %s", text, extra={"where": {"inner": text}})
    written = stream.getvalue()
    assert "ABCdef" not in written
    assert written.count("[redacted]") >= 3
    if form == "json":
        (line,) = lines(stream)
        assert "RuntimeError" in str(line["exception"])


def test_a_field_with_a_secrets_name_is_redacted_whatever_it_holds(stream: io.StringIO) -> None:
    configure_logs("info", "json", stream)
    logging.getLogger("deltaferry.test").info(
        "x", extra={"account_key": "hunter2", "nested": {"Authorization": "hunter2"}, "disk_key": 2000}
    )
    (line,) = lines(stream)
    assert "hunter2" not in stream.getvalue()
    assert line["disk_key"] == 2000


def test_a_text_without_secrets_is_left_alone() -> None:
    text = "cycle 7-1f2e for vm/lab/42: signed off by basic authentication checks, signature valid; 5 bytes"
    assert redact(text) == text


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_line_never_exceeds_its_limit_and_stays_json(stream: io.StringIO, form: str) -> None:
    configure_logs("info", form, stream)
    logging.getLogger("deltaferry.test").info("\x01" * 20_000, extra={f"field_{number}": "x" * 5_000 for number in range(10)})
    written = stream.getvalue()
    assert len(written) <= MAX_LINE_CHARACTERS + 100
    if form == "json":
        (line,) = lines(stream)
        assert line["level"] == "info" and int(str(line["cut_from_characters"])) > MAX_LINE_CHARACTERS


def test_values_that_json_does_not_know_are_written_as_text(stream: io.StringIO) -> None:
    configure_logs("info", "json", stream)
    logging.getLogger("deltaferry.test").info(
        "x", extra={"wait": timedelta(hours=2), "raw": b"\xff", "odd": {1: {2}}, "rate": float("nan")}
    )
    (line,) = lines(stream)
    assert line["wait"] == "2:00:00"
    assert line["odd"] == {"1": [2]}
    assert line["rate"] == "nan"


def test_a_text_line_is_for_people(stream: io.StringIO) -> None:
    configure_logs("info", "text", stream)
    logging.getLogger("deltaferry.test").warning("datastore low", extra={"free_bytes": 5})
    assert "WARNING deltaferry.test: datastore low free_bytes=5\n" in stream.getvalue()


def test_an_activitys_lines_carry_its_ids_as_fields(stream: io.StringIO) -> None:
    configure_logs("info", "json", stream)

    async def copy() -> None:
        activity.logger.info("copying")

    asyncio.run(ActivityEnvironment().run(copy))
    (line,) = lines(stream)
    assert line["event"] == "copying"
    context = line["temporal_activity"]
    assert isinstance(context, dict) and context["activity_type"] == "unknown"


def test_workflow_lines_do_not_repeat_their_ids_in_the_message(stream: io.StringIO) -> None:
    configure_logs("info", "json", stream)
    assert workflow.logger.workflow_info_on_message is False


@pytest.mark.parametrize(("level", "form"), [("loud", "json"), ("info", "xml")])
def test_an_unknown_level_or_format_is_refused(level: str, form: str) -> None:
    with pytest.raises(ValueError, match="unknown log"):
        configure_logs(level, form)
