# SPDX-License-Identifier: Apache-2.0
"""What waits for something to be found, for a while: each is told once."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Generic, TypeVar

Found = TypeVar("Found")


class Waiting(Generic[Found]):
    """Who is still to be told. No input or output but what is called."""

    def __init__(self, wait_s: float) -> None:
        """Begin with nobody; each waits for *wait_s*, and is told None if nothing is found."""
        self._wait_s = wait_s
        self._numbers = itertools.count()
        self._waiting: dict[int, tuple[float, Callable[[Found | None], None]]] = {}

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._waiting)

    def add(self, tell: Callable[[Found | None], None]) -> int:
        """Have *tell* called by whichever of the other methods comes first; return its number."""
        number = next(self._numbers)
        self._waiting[number] = (time.monotonic() + self._wait_s, tell)
        return number

    def tell(self, number: int, what: Found) -> None:
        """Tell one with what was found; one that was told already does not matter."""
        found = self._waiting.pop(number, None)
        if found is not None:
            found[1](what)

    def tell_overdue(self, now_s: float) -> None:
        """Tell those that have waited long enough, oldest first."""
        while self._waiting:
            number, (deadline_s, tell) = next(iter(self._waiting.items()))
            if deadline_s > now_s:
                return
            del self._waiting[number]
            tell(None)

    def tell_all(self) -> None:
        """Tell all, oldest first."""
        self.tell_overdue(float("inf"))
