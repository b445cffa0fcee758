# SPDX-License-Identifier: Apache-2.0
"""Hellos that wait until their process has been looked at, each told once."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

from agentwall.flow.tls import TlsReading

WAIT_S = 5.0
"""How long a hello waits for what is found of its process."""

Tell = Callable[[TlsReading | None], None]
"""Tells it; None: nothing was found in time."""


class WaitingHellos:
    """What is still to be told. No input or output but what is called."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._waiting: dict[int, tuple[float, Tell]] = {}

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._waiting)

    def add(self, tell: Tell) -> int:
        """Have *tell* called by whichever of the other methods comes first; return its number."""
        number = next(self._numbers)
        self._waiting[number] = (time.monotonic() + WAIT_S, tell)
        return number

    def tell(self, number: int, reading: TlsReading) -> None:
        """Tell one with what was found; one that was told already does not matter."""
        found = self._waiting.pop(number, None)
        if found is not None:
            found[1](reading)

    def tell_overdue(self, now_s: float) -> None:
        """Tell those that have waited for :data:`WAIT_S`, oldest first."""
        while self._waiting:
            number, (deadline_s, tell) = next(iter(self._waiting.items()))
            if deadline_s > now_s:
                return
            del self._waiting[number]
            tell(None)

    def tell_all(self) -> None:
        """Tell all, oldest first."""
        self.tell_overdue(float("inf"))
