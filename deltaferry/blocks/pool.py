"""A job's buffers: a fixed number for all of its threads, each lent to one thread at a time.

Threads are more than buffers, because a thread that waits for the answer to a small object needs none: with the latency of a
real store, the buffers would otherwise stand idle for most of the time while zeros are being reported.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")

SMALL_OBJECT_BYTES = 64 * 1024
"""An object of at most this size waits for its answer outside the pool's buffers."""
THREADS_PER_BUFFER = 2


class Pool(Generic[T]):
    """At most `limit` things, each made when none is free and fewer exist. Safe to use from several threads."""

    def __init__(self, limit: int, make: Callable[[], T]) -> None:
        self._make = make
        self._room = threading.Semaphore(limit)
        self._free: list[T] = []

    @contextmanager
    def lend(self) -> Iterator[T]:
        """Lend one for the length of the context, waiting until one is free. The last returned goes first: it is warm."""
        with self._room:
            try:
                thing = self._free.pop()
            except IndexError:
                thing = self._make()
            try:
                yield thing
            finally:
                self._free.append(thing)
