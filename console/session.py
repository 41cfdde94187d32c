"""What every command does around its work: settings, connection, and an end with a sentence and an exit code."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import typer
from temporalio.client import Client

from console.client import connect
from console.outcomes import EXPECTED, ExitCode, command_error
from console.output import Output
from deltaferry.model.errors import DeltaferryError
from workers.settings import Settings, load_settings
from workers.settings_file import find_file


class Session:
    """One run of a command."""

    def __init__(self, config: Path | None, *, as_json: bool) -> None:
        self._config = config
        self.output = Output(as_json=as_json)

    def settings(self) -> Settings | None:
        """Return the settings, or None where there is no settings file at all: Temporal's own configuration is enough then.

        Raises BAD_CONFIGURATION for a file that is named and cannot be used.
        """
        try:
            file = find_file(self._config, None)
        except DeltaferryError:
            return None
        return load_settings(file)

    def required_settings(self) -> Settings:
        """Return the settings. Raises BAD_CONFIGURATION where there are none."""
        return load_settings(self._config)

    def run(self, work: Callable[[Client], Awaitable[None]]) -> None:
        """Connect to Temporal and do a command's work."""

        async def connected() -> None:
            await work(await connect(self.settings()))

        self.carry_out(lambda: asyncio.run(connected()))

    def carry_out(self, work: Callable[[], None]) -> None:
        """Do a command's work; an expected error ends it with a sentence and an exit code, never with a traceback."""
        try:
            work()
        except EXPECTED as error:
            ended = command_error(error)
            self.output.failure(ended)
            raise typer.Exit(ended.code) from None
        except KeyboardInterrupt:
            self.output.note("Interrupted.")
            raise typer.Exit(ExitCode.INTERRUPTED) from None
