"""Damaged settings files: any bytes become settings or BAD_CONFIGURATION, whatever stands at whichever key."""

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deltaferry.model.errors import DeltaferryError, ErrorKind
from workers.settings import Settings, parse_settings
from workers.settings_types import parse_duration, parse_host_port

FEW_OR_MANY = pytest.mark.parametrize("examples", [50, pytest.param(5000, marks=pytest.mark.chaos)])
EXAMPLE = (Path(__file__).parents[3] / "deploy" / "examples" / "deltaferry.toml").read_bytes()
_SETTINGS_OF_LINES = re.compile(rb"(?m)^(?:# ?)?([a-z_]+) *= *(.+)$")
_SLOW = [HealthCheck.too_slow]

_numbers = st.one_of(
    st.integers(), st.sampled_from((2**31, 2**63, -(2**63), 10**400)), st.floats(allow_nan=True, allow_infinity=True)
).map(lambda number: str(number).replace("infinity", "inf"))
_texts = st.one_of(
    st.text(max_size=30),
    st.sampled_from((
        "PT1H", "P99999999999999999999D", "PT9999999999999999999999999999S", "99999999999999d", "1" * 400 + "h", "env:", "env:A=B",
        "file:", "file:/etc/\0", "[::1]:80", "[::1", "host:99999", ":1", "https://", "https://[", "https://h:port", "https://a@b",
        "~no-such-user-xyz/x", "/x\0y", "\ud7ff", "é" * 400, "Europe/London", "../../etc/passwd", "Monday;7:00;7h", "x" * 100_000,
    )),
)  # fmt: skip
_values = st.one_of(
    _numbers,
    _texts.map(lambda text: '"' + "".join(f"\\u{ord(c):04x}" if ord(c) < 0x10000 else f"\\U{ord(c):08x}" for c in text) + '"'),
    st.sampled_from(("true", "[]", "{}", "[[]]", "{a = {b = {}}}", "2026-01-01", "07:00:00", "[" * 50 + "]" * 50, "nan", "")),
)


def becomes_settings_or_bad_configuration(data: bytes) -> None:
    try:
        assert isinstance(parse_settings(data, "f"), Settings)
    except DeltaferryError as error:
        assert error.kind is ErrorKind.BAD_CONFIGURATION


@FEW_OR_MANY
def test_changed_bytes_of_the_example_become_settings_or_bad_configuration(examples: int) -> None:
    places = st.integers(0, len(EXAMPLE))

    @given(st.lists(st.tuples(places, st.binary(max_size=6), st.integers(0, 20)), min_size=1, max_size=4))
    @settings(max_examples=examples, deadline=None, suppress_health_check=_SLOW)
    def check(changes: list[tuple[int, bytes, int]]) -> None:
        data = EXAMPLE
        for place, other, removed in changes:
            data = data[:place] + other + data[place + removed :]
        becomes_settings_or_bad_configuration(data)

    check()


@FEW_OR_MANY
def test_any_value_at_any_key_of_the_example_becomes_settings_or_bad_configuration(examples: int) -> None:
    """Keys that the example only mentions in comments are set as well."""
    lines = list(_SETTINGS_OF_LINES.finditer(EXAMPLE))
    assert len(lines) > 20

    @given(st.sampled_from(lines), _values)
    @settings(max_examples=examples, deadline=None, suppress_health_check=_SLOW)
    def check(line: re.Match[bytes], value: str) -> None:
        setting = line[1] + b" = " + value.encode("utf-8", "surrogatepass")
        becomes_settings_or_bad_configuration(EXAMPLE[: line.start()] + setting + EXAMPLE[line.end() :])

    check()


@FEW_OR_MANY
def test_any_text_is_a_duration_or_none(examples: int) -> None:
    digits = st.text("0123456789.", max_size=400)
    units = st.sampled_from(("d", "h", "m", "s", "P", "PT", "T", "D", "H", "M", "S", ""))

    @given(
        st.one_of(
            st.text(max_size=20), st.lists(st.tuples(units, digits, units), max_size=4).map(lambda p: "".join(map("".join, p)))
        )
    )
    @settings(max_examples=examples, deadline=None)
    def check(text: str) -> None:
        parse_duration(text)
        parse_host_port(text)

    check()


def test_a_file_of_a_great_size_or_depth_is_refused() -> None:
    for data in (
        b"#" * 2_000_000,
        b"a = " + b"[" * 200_000,
        b"[" + b"a." * 100_000 + b"b]",
        b"a." * 100_000 + b"b = 1",
        b"x = 1" + b"0" * 5000,
    ):
        with pytest.raises(DeltaferryError) as caught:
            parse_settings(data, "f")
        assert caught.value.kind is ErrorKind.BAD_CONFIGURATION
