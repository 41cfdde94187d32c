"""The grammar of weekly windows: any text is read or refused with ValueError, and what is read means something."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltaferry.planning.windows import format_windows, inside, next_start, parse_windows

FEW_OR_MANY = pytest.mark.parametrize("examples", [100, pytest.param(2_000, marks=pytest.mark.chaos)])
VALID = "Monday;7:00;7h | Tuesday;8:00;1d7h | Friday;13:00;8m"
_NOW = datetime(2026, 3, 29, 1, 30, tzinfo=UTC)

_numbers = st.one_of(st.integers(0, 99).map(str), st.sampled_from(("0", "00", "٣", "²", "-1", "1e3", "99999", "9" * 400)))
_days = st.sampled_from(("Monday", "monday", "SUNDAY", "Mo", "\uff2donday", "", "Tag", "tuesdaY", "\u017funday"))
_starts = st.builds(
    lambda hour, colon, minute: f"{hour}{colon}{minute}", _numbers, st.sampled_from((":", " : ", "", "::")), _numbers
)
_durations = st.lists(st.tuples(_numbers, st.sampled_from("dhmsDHM ")), max_size=4).map(
    lambda parts: "".join(map("".join, parts))
)
_separators = st.sampled_from((";", " ; ", ";;", ","))
_entries = st.builds(
    lambda day, first, start, second, duration: f"{day}{first}{start}{second}{duration}",
    _days,
    _separators,
    _starts,
    _separators,
    _durations,
)
_almost = st.lists(_entries, max_size=5).flatmap(
    lambda entries: st.sampled_from(("|", " | ", "||", "\n")).map(lambda bar: bar.join(entries))
)


@st.composite
def changed(draw: st.DrawFn) -> str:
    """The specification's example with some characters changed."""
    text = VALID
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(text)))
        text = text[:place] + draw(st.text(max_size=3)) + text[place + draw(st.integers(0, 4)) :]
    return text


@FEW_OR_MANY
def test_any_text_is_windows_or_a_value_error(examples: int) -> None:
    @given(st.one_of(st.text(max_size=80), changed(), _almost))
    @settings(max_examples=examples, deadline=None)
    def check(text: str) -> None:
        try:
            windows = parse_windows(text)
        except ValueError:
            return
        assert parse_windows(format_windows(windows)) == windows
        assert all(timedelta(0) < entry.duration <= timedelta(weeks=1) for entry in windows.entries)
        if inside(windows, UTC, _NOW) is None and windows.entries:
            begin = next_start(windows, UTC, _NOW)
            assert begin is not None
            assert _NOW < begin <= _NOW + timedelta(weeks=1)

    check()


def test_a_very_long_text_is_read_or_refused_in_one_pass() -> None:
    """A grammar that backtracks would not come back from these."""
    for text in ("|" * 100_000, "Monday;" * 20_000, "1d" * 50_000, " " * 100_000, VALID + " | " * 30_000):
        try:
            parse_windows(text)
        except ValueError:
            continue
