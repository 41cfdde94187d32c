"""Drawing lots without chance: each number follows from a seed and how many were drawn, the same everywhere and for ever."""

from math import cos, exp, log, pi, sqrt

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


class Draws:
    """A stream of numbers by SplitMix64 (Steele, Lea, Flood 2014): enough to make up a site, and nothing more secret."""

    def __init__(self, seed: int) -> None:
        self._state = seed & _MASK

    def uniform(self) -> float:
        """Return a number from 0 up to, but without, 1."""
        self._state = (self._state + _GOLDEN) & _MASK
        mixed = self._state
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        return ((mixed ^ (mixed >> 31)) >> 11) / (1 << 53)

    def below(self, count: int) -> int:
        """Return one of the numbers from 0 to `count` - 1."""
        return int(self.uniform() * count)

    def spread(self, sigma: float) -> float:
        """Return a log-normal factor with median 1: many a little below or above, a few several times as much."""
        normal = sqrt(-2 * log(1 - self.uniform())) * cos(2 * pi * self.uniform())
        return exp(sigma * normal)
