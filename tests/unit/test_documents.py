"""What the documents show is true: commands and options exist, examples are accepted, links lead somewhere, tables are complete."""

import itertools
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
from pydantic import TypeAdapter

from console.main import app
from deltaferry.model.errors import CATALOGUE
from deltaferry.model.states import MigrationState, Operation, ReplicationState
from deltaferry.planning.dr_states import AnyOperation, DrOperation
from deltaferry.planning.transitions import Situation, allowed
from workflows import names
from workflows.messages import group_input, operator_input, plan_input, policy_input
from workflows.refusals import EXAMPLES

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
GUIDE = ROOT / "docs" / "operators-guide.md"

SHELLS = ("sh", "console")
WIRE_TYPES = {
    name: next(vars(module)[name] for module in (operator_input, plan_input, policy_input, group_input) if name in vars(module))
    for name in EXAMPLES
}
"""The types that people write, by the name that stands behind `json` at the head of an example."""

OF_VERB: dict[AnyOperation, str] = {
    Operation.PAUSE: "Reason",
    Operation.RESUME: "Reason",
    Operation.RETRY: "Reason",
    Operation.REPAIR: "RepairOptions",
    Operation.RESYNC: "RepairOptions",
    Operation.VERIFY: "VerifyOptions",
    Operation.ROLLBACK: "Reason",
    Operation.MIGRATE: "MigrateOptions",
    Operation.STOP: "EndOptions",
    Operation.COMPLETE: "EndOptions",
    Operation.UPDATE_TARGET: "TargetProperties",
    DrOperation.TEST_MIGRATE: "TestOptions",
    DrOperation.CLEAN_UP: "CleanUpOptions",
    DrOperation.FAILOVER: "FailoverOptions",
    DrOperation.CHANGE_POINT: "ChangePointOptions",
    DrOperation.UPDATE_POLICY: "PolicyOptions",
}
OF_WORKFLOW = {
    names.ENABLE_REPLICATION: "EnableInput",
    names.ADOPT_REPLICATIONS: "AdoptInput",
    names.SITE_AUDIT: "AuditInput",
    names.RECOVERY_PLAN: "PlanInput",
    names.REPLICATION_GROUP: "GroupInput",
}

BEFORE_THE_FIRST_COPY = (ReplicationState.INITIAL_QUEUED, ReplicationState.INITIAL_IN_PROGRESS, ReplicationState.INITIAL_FAILED)
AFTER_A_MIGRATION = (ReplicationState.COMPLETE_IN_PROGRESS, ReplicationState.COMPLETE_FAILED)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a document."""

    document: str
    line: int
    info: str
    text: str

    @property
    def language(self) -> str:
        return self.info.partition(" ")[0]

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def blocks() -> Iterator[Block]:
    for path in DOCUMENTS:
        opened: tuple[int, str] | None = None
        lines: list[str] = []
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            fence = re.fullmatch(r"\s*```(.*)", line)
            if fence is None:
                lines.append(line.strip())
            elif opened is None:
                opened, lines = (number, fence[1].strip()), []
            else:
                yield Block(str(path.relative_to(ROOT)), *opened, "\n".join(lines))
                opened = None
        assert opened is None, f"{path} has a fence that is never closed"


def prose(path: Path) -> str:
    """Return a document without its fenced blocks."""
    return re.sub(r"(?ms)^\s*```.*?^\s*```\s*$", "", path.read_text(encoding="utf-8"))


def commands() -> Iterator[tuple[str, list[str]]]:
    """Yield every command of a shell block, and every one that stands in a sentence, with the place where it is shown."""
    for block in blocks():
        if block.language not in SHELLS:
            continue
        for line in block.text.replace("\\\n", " ").splitlines():
            if block.language == "console" and not line.startswith("$ "):
                continue
            yield str(block), shlex.split(line.removeprefix("$ "), comments=True)
    for path in DOCUMENTS:
        for text in re.findall(r"`((?:deltaferry|make) [^`…]*)`", re.sub(r"\s*\n\s*", " ", prose(path))):
            yield str(path.relative_to(ROOT)), shlex.split(text)
        for text in re.findall(r"(?m)^ {4}((?:deltaferry|make) .*)$", prose(path)):
            yield f"{path.relative_to(ROOT)}: an indented line", shlex.split(text, comments=True)


def shown(program: str) -> list[tuple[str, list[str]]]:
    return [(place, words[1:]) for place, words in commands() if words and words[0] == program]


CLI = typer.main.get_command(app)


def subcommand(name: str) -> object:
    with CLI.make_context("deltaferry", [], resilient_parsing=True) as context:
        return CLI.get_command(context, name)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("place", "words"), [pytest.param(*c, id=f"{c[0]} {' '.join(c[1])}") for c in shown("deltaferry")])
def test_a_command_exists_and_takes_what_is_shown(place: str, words: list[str]) -> None:
    command = subcommand(words[0])
    assert command is not None, f"{place}: there is no command {words[0]}"
    while hasattr(command, "get_command") and len(words) > 1:  # a group of commands
        with command.make_context(words[0], [], resilient_parsing=True) as context:  # type: ignore[attr-defined]
            command, words = command.get_command(context, words[1]), words[1:]
        assert command is not None, f"{place}: there is no such command {words[0]}"
    in_a_sentence = ":" not in place and len(words) == 1  # it names the command; its arguments are not the point there
    if not in_a_sentence:
        command.make_context(words[0], words[1:])  # type: ignore[attr-defined]


def test_an_option_that_does_not_exist_is_found() -> None:
    with pytest.raises(Exception, match="--frobnicate"):
        subcommand("status").make_context("status", ["web-01", "--frobnicate"])  # type: ignore[attr-defined]


@pytest.mark.parametrize(("place", "words"), [pytest.param(*c, id=f"{c[0]} {' '.join(c[1])}") for c in shown("make")])
def test_a_make_target_exists(place: str, words: list[str]) -> None:
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8")))
    assert [word for word in words if "=" not in word and word not in targets] == [], place


@pytest.mark.parametrize("block", [pytest.param(b, id=str(b)) for b in blocks() if b.language == "json"])
def test_an_example_of_an_input_is_accepted(block: Block) -> None:
    kind = block.info.removeprefix("json").strip()
    assert kind in WIRE_TYPES, f"{block}: write the wire type behind json, one of {', '.join(WIRE_TYPES)}"
    TypeAdapter(WIRE_TYPES[kind]).validate_json(block.text)


@pytest.mark.parametrize(
    ("place", "words"), [pytest.param(*c, id=f"{c[0]} {' '.join(c[1])}") for c in shown("temporal") if "--input" in c[1]]
)
def test_an_input_on_the_temporal_command_line_is_accepted(place: str, words: list[str]) -> None:
    options = dict(itertools.pairwise(words))
    kind = OF_WORKFLOW[options["--type"]] if "--type" in options else OF_VERB[Operation(options["--name"])]
    TypeAdapter(WIRE_TYPES[kind]).validate_python(json.loads(options["--input"]))
    if options.get("--type") == names.ENABLE_REPLICATION:
        assert options["--task-queue"] == names.CONTROL_QUEUE


def test_the_search_attributes_to_register_are_those_that_are_used() -> None:
    registered = {}
    for _, words in shown("temporal"):
        if words[:3] == ["operator", "search-attribute", "create"]:
            options = dict(itertools.pairwise(words))
            registered[options["--name"]] = options["--type"]
    assert registered == names.SEARCH_ATTRIBUTES


def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub makes of a document's headings."""
    headings = re.findall(r"(?m)^#+ (.+)$", prose(path))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", [pytest.param(p, id=str(p.relative_to(ROOT))) for p in DOCUMENTS])
def test_every_link_leads_to_a_file_and_a_heading(path: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if re.match(r"https?://", link):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        if not target.is_file() or not target.is_relative_to(ROOT) or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def table(path: Path, header: str) -> list[tuple[str, ...]]:
    """Return the rows of the table with a header line."""
    lines = path.read_text(encoding="utf-8").splitlines()
    begin = lines.index(header) + 2
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines[begin:])
    return [tuple(cell.strip() for cell in row.strip("|").split("|")) for row in rows]


def test_the_table_of_health_errors_is_the_catalogue() -> None:
    catalogue = [(f"`{kind.value}`", record.cause, record.remedy) for kind, record in CATALOGUE.items()]
    assert table(GUIDE, "| kind | cause | remedy |") == catalogue


def accepted(situation: Situation) -> str:
    return ", ".join(f"`{operation.value}`" for operation in allowed(situation)) or "nothing"


def test_the_table_of_replication_states_is_that_of_the_transitions() -> None:
    rows = []
    for state in ReplicationState:
        migration = MigrationState.TEST_PENDING
        if state in BEFORE_THE_FIRST_COPY:
            migration = MigrationState.NONE
        elif state in AFTER_A_MIGRATION:
            migration = MigrationState.MIGRATED
        if state is not ReplicationState.NONE:
            rows.append((state.value, accepted(Situation(state, migration))))
    assert table(GUIDE, "| replication state | accepts |") == rows


def test_the_table_of_migration_states_is_that_of_the_transitions() -> None:
    rows = []
    for state in MigrationState:
        replication = ReplicationState.NONE if state is MigrationState.MIGRATED else ReplicationState.DELTA_SYNC
        if state not in (MigrationState.NONE, MigrationState.TEST_PENDING):
            rows.append((state.value, accepted(Situation(replication, state))))
    assert table(GUIDE, "| migration state | accepts |") == rows


def test_every_verb_is_in_the_operators_guide() -> None:
    cells = " ".join(row[0] for row in table(GUIDE, "| verb | command | what it does |"))
    assert [operation.value for operation in Operation if f"`{operation.value}`" not in cells] == []


def test_the_documents_show_enough_for_these_tests_to_mean_something() -> None:
    assert len(DOCUMENTS) >= 15
    assert len(shown("deltaferry")) >= 30
    assert len(shown("make")) >= 5
    assert {b.info for b in blocks() if b.language == "json"} >= {f"json {kind}" for kind in OF_VERB.values()}
