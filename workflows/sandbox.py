"""The sandbox that every run of a workflow gets, without what would be the same in all of them.

A run executes the file of its workflow anew, in a namespace of its own: that is what the sandbox is. What it needs not have
of its own is shared (docs/decisions/0025-what-a-run-costs.md):

- everything below the files of the workflows, which is pure, is loaded once for the process;
- the code of those files is read and compiled once, and every run executes the same code objects, which nobody can change;
- the SDK asks inside the sandbox, six times for each payload, in which context it is converted. Our converter knows none.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType

from temporalio.bridge.proto.workflow_activation import WorkflowActivation
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion
from temporalio.converter import SerializationContext, StorageDriverStoreContext
from temporalio.worker import WorkflowInstance, WorkflowInstanceDetails, WorkflowRunner
from temporalio.worker._command_aware_visitor import CommandInfo
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions
from temporalio.workflow import Info

_ROOM = "workflows"

_SHARED = (
    "deltaferry",
    "activities",
    "pyroaring",
    "blake3",
    "zstandard",
    "cryptography",
    "_cffi_backend",
    "_blake3",
    "pydantic",
)
"""First-party packages, and what they are made of."""

_SHARED_OF_ROOM = (
    "copying",
    "delta_cycle",
    "entity",
    "from_point",
    "groups",
    "held_room",
    "messages",
    "meters",
    "names",
    "plans",
    "policies",
    "refusals",
    "reporting",
    "reverse",
    "slots",
    "steps",
)
"""What the files of the workflows are made of: all that beside them defines no workflow."""


@dataclass(frozen=True)
class SharingRunner(SandboxedWorkflowRunner):
    """The SDK's runner, sandbox and all."""

    def create_instance(self, det: WorkflowInstanceDetails) -> WorkflowInstance:
        """Return a run in a sandbox of its own."""
        return _WithoutContext(super().create_instance(det))


class _WithoutContext(WorkflowInstance):
    """A run whose payloads are converted alike wherever they go: the plugin's converter has no codec and no external storage."""

    def __init__(self, run: WorkflowInstance) -> None:
        self._run = run

    def activate(self, act: WorkflowActivation) -> WorkflowActivationCompletion:
        return self._run.activate(act)

    def get_serialization_context(self, command_info: CommandInfo | None) -> SerializationContext | None:
        """Return that there is none."""
        return None

    def get_external_store_context(self, command_info: CommandInfo | None) -> StorageDriverStoreContext:
        """Return that there is none."""
        return StorageDriverStoreContext(target=None)

    def get_info(self) -> Info:
        return self._run.get_info()

    def get_thread_id(self) -> int | None:
        return self._run.get_thread_id()


class _Loader(SourceFileLoader):
    """Loads a module as ever, from code that is read once."""

    def get_code(self, fullname: str) -> CodeType | None:
        return _code(fullname, self.path)


@cache
def _code(fullname: str, path: str) -> CodeType | None:
    return SourceFileLoader(fullname, path).get_code(fullname)


class _Finder(MetaPathFinder):
    """Finds the modules of our room; for all others the next finder is asked."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname.partition(".")[0] != _ROOM:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _Loader(fullname, spec.loader.path)
        return spec


_FINDER = _Finder()


def sharing(runner: WorkflowRunner | None) -> SharingRunner:
    """Return a runner that keeps the sandbox on, with the restrictions of the given one."""
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)
    given = runner.restrictions if isinstance(runner, SandboxedWorkflowRunner) else SandboxRestrictions.default
    of_room = (f"{_ROOM}.{name}" for name in _SHARED_OF_ROOM)
    return SharingRunner(restrictions=given.with_passthrough_modules(*_SHARED, *of_room))
