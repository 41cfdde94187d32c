r"""Choosing VMs out of an inventory by an expression, such as `folder=/Production/* and name~web-* and not replicated`.

    expression = term { "or" term }          term = factor { "and" factor }
    factor     = "not" factor | "(" expression ")" | flag | comparison
    flag       = "replicated" | "cbt" | "consolidation"
    comparison = field ( "=" | "!=" | "~" | "!~" | "<" | "<=" | ">" | ">=" ) value
    value      = a word without blanks and brackets, or "a text in quotes", in which \" and \\ stand for " and \

- `=` compares the whole text, `~` with a pattern in which `*` stands for any text and `?` for one character; neither minds case.
- `folder=/Production` is that folder alone; `folder=/Production/*` is that folder and all below it.
- Numbers are compared with all but `~` and `!~`; sizes may carry a unit: `size>=100GiB`.
- A field with several values (datastore, snapshot) matches if one of them does; with `!=` and `!~`, if none does.

Everything here is pure.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from deltaferry.model.inventory import DiscoveredVm
from deltaferry.model.vm import PowerState

_MAX_DEPTH = 50
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kmgt]i?b?|b|bytes)?", re.IGNORECASE)
_FACTORS = {"": 1, "b": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}
_TOKEN = re.compile(r"\s*(?:([()])|(!=|!~|<=|>=|[=~<>])|([A-Za-z][\w.-]*))")
_QUOTED = re.compile(r'\s*"((?:[^"\\]|\\["\\])*)"')
_WORD = re.compile(r'\s*([^\s()"]+)')
_ESCAPED = re.compile(r'\\(["\\])')
_ATTRIBUTE = "attribute"
_TEXT_OPERATORS = ("=", "!=", "~", "!~")
_NUMBER_OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    "=": lambda found, wanted: found == wanted,
    "!=": lambda found, wanted: found != wanted,
    "<": lambda found, wanted: found < wanted,
    "<=": lambda found, wanted: found <= wanted,
    ">": lambda found, wanted: found > wanted,
    ">=": lambda found, wanted: found >= wanted,
}
_POWER = {PowerState.ON: "on", PowerState.OFF: "off", PowerState.SUSPENDED: "suspended"}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A VM to choose from, and whether it is replicated now: the inventory may be older than its replication."""

    vm: DiscoveredVm
    replicated: bool


Predicate = Callable[[Candidate], bool]

_TEXTS: Mapping[str, Callable[[DiscoveredVm], tuple[str, ...]]] = {
    "name": lambda item: (item.vm.name,),
    "uuid": lambda item: (item.vm.instance_uuid,),
    "folder": lambda item: (item.folder,),
    "datacenter": lambda item: (item.datacenter,),
    "cluster": lambda item: (item.cluster,),
    "host": lambda item: (item.vm.host,),
    "datastore": lambda item: item.datastores,
    "power": lambda item: (_POWER[item.vm.power],),
    "guest": lambda item: (item.vm.guest_id, item.vm.guest_full_name),
    "firmware": lambda item: (item.vm.firmware.value,),
    "tools": lambda item: (item.tools.value,),
    "backing": lambda item: tuple(storage.backing.value for storage in item.storage),
    "snapshot": lambda item: tuple(snapshot.name for snapshot in item.vm.snapshots),
    "network": lambda item: tuple(nic.network for nic in item.vm.nics),
    "annotation": lambda item: (item.vm.annotation,),
}

_NUMBERS: Mapping[str, Callable[[DiscoveredVm], float]] = {
    "disks": lambda item: len(item.vm.disks),
    "snapshots": lambda item: len(item.vm.snapshots),
    "hardware": lambda item: item.vm.hardware_version,
    "cpus": lambda item: item.vm.cpus,
    "size": lambda item: item.capacity_bytes,
    "used": lambda item: item.expected_bytes,
    "memory": lambda item: item.vm.memory_mib * 1024**2,
}
_SIZES = ("size", "used", "memory")

_FLAGS: Mapping[str, Predicate] = {
    "replicated": lambda candidate: candidate.replicated,
    "cbt": lambda candidate: candidate.vm.vm.cbt_enabled,
    "consolidation": lambda candidate: candidate.vm.vm.consolidation_needed,
}

FIELDS = (*_TEXTS, *_NUMBERS, f"{_ATTRIBUTE}.NAME")
FLAGS = tuple(_FLAGS)


class SelectionError(ValueError):
    """An expression that cannot be read; its message is a sentence that says where and what to write."""


@dataclass(frozen=True, slots=True)
class Selection:
    """An expression that was read."""

    text: str
    matches: Predicate

    def among(self, candidates: Iterable[Candidate]) -> tuple[DiscoveredVm, ...]:
        """Return the VMs that it chooses, in their order."""
        return tuple(candidate.vm for candidate in candidates if self.matches(candidate))


def parse_selection(text: str) -> Selection:
    """Return the selection that an expression stands for. Raises SelectionError with a sentence."""
    reader = _Reader(text)
    predicate = reader.expression(0)
    reader.end()
    return Selection(text, predicate)


class _Reader:
    """Reads an expression from left to right, by recursive descent."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def expression(self, depth: int) -> Predicate:
        parts = [self._term(depth)]
        while self._keyword("or"):
            parts.append(self._term(depth))
        return parts[0] if len(parts) == 1 else lambda candidate: any(part(candidate) for part in parts)

    def end(self) -> None:
        rest = self._text[self._at :].strip()
        if rest.startswith(")"):
            raise self._error("there is a closing bracket too many")
        if rest:
            raise self._error(f"{_shown(rest)} is not expected here: write and, or, or nothing more")

    def _term(self, depth: int) -> Predicate:
        parts = [self._factor(depth)]
        while self._keyword("and"):
            parts.append(self._factor(depth))
        return parts[0] if len(parts) == 1 else lambda candidate: all(part(candidate) for part in parts)

    def _factor(self, depth: int) -> Predicate:
        if depth > _MAX_DEPTH:
            raise self._error(f"it nests deeper than {_MAX_DEPTH} levels")
        bracket, operator, word = self._token()
        if bracket == "(":
            inner = self.expression(depth + 1)
            if self._token()[0] != ")":
                raise self._error("a closing bracket is missing")
            return inner
        if word.lower() == "not":
            negated = self._factor(depth + 1)
            return lambda candidate: not negated(candidate)
        if not word or operator or word.lower() in ("and", "or"):
            raise self._error("a field is missing: write for example name~web-* or replicated")
        return self._named(word)

    def _named(self, word: str) -> Predicate:
        name = word.lower()
        if name in _FLAGS:
            return _FLAGS[name]
        attribute = ""
        if name == f"{_ATTRIBUTE}." or name == _ATTRIBUTE:
            attribute = self._value(f"the name of the custom attribute behind {_ATTRIBUTE}.")[0]
        elif name.startswith(f"{_ATTRIBUTE}."):
            attribute = word[len(_ATTRIBUTE) + 1 :]
        elif name in ("tag", "tags"):
            raise self._error(
                "vSphere's tags cannot be read through the API that is used here: choose by folder, name, or a custom attribute "
                "such as attribute.owner=web"
            )
        elif name not in _TEXTS and name not in _NUMBERS:
            raise self._error(
                f"there is no field {_shown(word)}: the fields are {', '.join(FIELDS)}; the flags {', '.join(FLAGS)}"
            )
        operator = self._token()[1]
        if not operator:
            raise self._error(f"behind {_shown(word)} an operator is missing: one of = != ~ !~ < <= > >=")
        value, quoted = self._value(f"a value behind {operator}")
        if attribute:
            return self._text_comparison("attribute", operator, value, quoted, lambda item: _attribute(item, attribute))
        if name in _TEXTS:
            return self._text_comparison(name, operator, value, quoted, _TEXTS[name])
        return self._number_comparison(name, operator, value)

    def _text_comparison(
        self, name: str, operator: str, value: str, quoted: bool, read: Callable[[DiscoveredVm], tuple[str, ...]]
    ) -> Predicate:
        if operator not in _TEXT_OPERATORS:
            raise self._error(f"{name} is a text, which {operator} does not compare: write = != ~ or !~")
        wanted = value.casefold()
        below = name == "folder" and wanted.endswith("/*")
        if not below and not quoted and operator in ("=", "!=") and any(character in value for character in "*?"):
            raise self._error(
                f"{operator} compares the whole text, and {_shown(value)} looks like a pattern: "
                f"write {name}{'~' if operator == '=' else '!~'}{value}, or put the value in quotes"
            )
        if below and operator in ("=", "!="):
            matches = _in_folder(wanted[:-2])
        elif operator in ("=", "!="):
            matches = wanted.__eq__
        else:
            matches = _like(wanted)
        wants = not operator.startswith("!")
        return lambda candidate: any(matches(found.casefold()) for found in read(candidate.vm)) == wants

    def _number_comparison(self, name: str, operator: str, value: str) -> Predicate:
        compare = _NUMBER_OPERATORS.get(operator)
        if compare is None:
            raise self._error(f"{name} is a number, which {operator} does not compare: write = != < <= > or >=")
        match = _SIZE.fullmatch(value.strip())
        if match is None or (match[2] and name not in _SIZES) or len(match[1]) > 18:
            example = "100GiB" if name in _SIZES else "2"
            raise self._error(f"{_shown(value)} is not a value of {name}: write for example {name}{operator}{example}")
        wanted = float(match[1]) * _FACTORS[(match[2] or "")[:1].lower()]
        read = _NUMBERS[name]
        return lambda candidate: compare(read(candidate.vm), wanted)

    def _token(self) -> tuple[str, str, str]:
        match = _TOKEN.match(self._text, self._at)
        if match is None:
            rest = self._text[self._at :].strip()
            if rest:
                raise self._error(f"{_shown(rest)} cannot be read here")
            return "", "", ""
        self._at = match.end()
        return match[1] or "", match[2] or "", match[3] or ""

    def _keyword(self, keyword: str) -> bool:
        match = _TOKEN.match(self._text, self._at)
        if match is None or (match[3] or "").lower() != keyword:
            return False
        self._at = match.end()
        return True

    def _value(self, what: str) -> tuple[str, bool]:
        """Return the value that follows, and whether it stands in quotes."""
        quoted = _QUOTED.match(self._text, self._at)
        if quoted is not None:
            self._at = quoted.end()
            return _ESCAPED.sub(r"\1", quoted[1]), True
        word = _WORD.match(self._text, self._at)
        if word is None:
            unclosed = self._text[self._at :].lstrip().startswith('"')
            raise self._error("a closing quotation mark is missing" if unclosed else f"{what} is missing")
        self._at = word.end()
        return word[1], False

    def _error(self, problem: str) -> SelectionError:
        return SelectionError(f"The expression cannot be used (character {self._at}): {problem}.")


def _attribute(item: DiscoveredVm, name: str) -> tuple[str, ...]:
    return tuple(value for found, value in item.attributes if found.casefold() == name.casefold()) or ("",)


def _in_folder(parent: str) -> Callable[[str], bool]:
    return lambda found: f"{found.rstrip('/')}/".startswith(f"{parent.rstrip('/')}/")


def _like(pattern: str) -> Callable[[str], bool]:
    """Return whether a text is like a pattern of `*` and `?`; brackets, which the library knows too, stand for themselves."""
    literal = pattern.replace("[", "[[]")
    return lambda found: fnmatchcase(found, literal)


def _shown(text: str) -> str:
    return f"'{text[:40]}…'" if len(text) > 40 else f"'{text}'"
