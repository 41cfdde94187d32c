"""What a command prints: tables and sentences for people, or one JSON object for programs."""

import json
import sys
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter
from rich.console import Console, RenderableType
from rich.text import Text

from console.outcomes import CommandError

_UNATTENDED_COLUMNS = 200
"""Width of tables that no terminal shows: wide enough not to wrap a workflow id."""

_ANYTHING: TypeAdapter[Any] = TypeAdapter(Any)


class Output:
    """One command's way to print: its result goes to standard output once, everything else to standard error.

    With `as_json` the last line of standard output is the result as one JSON object, and people read nothing there.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.console = _console(sys.stdout)
        self._notes = _console(sys.stderr)

    def result(self, shown: RenderableType, data: object) -> None:
        """Print a command's result: `shown` for people, or `data`, which must be a JSON object, for programs."""
        if self.as_json:
            self._object(data)
        else:
            self.console.print(shown, markup=False, highlight=False)

    def note(self, sentence: str) -> None:
        """Tell a person what goes on, on standard error."""
        self._notes.print(Text(sentence), soft_wrap=True)

    def failure(self, error: CommandError) -> None:
        """Print why a command failed: a sentence with its remedy on standard error, and for programs an object."""
        self._notes.print(
            Text("Error: ", style="bold red"),
            Text(" ".join(filter(None, (error.sentence, error.remedy)))),
            sep="",
            soft_wrap=True,
        )
        if self.as_json:
            kind = error.kind.value if error.kind is not None else None
            self._object(
                {"error": {"sentence": error.sentence, "remedy": error.remedy, "kind": kind, "exit_code": int(error.code)}}
            )

    def _object(self, data: object) -> None:
        sys.stdout.write(json.dumps(_ANYTHING.dump_python(data, mode="json"), ensure_ascii=False) + "\n")
        sys.stdout.flush()


def _console(stream: Any) -> Console:
    return Console(file=stream, width=None if stream.isatty() else _UNATTENDED_COLUMNS)


def local_time(at: datetime | None, missing: str = "–") -> str:  # noqa: RUF001 - the sign for nothing
    """Return a time in the local time zone, with its name."""
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z") if at is not None else missing
