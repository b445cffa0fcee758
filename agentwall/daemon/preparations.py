# SPDX-License-Identifier: Apache-2.0
"""Whose start waits until what it is going to map is probed; each for a while, and told once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from agentwall.daemon.waiting import Waiting

WAIT_S = 2.0
"""How long a start waits; it is looked at once a second, so it may be one more."""

Then = Callable[[bool], None]
"""Takes whether all of it is probed; else it was not found in time."""


class Preparations:
    """Those that wait. No input or output but what is called."""

    def __init__(self) -> None:
        self._waiting: Waiting[bool] = Waiting(WAIT_S)
        self.tell_overdue = self._waiting.tell_overdue
        self.tell_all = self._waiting.tell_all

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._waiting)

    def add(self, then: Then) -> Callable[[], None]:
        """Have *then* called by what is returned, or when it has waited long enough."""
        number = self._waiting.add(lambda is_ready: then(is_ready is not None))
        return partial(self._waiting.tell, number, True)
