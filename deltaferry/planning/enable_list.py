"""Lists of VMs to enable, as CSV: read whole, with a sentence for each wrong line, and nothing is done with a wrong list.

The first line names the columns: `vm` (a name or an instance UUID), and any target properties. Columns are separated by commas,
or by semicolons where the first line has no comma. The column `tags` holds `key=value`, with `|` between several. Empty cells
say nothing, empty lines are passed over. Everything here is pure.
"""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from deltaferry.model.inventory import DiscoveredVm

_VM = "vm"
_TAGS = "tags"


@dataclass(frozen=True, slots=True)
class ListedVm:
    """A line of the list."""

    line: int
    """Counted from 1, the header's."""
    vm: str
    properties: Mapping[str, str | Mapping[str, str]]
    """Target properties that the line gives, by name; tags as a mapping."""


class ListError(ValueError):
    """A list that cannot be used: one sentence for each thing that is wrong."""

    def __init__(self, sentences: Sequence[str]) -> None:
        super().__init__(" ".join(sentences))
        self.sentences = tuple(sentences)


def read_list(text: str, properties: Sequence[str]) -> tuple[ListedVm, ...]:
    """Return a list's lines. `properties` are the names of the columns that may stand beside `vm`. Raises ListError."""
    rows = list(_rows(text.removeprefix("\ufeff")))
    if not rows:
        raise ListError(["The list is empty: its first line names the columns, for example vm,size,subnet."])
    columns = [cell.strip().lower() for cell in rows[0][1]]
    _check_columns(columns, properties)
    mistakes: list[str] = []
    listed: list[ListedVm] = []
    seen: dict[str, int] = {}
    for line, cells in rows[1:]:
        try:
            item = _item(line, columns, cells)
            first = seen.setdefault(item.vm.casefold(), line)
            if first != line:
                raise ListError([f"Line {line}: {item.vm} stands in line {first} already."])
        except ListError as error:
            mistakes += error.sentences
        else:
            listed.append(item)
    if mistakes:
        raise ListError(mistakes)
    if not listed:
        raise ListError(["The list names no VM: write one behind the first line."])
    return tuple(listed)


def found_in(listed: Iterable[ListedVm], inventory: Iterable[DiscoveredVm]) -> tuple[tuple[ListedVm, DiscoveredVm], ...]:
    """Return each line with its VM of the inventory. Raises ListError with a sentence for each that has none, or several."""
    by_reference: dict[str, list[DiscoveredVm]] = {}
    for item in inventory:
        for reference in {item.vm.name, item.vm.instance_uuid.casefold()}:
            by_reference.setdefault(reference, []).append(item)
    mistakes: list[str] = []
    pairs: list[tuple[ListedVm, DiscoveredVm]] = []
    lines: dict[str, int] = {}
    for wanted in listed:
        matches = by_reference.get(wanted.vm) or by_reference.get(wanted.vm.casefold()) or []
        if not matches:
            mistakes.append(f"Line {wanted.line}: the inventory has no VM with the name or instance UUID {wanted.vm!r}.")
        elif len(matches) > 1:
            uuids = ", ".join(sorted(item.vm.instance_uuid for item in matches))
            mistakes.append(
                f"Line {wanted.line}: {len(matches)} VMs are named {wanted.vm!r}; give one of these instance UUIDs: {uuids}."
            )
        elif (first := lines.setdefault(matches[0].vm.instance_uuid, wanted.line)) != wanted.line:
            mistakes.append(f"Line {wanted.line}: {wanted.vm!r} is the VM of line {first} already.")
        else:
            pairs.append((wanted, matches[0]))
    if mistakes:
        raise ListError(mistakes)
    return tuple(pairs)


def _rows(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the lines that are not empty, each with its number. Raises ListError for text that is not CSV."""
    head = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = ";" if ";" in head and "," not in head else ","
    lines = (f"{line}\n" for line in text.split("\n"))
    reader = csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=True)
    begins = 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ListError([f"Line {begins}: it is not CSV ({error}): look for a quotation mark that is not closed."]) from None
        if any(cell.strip() for cell in cells):
            yield begins, cells
        begins = reader.line_num + 1


def _check_columns(columns: Sequence[str], properties: Sequence[str]) -> None:
    mistakes = []
    if _VM not in columns:
        mistakes.append(f"Line 1: there is no column {_VM}; the first line names the columns, for example vm,size,subnet.")
    unknown = [column for column in columns if column not in (_VM, *properties)]
    if unknown:
        shown = ", ".join(repr(column) for column in unknown)
        mistakes.append(f"Line 1: there is no column {shown}; the columns are {_VM}, {', '.join(properties)}.")
    twice = sorted({column for column in columns if column and columns.count(column) > 1})
    if twice:
        mistakes.append(f"Line 1: the column {', '.join(twice)} stands there twice.")
    if mistakes:
        raise ListError(mistakes)


def _item(line: int, columns: Sequence[str], cells: Sequence[str]) -> ListedVm:
    if len(cells) > len(columns):
        raise ListError([f"Line {line}: it has {len(cells)} cells, but the first line names {len(columns)} columns."])
    given = {column: cell.strip() for column, cell in zip(columns, cells, strict=False) if cell.strip()}
    vm = given.pop(_VM, "")
    if not vm:
        raise ListError([f"Line {line}: the VM's name or instance UUID is missing."])
    properties: dict[str, str | Mapping[str, str]] = dict(given)
    if _TAGS in given:
        properties[_TAGS] = _tags(line, given[_TAGS])
    return ListedVm(line, vm, properties)


def _tags(line: int, text: str) -> dict[str, str]:
    tags = {}
    for part in text.split("|"):
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise ListError([f"Line {line}: the tag {part.strip()!r} is not of the form key=value."])
        tags[key.strip()] = value.strip()
    return tags
