from datetime import timedelta

import pytest

from deltaferry.planning.phrases import count_text, duration_text, size_text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (2.5, "2.5 s"), (59.94, "59.9 s"), (59.96, "1 min"), (60, "1 min"), (750, "12 min 30 s"), (3599.6, "1 h 00 min"),
     (3600, "1 h 00 min"), (14400, "4 h 00 min"), (5400, "1 h 30 min"), (7199, "2 h 00 min"), (-60, "-1 min")],
)  # fmt: skip
def test_durations_are_written_for_people(seconds: float, text: str) -> None:
    assert duration_text(timedelta(seconds=seconds)) == text


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 bytes"),
        (512, "512 bytes"),
        (1024, "1 KiB"),
        (1536 * 1024**2, "1.5 GiB"),
        (512 * 1024**2, "512 MiB"),
        (9 * 1024**4, "9 TiB"),
    ],
)
def test_sizes_are_written_in_the_largest_unit_they_fill(size_bytes: int, text: str) -> None:
    assert size_text(size_bytes) == text


def test_a_noun_agrees_with_its_number() -> None:
    assert [count_text(number, "disk") for number in (0, 1, 2)] == ["0 disks", "1 disk", "2 disks"]
