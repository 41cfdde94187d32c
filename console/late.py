"""Modules that only some commands need, imported when such a command runs."""

from importlib import import_module
from typing import Any

from console.outcomes import CommandError, ExitCode


def late(module: str) -> Any:
    """Return a module, imported now.

    Here and nowhere else: the workers' wiring brings the Azure SDK and pyVmomi, which take seconds to load, and the lab
    needs packages that an operator's installation does not have. `deltaferry status` must do without either.
    Raises CommandError where the lab's packages are missing.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise CommandError(
            ExitCode.USAGE,
            f"The package {error.name} is not installed.",
            "Install the lab's packages with `pip install 'deltaferry[lab]'`.",
        ) from None
