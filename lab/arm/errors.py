"""Errors as Azure Resource Manager reports them: an HTTP status and `{"error": {"code", "message"}}`.

Codes and sentences follow what the services answer, as seen in public issue threads and the REST documentation.
"""

from typing import Any

Json = dict[str, Any]
"""A JSON object of the wire: ARM documents are open-ended, so the lab keeps what it does not interpret."""


class ArmError(Exception):
    """A refusal, sent as the reply to a request or as the outcome of a long-running operation."""

    def __init__(
        self, status: int, code: str, message: str, *, target: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.target = target
        self.headers = headers or {}

    def document(self) -> Json:
        """Return the inner error object, as in an operation's status."""
        error: Json = {"code": self.code, "message": self.message}
        if self.target is not None:
            error["target"] = self.target
        return error

    def body(self) -> Json:
        """Return the body of an error reply."""
        return {"error": self.document()}


def bad_parameter(message: str, target: str) -> ArmError:
    """Return Compute's refusal of a value."""
    return ArmError(400, "InvalidParameter", message, target=target)


def required(parameter: str) -> ArmError:
    """Return Compute's refusal of a missing value."""
    return bad_parameter(f"Required parameter '{parameter}' is missing (null).", parameter)


def not_allowed(message: str) -> ArmError:
    """Return Compute's refusal of an operation in the resource's present state."""
    return ArmError(409, "OperationNotAllowed", message)


def change_not_allowed(name: str) -> ArmError:
    """Return the refusal of a PUT that changes what is fixed at creation."""
    return ArmError(409, "PropertyChangeNotAllowed", f"Changing property '{name}' is not allowed.", target=name)
