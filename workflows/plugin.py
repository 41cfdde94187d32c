"""The one Temporal plugin: converter and sandbox, the same for client, workers and Replayer.

So that a replay is what production ran.
"""

import logging
from typing import Any

import temporalio.api.common.v1
from pydantic import ValidationError
from temporalio.contrib.pydantic import PydanticJSONPlainPayloadConverter
from temporalio.converter import CompositePayloadConverter, DataConverter, DefaultPayloadConverter, JSONPlainPayloadConverter
from temporalio.exceptions import ApplicationError
from temporalio.plugin import SimplePlugin

from deltaferry.model.errors import ErrorKind
from workflows.details_page import DetailsOnDemand
from workflows.messages.job import InitialInput, MigrateInput
from workflows.messages.policy_state import PolicyBookState
from workflows.messages.replication_state import EndInput, ReplicateVmInput
from workflows.messages.slot import SlotsState
from workflows.refusals import EXAMPLES, bad_input_sentence
from workflows.sandbox import sharing

_LOG = logging.getLogger(__name__)

_CARRIED = (ReplicateVmInput, EndInput, InitialInput, MigrateInput, PolicyBookState, SlotsState)
"""Inputs that only workflows write."""


class OperatorInputConverter(PydanticJSONPlainPayloadConverter):
    """Refuses input that people write with a sentence, where the SDK's own error would leave a workflow hanging.

    A carried state that cannot be read becomes None: `steps.require_carried` tells a start by hand from a run of ours.
    """

    def from_payload(self, payload: temporalio.api.common.v1.Payload, type_hint: type | None = None) -> Any:
        """Decode a JSON payload. Raises ApplicationError BAD_INPUT for operator input that cannot be read."""
        try:
            return super().from_payload(payload, type_hint)
        except ValidationError as error:
            kind = _operator_type(type_hint)
            if kind is not None:
                sentence = bad_input_sentence(kind.__name__, kind, error)
                raise ApplicationError(sentence, type=ErrorKind.BAD_INPUT.value, non_retryable=True) from None
            if _is_carried(type_hint):
                _LOG.warning("a carried input cannot be read: %d errors", error.error_count())
                return None
            raise


_JSON = OperatorInputConverter()
"""One for the process, since it keeps the validators that it has built; the SDK makes a payload converter for every run."""


class DeltaferryPayloadConverter(CompositePayloadConverter):
    """Pydantic's converter, with `OperatorInputConverter` for JSON."""

    def __init__(self) -> None:
        super().__init__(
            *(
                converter if not isinstance(converter, JSONPlainPayloadConverter) else _JSON
                for converter in DefaultPayloadConverter.default_encoding_payload_converters
            )
        )


def _operator_type(hint: Any) -> type[Any] | None:
    candidates = [hint, *getattr(hint, "__args__", ())]
    return next((c for c in candidates if isinstance(c, type) and c.__name__ in EXAMPLES), None)


def _is_carried(hint: Any) -> bool:
    return any(candidate in _CARRIED for candidate in (hint, *getattr(hint, "__args__", ())))


def plugin() -> SimplePlugin:
    """Return the plugin; a new one for each client, since a plugin may hold state."""
    return SimplePlugin(
        "deltaferry",
        data_converter=DataConverter(payload_converter_class=DeltaferryPayloadConverter),
        workflow_runner=sharing,
        interceptors=[DetailsOnDemand()],
    )
