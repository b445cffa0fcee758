# SPDX-License-Identifier: Apache-2.0
"""What the programs report: events from rings, and the totals of flows, decoded.

Also from rings and tables of a predecessor that could not be kept, as long as it is written to.
"""

from __future__ import annotations

import contextlib
import select
from collections.abc import Iterator

from agentwall.errors import EventDecodeError
from agentwall.flow.record import Attempt, Excerpt, FlowTotals
from agentwall.flow.tls import HelloSeen
from agentwall.kernel import abi
from agentwall.kernel.adoption import Inheritance
from agentwall.kernel.bpfmap import BpfMap
from agentwall.kernel.decode import (
    NameOf,
    decode_event,
    decode_excerpt,
    decode_flow,
)
from agentwall.kernel.rings import Ring

DRAIN_LIMIT = 16_384
"""Events taken from one ring at a time: a flood must not keep the caller from its other work."""


class Reports:
    """The reading end of the rings and of ``aw_flow_table``."""

    def __init__(
        self, maps: dict[str, BpfMap], name_of: NameOf, inheritance: Inheritance | None
    ) -> None:
        self._flow_table = maps["aw_flow_table"]
        self._name_of = name_of
        self._inheritance = inheritance
        self._kept_events: list[Attempt] = []
        self._kept_excerpts: list[Excerpt | HelloSeen] = []
        self._kept_totals: list[FlowTotals] = []
        self._rings = [Ring(maps[name]) for name in abi.RINGS]
        self._excerpts = Ring(maps[abi.EXCERPTS])
        self._epoll = select.epoll()
        for ring in (*self._rings, self._excerpts):
            self._epoll.register(ring.fileno(), select.EPOLLIN)

    def fileno(self) -> int:
        """Return a descriptor that polls readable while there are events."""
        return self._epoll.fileno()

    def attempts(self, limit: int = DRAIN_LIMIT) -> list[Attempt]:
        """Take the events that are there: see :meth:`Wall.attempts`."""
        before, self._kept_events = self._kept_events, []
        return [
            *before,
            *self._inherited_events(),
            *(
                decode_event(raw, self._name_of)
                for ring in self._rings
                for raw in ring.consume(limit)
            ),
        ]

    def excerpts(self) -> list[Excerpt | HelloSeen]:
        """Take the excerpts and hellos that are there: see :meth:`Wall.excerpts`."""
        before, self._kept_excerpts = self._kept_excerpts, []
        found = (decode_excerpt(raw, self._name_of) for raw in self._excerpts.consume(DRAIN_LIMIT))
        return [*before, *self._inherited_excerpts(), *found]

    def totals(self) -> list[FlowTotals]:
        """Take what flows have moved: see :meth:`Wall.totals`."""
        before, self._kept_totals = self._kept_totals, []
        drained = self._flow_table.drain()
        found = (decode_flow(key, value, self._name_of) for key, value in drained)
        return [*before, *self._inherited_totals(), *found]

    def let_go(self) -> None:
        """Take the last that the predecessor's programs reported; nothing more is read of it."""
        while found := list(self._inherited_events()):
            self._kept_events += found
        self._kept_excerpts += self._inherited_excerpts()
        self._kept_totals += self._inherited_totals()
        self._inheritance = None

    def _inherited_events(self) -> Iterator[Attempt]:
        heir = self._inheritance
        for name in abi.RINGS if heir else ():
            for raw in heir.records(name) if heir else ():
                with _counting(heir, name):
                    yield decode_event(raw, self._name_of)

    def _inherited_excerpts(self) -> Iterator[Excerpt | HelloSeen]:
        heir = self._inheritance
        for raw in heir.records(abi.EXCERPTS) if heir else ():
            with _counting(heir, abi.EXCERPTS):
                yield decode_excerpt(raw, self._name_of)

    def _inherited_totals(self) -> Iterator[FlowTotals]:
        heir = self._inheritance
        for key, value in heir.flows() if heir else ():
            with _counting(heir, "aw_flow_table"):
                yield decode_flow(key, value, self._name_of)

    def close(self) -> None:
        """Unmap the rings; unread records stay in the maps."""
        self._epoll.close()
        for ring in (*self._rings, self._excerpts):
            ring.close()


@contextlib.contextmanager
def _counting(heir: Inheritance | None, name: str) -> Iterator[None]:
    try:
        yield
    except EventDecodeError:
        if heir is not None:
            heir.lose_event(name)
