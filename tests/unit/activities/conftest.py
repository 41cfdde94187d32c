"""What tests of webhooks share: a receiver."""

from collections.abc import Iterator

import pytest

from tests.unit.activities.webhook_receiver import Receiver, receiving_webhooks


@pytest.fixture(scope="package")
def receiving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    with receiving_webhooks(tmp_path_factory.mktemp("certificates")) as receiver:
        yield receiver


@pytest.fixture
def receiver(receiving: Receiver) -> Receiver:
    """Return a receiver that was told nothing yet."""
    receiving.statuses.clear()
    receiving.received.clear()
    return receiving
