"""`deltaferry`: the command line. Each group of commands is a module of its own; here they become one program."""

import typer

from console import (
    ending_commands,
    lab_commands,
    reading_commands,
    replay_command,
    starting_commands,
    verb_commands,
    worker_command,
)
from console.outcomes import EXIT_CODES_HELP

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
for module in (starting_commands, reading_commands, verb_commands, ending_commands, replay_command, worker_command, lab_commands):
    app.add_typer(module.app)


def main() -> None:
    """Run the command line."""
    app(prog_name="deltaferry")


if __name__ == "__main__":
    main()
