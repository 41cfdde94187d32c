"""The operators' webhook is told of RPO events, on a real HTTPS server."""

from datetime import UTC, datetime, timedelta

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.notices import Notices
from deltaferry.model.errors import ErrorKind
from deltaferry.model.replication import ReplicationRef
from deltaferry.planning.rpo import RpoChange
from tests.unit.activities.webhook_receiver import Receiver
from workflows.messages.notice import RpoNotice

_AT = datetime(2026, 11, 22, 12, tzinfo=UTC)
_NOTICE = RpoNotice(
    workflow_id="vm/lon1/4211",
    ref=ReplicationRef("prod", "lon1", "weu", "4211", "0" * 16),
    vm_name="web-01",
    change=RpoChange.CROSSED,
    at=_AT,
    rpo=timedelta(hours=4, seconds=1),
    threshold=timedelta(hours=4),
    sentence="The latest recovery point is 4 h old; the policy allows 4 h.",
)


def tell(receiver: Receiver) -> bool:
    notices = Notices(lambda: f"{receiver.url}/events?token=abc", receiver.ca_file)
    return ActivityEnvironment().run(notices.announce_rpo, _NOTICE)


def test_the_webhook_is_told_the_event_with_one_key_for_all_tries(receiver: Receiver) -> None:
    receiver.statuses.append(503)
    with pytest.raises(ApplicationError) as caught:
        tell(receiver)
    assert (caught.value.type, caught.value.non_retryable) == (ErrorKind.INTERRUPTED, False)
    assert "abc" not in caught.value.message
    assert tell(receiver)
    (_, first, _), (path, headers, body) = receiver.received
    assert path == "/events?token=abc"
    assert first["Idempotency-Key"] == headers["Idempotency-Key"] == f"{'0' * 16}/{_AT.isoformat()}"
    assert body == {
        "event": "RPO threshold crossed",
        "installation": "prod",
        "site": "lon1",
        "vm": "web-01",
        "workflow_id": "vm/lon1/4211",
        "replication_id": "0" * 16,
        "at": _AT.isoformat(),
        "rpo_s": 14401.0,
        "threshold_s": 14400.0,
        "sentence": _NOTICE.sentence,
    }


def test_a_receiver_that_refuses_is_a_wrong_setting(receiver: Receiver) -> None:
    receiver.statuses.append(404)
    with pytest.raises(ApplicationError) as caught:
        tell(receiver)
    assert caught.value.type == ErrorKind.BAD_CONFIGURATION
    assert "[webhooks]" in caught.value.message and "abc" not in caught.value.message


def test_without_a_webhook_nobody_is_told() -> None:
    assert not ActivityEnvironment().run(Notices(None).announce_rpo, _NOTICE)
