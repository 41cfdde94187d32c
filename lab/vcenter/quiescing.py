"""Quiescing a guest for a snapshot: what is asked for, how a test lets the guest behave, and the record of what came of it.

VMware Tools runs the guest's freeze script, quiesces file systems (Windows: VSS with its writers), the snapshot is
taken, and the thaw script runs. Where the freeze failed, the scripts run once more with `freezeFail`. Without Tools
running the request is ignored, and the snapshot is a plain one (facts B2).
Sources: vSphere API, CreateSnapshotEx_Task, GuestQuiesceSpec, WindowsQuiesceSpec, ApplicationQuiesceFault ("the custom
pre-freeze script exited with a non-zero return code"), FilesystemQuiesceFault ("exceeded the time limit for holding off
I/O in the frozen virtual machine").
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from deltaferry.model.quiescing import FREEZE_MARK
from lab.vcenter.vocabulary import vim, vmodl

_DEFAULT_TIMEOUT_MIN = 15
_TIMEOUTS_MIN = range(5, 241)
_VSS_TYPES = range(7)
"""VSS_BACKUP_TYPE: undefined, full, incremental, differential, log, copy, other."""
_VSS_CONTEXTS = ("ctx_auto", "ctx_backup", "ctx_file_share_backup")
_LOOK_S = 0.02


class QuiesceOutcome(StrEnum):
    """How a guest answers."""

    OBTAINED = "obtained"
    APPLICATION_FAULT = "application fault"
    """A VSS writer or the application fails to freeze: ApplicationQuiesceFault."""
    FILESYSTEM_FAULT = "file system fault"
    """The guest thawed before the snapshot was taken: FilesystemQuiesceFault."""
    IGNORED = "ignored"
    """Only in records: Tools did not run, so the snapshot is a plain one."""


@dataclass(frozen=True, slots=True)
class QuiesceRequest:
    """What a caller asked for. Without a specification (CreateSnapshot_Task) the VSS fields are None."""

    timeout_min: int = _DEFAULT_TIMEOUT_MIN
    windows: bool = False
    vss_backup_type: int | None = None
    vss_bootable_system_state: bool | None = None
    vss_partial_file_support: bool | None = None
    vss_backup_context: str | None = None


@dataclass(frozen=True, slots=True)
class ScriptRun:
    """A run of the guest's script: with `freeze`, `thaw` or `freezeFail`, and how it exited."""

    argument: str
    exit_code: int


@dataclass(slots=True)
class QuiesceRecord:
    """One quiesced snapshot that was asked for."""

    snapshot_name: str
    request: QuiesceRequest
    outcome: QuiesceOutcome = QuiesceOutcome.OBTAINED
    snapshot: str = ""
    """The moref, once the snapshot is there; empty if there is none."""
    scripts: list[ScriptRun] = field(default_factory=list)


@dataclass(slots=True)
class QuiesceBehaviour:
    """How a VM's guest behaves; a test changes it while it quiesces, too."""

    outcome: QuiesceOutcome = QuiesceOutcome.OBTAINED
    seconds: float = 0.0
    """How long quiescing takes."""
    held: bool = False
    """While true, quiescing does not end: the snapshot comes late, and its task with it."""
    freeze_exit: int | None = None
    """How the guest's script exits before the freeze; None: it has no scripts. Not 0: ApplicationQuiesceFault."""
    thaw_exit: int = 0
    marks: bool = False
    """Its script, where it has one, tells through VMware Tools that it ran: it sets FREEZE_MARK to something new."""


class GuestQuiesce:
    """The quiescing of one VM's guest."""

    def __init__(self, set_variable: Callable[[str, str], None]) -> None:
        """`set_variable` sets one of the guest's own (`vmtoolsd --cmd "info-set …"`), which callers see in extraConfig."""
        self.behaviour = QuiesceBehaviour()
        self.records: list[QuiesceRecord] = []
        self._set_variable = set_variable

    @contextmanager
    def frozen(
        self,
        name: str,
        request: QuiesceRequest,
        *,
        tools_run: bool,
        fails: bool,
        minute_s: float,
        pause: Callable[[float], None],
    ) -> Iterator[QuiesceRecord]:
        """Quiesce the guest while the context lasts, or not (the record's outcome says), for a snapshot of this name.

        A minute of the request's limit takes `minute_s`; with `fails` the application fails to freeze. Raises ApplicationQuiesceFault, FilesystemQuiesceFault.
        """
        record = QuiesceRecord(name, request)
        self.records.append(record)
        if not tools_run:
            record.outcome = QuiesceOutcome.IGNORED
            yield record
            return
        try:
            self._freeze(record, fails, minute_s, pause)
        except vim.fault.SnapshotFault:
            self._run_script(record, "freezeFail")
            raise
        try:
            yield record
        finally:
            self._run_script(record, "thaw")

    def _freeze(self, record: QuiesceRecord, fails: bool, minute_s: float, pause: Callable[[float], None]) -> None:
        behaviour = self.behaviour
        if behaviour.freeze_exit is not None:
            record.scripts.append(ScriptRun("freeze", behaviour.freeze_exit))
            if behaviour.freeze_exit:
                record.outcome = QuiesceOutcome.APPLICATION_FAULT
                raise _application_fault()
            if behaviour.marks:
                self._set_variable(FREEZE_MARK, f"freeze {len(self.records)}")
        limit_s = record.request.timeout_min * minute_s
        pause(min(behaviour.seconds, limit_s))
        waited_s = behaviour.seconds
        while behaviour.held and waited_s < limit_s:
            pause(_LOOK_S)
            waited_s += _LOOK_S
        if fails or behaviour.outcome is QuiesceOutcome.APPLICATION_FAULT:
            record.outcome = QuiesceOutcome.APPLICATION_FAULT
            raise _application_fault()
        if behaviour.outcome is QuiesceOutcome.FILESYSTEM_FAULT or waited_s >= limit_s:
            record.outcome = QuiesceOutcome.FILESYSTEM_FAULT
            raise vim.fault.FilesystemQuiesceFault(
                msg="An error occurred while quiescing the virtual machine: the time limit for holding off I/O was exceeded."
            )

    def _run_script(self, record: QuiesceRecord, argument: str) -> None:
        if self.behaviour.freeze_exit is not None:
            record.scripts.append(ScriptRun(argument, self.behaviour.thaw_exit))


def asked_for(quiesce: bool, spec: Any) -> QuiesceRequest | None:
    """Return what a call of CreateSnapshot_Task or CreateSnapshotEx_Task asks for. Raises InvalidArgument."""
    if spec is None:
        return QuiesceRequest() if quiesce else None
    timeout = _DEFAULT_TIMEOUT_MIN if spec.timeout is None else spec.timeout
    _demand(timeout in _TIMEOUTS_MIN, "timeout")
    if not isinstance(spec, vim.vm.WindowsQuiesceSpec):
        return QuiesceRequest(timeout)
    _demand(spec.vssBackupType is None or spec.vssBackupType in _VSS_TYPES, "vssBackupType")
    _demand(spec.vssBackupContext in (None, *_VSS_CONTEXTS), "vssBackupContext")
    return QuiesceRequest(
        timeout,
        True,
        spec.vssBackupType,
        spec.vssBootableSystemState,
        spec.vssPartialFileSupport,
        spec.vssBackupContext,
    )


def _application_fault() -> Any:
    return vim.fault.ApplicationQuiesceFault(msg="An error occurred while quiescing the virtual machine.")


def _demand(condition: bool, name: str) -> None:
    if not condition:
        raise vmodl.fault.InvalidArgument(
            invalidProperty=f"quiesceSpec.{name}", msg=f"A specified parameter was not correct: quiesceSpec.{name}"
        )
