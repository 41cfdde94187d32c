"""How a command ends: the exit codes, and the one place that turns an expected error into a sentence and a code."""

from enum import IntEnum

from temporalio.client import (
    WorkflowFailureError,
    WorkflowQueryFailedError,
    WorkflowQueryRejectedError,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.exceptions import ApplicationError, CancelledError, TerminatedError, TimeoutError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from deltaferry.model.errors import CATALOGUE, DeltaferryError, ErrorKind


class ExitCode(IntEnum):
    """What a program learns from a command's exit status."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    NOT_FOUND = 4
    UNREACHABLE = 5
    INTERRUPTED = 130
    """128 + SIGINT, as shells have it."""


EXIT_CODES_HELP = (
    "Exit codes: 0 done · 1 failed · 2 wrong usage or configuration · 3 refused by the replication's state · "
    "4 not found · 5 Temporal not reachable · 130 interrupted."
)


class CommandError(Exception):
    """An expected failure of a command: what happened, what to do about it, and the exit code that says so."""

    def __init__(self, code: ExitCode, sentence: str, remedy: str = "", kind: ErrorKind | None = None) -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence
        self.remedy = remedy
        self.kind = kind


EXPECTED = (
    CommandError,
    DeltaferryError,
    RPCError,
    WorkflowAlreadyStartedError,
    WorkflowFailureError,
    WorkflowQueryFailedError,
    WorkflowQueryRejectedError,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
"""Errors that end a command with a sentence; anything else is a defect, and shows its traceback."""

_CODES = {
    ErrorKind.BAD_INPUT: ExitCode.USAGE,
    ErrorKind.BAD_CONFIGURATION: ExitCode.USAGE,
    ErrorKind.VM_AMBIGUOUS: ExitCode.USAGE,
    ErrorKind.VM_NOT_FOUND: ExitCode.NOT_FOUND,
    ErrorKind.STORE_OBJECT_MISSING: ExitCode.NOT_FOUND,
    ErrorKind.OPERATION_REFUSED: ExitCode.REFUSED,
    ErrorKind.ALREADY_PROTECTED: ExitCode.REFUSED,
}

_SAYS_WHAT_TO_DO = frozenset(
    {ErrorKind.OPERATION_REFUSED, ErrorKind.BAD_CONFIGURATION, ErrorKind.BAD_INPUT, ErrorKind.PREREQUISITES_FAILED}
)
"""Kinds whose own sentence names the remedy; the catalogue's would only repeat it in other words."""

_ASK_FOR_WORKER = "Look whether a control worker runs, and start one with `deltaferry worker control`."


def of_kind(kind: ErrorKind, detail: str) -> CommandError:
    """Return the end of a command that met an error of the taxonomy."""
    remedy = "" if kind in _SAYS_WHAT_TO_DO else CATALOGUE[kind].remedy
    return CommandError(_CODES.get(kind, ExitCode.FAILED), detail, remedy, kind)


def command_error(error: BaseException) -> CommandError:
    """Return what a person reads of an expected error; by types and codes alone. Raises the error itself if it is none."""
    match error:
        case CommandError():
            return error
        case DeltaferryError():
            return of_kind(error.kind, error.detail)
        case WorkflowFailureError() | WorkflowUpdateFailedError():
            return _of_cause(error.cause)
        case WorkflowUpdateRPCTimeoutOrCancelledError():
            sentence = "No worker has answered in time: the request may still be carried out later."
            return CommandError(ExitCode.FAILED, sentence, _ASK_FOR_WORKER)
        case WorkflowQueryFailedError():
            return CommandError(
                ExitCode.FAILED, f"The workflow cannot answer: {error}.", "Ask a replication, not another workflow."
            )
        case WorkflowQueryRejectedError():
            return CommandError(
                ExitCode.FAILED, "The workflow has ended and does not answer.", "`deltaferry list` shows what runs."
            )
        case WorkflowAlreadyStartedError():
            return CommandError(ExitCode.REFUSED, f"The workflow {error.workflow_id} runs already.", "Wait for its end.")
        case RPCError():
            return _of_status(error.status, error.message)
        case _:
            raise error


def _of_cause(cause: BaseException | None) -> CommandError:
    match cause:
        case ApplicationError():
            try:
                return of_kind(ErrorKind(cause.type or ""), cause.message)
            except ValueError:
                return of_kind(ErrorKind.INTERNAL, f"{cause.type}: {cause.message}")
        case CancelledError():
            return CommandError(ExitCode.FAILED, "The workflow was cancelled.", "Start it again if that was a mistake.")
        case TerminatedError():
            return CommandError(ExitCode.FAILED, "The workflow was terminated.", "`deltaferry adopt` starts a replication again.")
        case TimeoutError():
            return CommandError(ExitCode.FAILED, "The workflow did not end within its time.", _ASK_FOR_WORKER)
        case _:
            return CommandError(ExitCode.FAILED, f"The workflow failed: {cause}.", "Read its history in the Temporal UI.")


def _of_status(status: RPCStatusCode, message: str) -> CommandError:
    match status:
        case RPCStatusCode.NOT_FOUND:
            return CommandError(
                ExitCode.NOT_FOUND, f"Temporal does not find it: {message}.", "`deltaferry list` shows what runs."
            )
        case RPCStatusCode.UNAVAILABLE:
            return CommandError(
                ExitCode.UNREACHABLE,
                "Temporal does not answer any more.",
                "Look after the Temporal server, then repeat the command.",
            )
        case RPCStatusCode.DEADLINE_EXCEEDED | RPCStatusCode.CANCELLED | RPCStatusCode.FAILED_PRECONDITION:
            return CommandError(ExitCode.FAILED, "No worker answered for the workflow in time.", _ASK_FOR_WORKER)
        case RPCStatusCode.PERMISSION_DENIED | RPCStatusCode.UNAUTHENTICATED:
            return CommandError(
                ExitCode.USAGE,
                "Temporal refused the credentials.",
                "Correct the TLS files or API key in the Temporal CLI's configuration.",
            )
        case RPCStatusCode.INVALID_ARGUMENT:
            return CommandError(
                ExitCode.USAGE,
                f"Temporal cannot use the request: {message}.",
                "If a search attribute is unknown, register the ones in the operator's guide with `temporal operator search-attribute create`.",
            )
        case _:
            return CommandError(ExitCode.FAILED, f"Temporal answered {status.name}: {message}.", "Try again later.")
