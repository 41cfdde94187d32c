"""Options that several commands share, and how the values that people write are read."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import TypeAdapter, ValidationError

from console.outcomes import CommandError, ExitCode
from deltaferry.model.errors import ErrorKind
from workers.settings_types import parse_duration
from workflows.messages.operator_input import TargetProperties
from workflows.refusals import bad_input_sentence

T = TypeVar("T")


def _duration(text: str) -> timedelta:
    duration = parse_duration(text)
    if duration is None:
        raise typer.BadParameter(f"{text!r} is not a duration: write for example 10m, 1h30m or PT10M.")
    return duration


def read_duration(value: object) -> timedelta:
    """Return a duration that people wrote. Raises CommandError USAGE."""
    duration = parse_duration(str(value))
    if duration is None:
        raise CommandError(
            ExitCode.USAGE, f"{value!r} is not a duration: write for example 10m, 1h30m or PT10M.", kind=ErrorKind.BAD_INPUT
        )
    return duration


VmArgument = Annotated[
    str, typer.Argument(metavar="VM", help="The VM's name or instance UUID, or the replication's workflow id.")
]
SiteOption = Annotated[
    str | None, typer.Option("--site", metavar="SITE", help="The VM's site; needed where several sites have such a VM.")
]
SiteFilter = Annotated[str | None, typer.Option("--site", metavar="SITE", help="Only this site's replications.")]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="The settings file; otherwise DELTAFERRY_CONFIG, ./deltaferry.toml, ~/.config/deltaferry/deltaferry.toml.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of standard output.")]
ReasonOption = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; kept in the history.")]
WaitOption = Annotated[bool, typer.Option("--wait", help="Show the progress until it is done, and fail if it fails.")]
RunOption = Annotated[str | None, typer.Option("--run", metavar="RUN_ID", help="Only this run of the workflow.")]
PropertiesOption = Annotated[
    str | None,
    typer.Option(
        "--properties",
        metavar="JSON",
        help='Target properties as a JSON object, e.g. {"size": "Standard_D4s_v5"}, or @FILE with one.',
    ),
]
ShutdownTimeout = Annotated[
    timedelta | None,
    typer.Option(
        parser=_duration, metavar="DURATION", help="How long the guest may take to shut down, e.g. 15m; 10m if not given."
    ),
]
MaxDowntime = Annotated[
    timedelta | None,
    typer.Option(
        parser=_duration,
        metavar="DURATION",
        help="Repeat on-demand deltas until the predicted downtime fits; give up before the shut-down.",
    ),
]
ExpectedImport = Annotated[
    timedelta | None,
    typer.Option(
        parser=_duration, metavar="DURATION", help="What --max-downtime reckons for importing the disks; 1m if not given."
    ),
]

TargetVmName = Annotated[str | None, typer.Option("--target-vm-name", metavar="NAME", help="Name of the VM in Azure.")]
TargetSize = Annotated[str | None, typer.Option("--target-size", metavar="SIZE", help="Its size, e.g. Standard_D4s_v5.")]
TargetResourceGroup = Annotated[str | None, typer.Option("--target-resource-group", metavar="NAME", help="Its resource group.")]
TargetNetwork = Annotated[
    str | None, typer.Option("--target-network", metavar="NAME", help="Its virtual network: name or resource id.")
]
TargetSubnet = Annotated[str | None, typer.Option("--target-subnet", metavar="NAME", help="Its subnet.")]
TargetZone = Annotated[str | None, typer.Option("--target-zone", metavar="ZONE", help="Its availability zone.")]
TargetDiskSku = Annotated[
    str | None, typer.Option("--target-disk-sku", metavar="SKU", help="Type of its disks, e.g. Premium_LRS.")
]
TargetLicenseType = Annotated[
    str | None, typer.Option("--target-license-type", metavar="TYPE", help="Licence that is brought along, e.g. Windows_Server.")
]
TargetOsType = Annotated[
    str | None, typer.Option("--target-os-type", metavar="OS", help="Linux or Windows, where the source does not say.")
]
TargetTags = Annotated[
    list[str] | None, typer.Option("--target-tag", metavar="KEY=VALUE", help="A tag; may be given several times.")
]


def target_properties(properties: str | None, tags: list[str] | None, **named: str | None) -> TargetProperties:
    """Return target properties from a JSON object and from single options, which win. Raises CommandError USAGE."""
    given: dict[str, Any] = {}
    if properties is not None:
        loaded = _json_object(properties)
        given.update(loaded)
    given.update({name: value for name, value in named.items() if value is not None})
    if tags:
        given["tags"] = {**given.get("tags", {}), **dict(_tag(tag) for tag in tags)}
    return validated(TargetProperties, given, "target properties")


def validated(kind: type[T], given: object, what: str) -> T:
    """Return input that people wrote as its wire type. Raises CommandError USAGE with what is wrong and an example."""
    try:
        return TypeAdapter(kind).validate_python(given)
    except ValidationError as error:
        sentence = bad_input_sentence(what, kind, error)
        raise CommandError(ExitCode.USAGE, sentence, kind=ErrorKind.BAD_INPUT) from None


def _json_object(text: str) -> dict[str, Any]:
    try:
        loaded = json.loads(Path(text[1:]).read_bytes() if text.startswith("@") else text)
    except OSError as error:
        raise _bad_properties(f"the file {text[1:]} cannot be read ({error.strerror})") from None
    except ValueError:
        raise _bad_properties("it is not JSON") from None
    if not isinstance(loaded, dict):
        raise _bad_properties("it is not a JSON object")
    return loaded


def _bad_properties(problem: str) -> CommandError:
    return CommandError(
        ExitCode.USAGE,
        f"--properties cannot be used: {problem}.",
        'Write for example --properties \'{"subnet": "web"}\'.',
        ErrorKind.BAD_INPUT,
    )


def _tag(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise CommandError(ExitCode.USAGE, f"The tag {text!r} is not of the form KEY=VALUE.", kind=ErrorKind.BAD_INPUT)
    return key, value
