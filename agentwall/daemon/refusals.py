# SPDX-License-Identifier: Apache-2.0
"""Requests on the control socket that were refused: told one by one within bounds, then counted.

A sandbox that reaches the socket could fill the log otherwise.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from agentwall.daemon.callers import Caller, Credentials
from agentwall.daemon.control_messages import shown
from agentwall.sinks.escape import printable

_TOLD = 20
"""Refusals that are told one by one within :data:`_TOLD_S`; the rest are counted."""
_TOLD_S = 60.0

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Somebody asked for what it has no right to."""

    caller: Caller | None
    """None where whoever asked could not be told: it had ended, or was of several processes."""
    pid: int
    uid: int
    request: str
    """Escaped; empty where it could not be read."""
    why: str
    more: int
    """Refusals since the last that was told, this one not among them."""

    def __str__(self) -> str:
        asked = f"{self.request} " if self.request else ""
        also = f"; {self.more} more were refused before" if self.more else ""
        return f"{asked}of pid {self.pid} (uid {self.uid}) refused: {self.why}{also}"


class Refusals:
    """Logs refusals and hands them on; both within bounds."""

    def __init__(self, hand_on: Callable[[Refusal], None], now_s: float) -> None:
        self._hand_on = hand_on
        self._since_s = now_s
        self._told = 0
        self._untold = 0
        self.count = 0
        """All of them."""

    def tell(self, who: Caller | Credentials, name: str, why: str, now_s: float) -> None:
        """Log that *who* may not make the request *name*, unless too many were logged of late.

        Args:
            who: Credentials where it could not be told who that is now.
        """
        self.count += 1
        if now_s - self._since_s >= _TOLD_S:
            self._since_s, self._told = now_s, 0
        if self._told >= _TOLD:
            self._untold += 1
            return
        refusal = Refusal(
            caller=who if isinstance(who, Caller) else None,
            pid=who.pid,
            uid=who.uid,
            request=shown(name),
            why=printable(why),
            more=self._untold,
        )
        self._told += 1
        self._untold = 0
        _LOGGER.warning("control: %s", refusal)
        self._hand_on(refusal)
