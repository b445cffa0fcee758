# SPDX-License-Identifier: Apache-2.0
"""What speaks for a learned line: how often, how much, when, by whom, and in which event. Pure.

Every text here was chosen by a sandbox or by who named a file: :func:`visible` makes it fit for a
comment in a policy file, on one line and in ASCII.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from agentwall.flow.record import FlowRecord
from agentwall.flow.verdict import Direction, Hook
from agentwall.net.endpoint import IPAddress

_NS_PER_S = 1_000_000_000
_MOST_KEPT = 256
"""Programs, sandboxes and files that are kept of one destination: a sandbox can make up names."""
_MOST_SHOWN = 4
_LONGEST = 80


@dataclass(frozen=True, slots=True)
class Target:
    """What a rule would have to name: one address or name, one protocol, one port."""

    direction: Direction
    name: str | None
    """Under which the address was learned; outward only."""
    address: IPAddress
    """As rules judge it: :func:`~agentwall.net.endpoint.destination`, inward canonical."""
    protocol: int
    port: int
    """The remote one outward, the sandbox's own inward; 0 for protocols without ports."""

    @property
    def order(self) -> tuple[object, ...]:
        """A key to sort by: names first, then addresses by number."""
        address = (self.address.version, int(self.address))
        return (
            self.direction is Direction.IN,
            self.name is None,
            self.name or "",
            *(*address, self.protocol, self.port),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """One flow record and where it was read."""

    record: FlowRecord
    event: str
    """The event's id."""
    source: str
    """The file, as named by the user."""


@dataclass(slots=True)
class Evidence:
    """What the records of one or several targets add up to, in whatever order they come."""

    attempts: int = 0
    sockets: int = 0
    """Of totals, which sum up attempts that other records told of already."""
    bytes_out: int = 0
    bytes_in: int = 0
    first: tuple[int, str, int, str] | None = None
    """Time (UTC, ns), file and id of the first event; the id's length sorts 9 before 10."""
    last_ns: int = 0
    programs: set[str] = field(default_factory=set)
    sandboxes: set[str] = field(default_factory=set)
    sources: set[str] = field(default_factory=set)

    @property
    def count(self) -> int:
        """How many flows, each counted once."""
        return max(self.attempts, self.sockets)

    def add(self, sighting: Sighting) -> None:
        """Take one record."""
        record = sighting.record
        if record.hook is Hook.SOCK_RELEASE:
            self.sockets += record.count
        else:
            self.attempts += record.count
        self.bytes_out += record.bytes_out or 0
        self.bytes_in += record.bytes_in or 0
        place = (record.time_ns, sighting.source, len(sighting.event), sighting.event)
        self.first = place if self.first is None else min(self.first, place)
        self.last_ns = max(self.last_ns, record.time_ns)
        _keep(self.programs, [record.process.comm] if record.process else ())
        _keep(self.sandboxes, [record.sandbox.id])
        _keep(self.sources, [sighting.source])

    def lines(self) -> list[str]:
        """Return what speaks for a rule, in two lines for a comment."""
        return [
            f"{self._amount()}; {self.bytes_out} bytes out, {self.bytes_in} in",
            f"{self._times()}; {self._origin()}",
        ]

    def brief(self) -> str:
        """Return the same on one line, for what was left out."""
        event = visible(self.first[3]) if self.first else "none"
        return f"{self._amount()}; first event {event}"

    def _amount(self) -> str:
        flows = "1 flow" if self.count == 1 else f"{self.count} flows"
        return f"{flows} by {listed(self.programs)}" if self.programs else flows

    def _times(self) -> str:
        first_ns = self.first[0] if self.first else self.last_ns
        return f"{second(first_ns)} to {second(self.last_ns)}"

    def _origin(self) -> str:
        event = visible(self.first[3]) if self.first else "none"
        return f"first event {event}; {listed(self.sandboxes)} in {listed(self.sources)}"


def joined(parts: Iterable[Evidence]) -> Evidence:
    """Return what *parts*, of different targets, add up to."""
    whole = Evidence()
    for part in parts:
        whole.attempts += part.count
        whole.bytes_out += part.bytes_out
        whole.bytes_in += part.bytes_in
        places = [place for place in (whole.first, part.first) if place is not None]
        whole.first = min(places, default=None)
        whole.last_ns = max(whole.last_ns, part.last_ns)
        _keep(whole.programs, sorted(part.programs))
        _keep(whole.sandboxes, sorted(part.sandboxes))
        _keep(whole.sources, sorted(part.sources))
    return whole


def _keep(known: set[str], more: Iterable[str]) -> None:
    for text in more:
        if len(known) < _MOST_KEPT:
            known.add(text)


def visible(text: str, longest: int = _LONGEST) -> str:
    """Return *text* in printable ASCII, everything else spelled out, and not too long."""
    shown = text.encode("unicode_escape").decode("ascii")
    return shown if len(shown) <= longest else f"{shown[:longest]}..."


def listed(texts: Iterable[str]) -> str:
    """Return the first few of *texts* in order, and how many more there are."""
    known = sorted(texts)
    shown = ", ".join(visible(text) or "(no name)" for text in known[:_MOST_SHOWN])
    rest = len(known) - _MOST_SHOWN
    return f"{shown} and {rest} more" if rest > 0 else shown


def second(time_ns: int) -> str:
    """Return *time_ns* (UTC, since 1970) as ``2026-01-31T12:00:00Z``."""
    return f"{datetime.fromtimestamp(time_ns // _NS_PER_S, UTC).isoformat()[:19]}Z"
