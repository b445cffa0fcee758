# SPDX-License-Identifier: Apache-2.0
"""Whose start waits until what it is going to map is probed; each for a while, and told once."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

WAIT_S = 2.0
"""How long a start waits; it is looked at once a second, so it may be one more."""

Then = Callable[[bool], None]
"""Takes whether all of it is probed; else it was not found in time."""


class Preparations:
    """Those that wait. No input or output but what is called."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._waiting: dict[int, tuple[float, Then]] = {}

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._waiting)

    def add(self, then: Then) -> Callable[[], None]:
        """Have *then* called by what is returned, or when it has waited long enough."""
        number = next(self._numbers)
        self._waiting[number] = (time.monotonic() + WAIT_S, then)
        return lambda: self._tell(number, is_ready=True)

    def _tell(self, number: int, *, is_ready: bool) -> None:
        found = self._waiting.pop(number, None)
        if found is not None:
            found[1](is_ready)

    def tell_overdue(self, now_s: float) -> None:
        """Tell those that have waited for :data:`WAIT_S` that it takes longer, oldest first."""
        overdue = [number for number, (at_s, _) in self._waiting.items() if at_s <= now_s]
        for number in overdue:
            self._tell(number, is_ready=False)

    def tell_all(self) -> None:
        """Let nobody wait any longer."""
        self.tell_overdue(float("inf"))
