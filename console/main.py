"""`deltaferry`: the command line. Each group of commands is a module of its own; here they become one program."""

import contextlib
import os
import sys

import typer

from console import (
    audit_commands,
    discover_commands,
    ending_commands,
    group_commands,
    lab_commands,
    plan_commands,
    policy_commands,
    reading_commands,
    recovery_commands,
    repair_commands,
    replay_command,
    simulate_commands,
    site_commands,
    starting_commands,
    verb_commands,
    worker_command,
)
from console.outcomes import EXIT_CODES_HELP, ExitCode

app = typer.Typer(
    name="deltaferry",
    help="Replicate VMware virtual machines to Azure and migrate them. "
    "Temporal is found through the settings file, or without one as the Temporal CLI finds it.",
    epilog=f"{EXIT_CODES_HELP} Example: deltaferry status web-01 --site lon1",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (
    starting_commands,
    discover_commands,
    reading_commands,
    verb_commands,
    repair_commands,
    recovery_commands,
    ending_commands,
    site_commands,
    audit_commands,
    plan_commands,
    group_commands,
    policy_commands,
    replay_command,
    simulate_commands,
    worker_command,
    lab_commands,
):
    app.add_typer(module.app)


def main() -> None:
    """Run the command line, and end the process with its exit code.

    It ends without Python's own tear-down: threads of the Temporal SDK that call back into Python during it abort the
    process (status 134) after the command has done its work. What a command opened, it has closed by then.
    """
    code: str | int | None = ExitCode.DONE
    try:
        app(prog_name="deltaferry")
    except SystemExit as ended:
        code = ended.code
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # whoever read it has gone
            stream.flush()
    os._exit(code if isinstance(code, int) else ExitCode.FAILED if code else ExitCode.DONE)


if __name__ == "__main__":
    main()
