"""What a step of `deltaferry demo --scenario dr` lost, found in two independent ways; and the table of all steps.

*Lost* comes from real disks: the bytes in which what the step made differs from the disks that it takes the place of.
*Expected* comes from the guest's journal and the images that its disks began with: the bytes in which what it had written by
the chosen point differs from what it had written at the end.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from lab.oracle import differing_bytes, first_difference


@dataclass(frozen=True, slots=True)
class Proof:
    """What was found of one step."""

    byte_identical: bool
    """Whether the disks are those of the chosen point, every byte of them."""
    lost_bytes: int
    expected_lost_bytes: int


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of the scenario, as `--json` prints it."""

    name: str
    byte_identical: bool
    lost_bytes: int
    expected_lost_bytes: int
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether nothing was lost but what the journal says."""
        return self.byte_identical and self.lost_bytes == self.expected_lost_bytes


@dataclass(frozen=True, slots=True)
class Round:
    """The whole scenario."""

    stages: tuple[Stage, ...]
    leftovers: tuple[str, ...]
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether every step passed, and nothing was left behind."""
        return all(stage.passed for stage in self.stages) and not self.leftovers

    def document(self) -> dict[str, object]:
        """Return what `--json` prints."""
        return asdict(self)

    def table(self) -> Table:
        """Return what a person reads."""
        table = Table(title="What was lost, step by step", title_justify="left", box=box.SIMPLE_HEAD, show_footer=True)
        table.add_column("step", "total", no_wrap=True)
        table.add_column("bytes lost,\nby the disks", justify="right")
        table.add_column("bytes lost,\nby the journal", justify="right")
        table.add_column("every byte\nas it was", justify="center")
        table.add_column("took", f"{self.seconds:.1f} s", justify="right")
        for stage in self.stages:
            style = "" if stage.lost_bytes == stage.expected_lost_bytes else "bold red"
            same = Text("yes", style="green") if stage.byte_identical else Text("NO", style="bold red")
            lost, expected = (
                Text(f"{size:,}" if size else "nothing", style) for size in (stage.lost_bytes, stage.expected_lost_bytes)
            )
            table.add_row(stage.name, lost, expected, same, f"{stage.seconds:.1f} s")
        table.caption = Text(f"left behind: {'; '.join(self.leftovers) or 'nothing'}", style="red" if self.leftovers else "green")
        table.caption_justify = "left"
        return table


def amount(size_bytes: int) -> str:
    """Return a loss to the byte."""
    return f"{size_bytes:,} bytes" if size_bytes else "nothing"


def identical(images: Sequence[Path], disks: Sequence[Path], sizes: Sequence[int]) -> bool:
    """Return whether disks hold images: every byte, and zeros behind."""
    return len(images) == len(disks) and all(
        first_difference(image, disk, size) is None for image, disk, size in zip(images, disks, sizes, strict=True)
    )


def difference(left: Sequence[Path], right: Sequence[Path], sizes: Sequence[int]) -> int:
    """Return in how many bytes two sets of disks differ."""
    return sum(differing_bytes(ours, theirs, size) for ours, theirs, size in zip(left, right, sizes, strict=True))


def settle(candidates: Iterable[tuple[Path, ...]], disks: Sequence[Path], sizes: Sequence[int]) -> tuple[tuple[Path, ...], bool]:
    """Return what real disks should hold, and whether they do: of several candidates the one that they hold.

    There are two where a write was under way at the instant (`lab.guest_replay`).
    """
    images: tuple[Path, ...] = ()
    for images in candidates:
        if identical(images, disks, sizes):
            return images, True
    return images, False
