# SPDX-License-Identifier: Apache-2.0
"""The flows of one capture while it is read, and what becomes of them: conversations.

:mod:`agentwall.capture.grouping` says which packets belong together, this keeps what they add up
to. Memory is bounded whatever the capture holds: at most :data:`MAX_FLOWS` flows, and
:data:`MAX_HELD` bytes of heads, datagrams and messages of all of them. Where one limit is reached,
the flows that have been idle longest leave, a sixteenth of all at a time: they become conversations
then, and what comes later of such a flow begins another one, seen from the middle.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from agentwall.capture.messages import Messages
from agentwall.capture.naming import name_of
from agentwall.capture.network import TCP
from agentwall.capture.streams import Stream, distance
from agentwall.detect.conversation import Conversation, Datagram
from agentwall.net.endpoint import Endpoint, canonical

MAX_FLOWS = 65_536
MAX_HELD = 256 << 20
MAX_DATAGRAMS = 64
"""Of one flow, the first."""
MAX_DATAGRAM = 4096
"""Bytes kept of one datagram."""
MAX_MESSAGES = 4096
"""Of one flow, the first: 16 bytes each."""

Key = bytes
"""Both endpoints and the protocol: see ``grouping``."""


@dataclass(slots=True, eq=False)
class Side:
    """What one end of a flow said."""

    payload: int = 0
    """Bytes in all, on the wire."""
    low: int | None = None
    """TCP: the lowest sequence number with payload, at first."""
    high: int = 0
    """The number behind the highest."""
    span: int = 0
    """From the lowest to the highest."""
    isn: int | None = None
    """TCP's initial sequence number."""
    stream: Stream | None = None

    def advance(self, low: int, high: int) -> None:
        """Note that segments from *low* to *high* were seen."""
        if self.low is None:
            # Broken numbers may lie further apart than half of them all; it is no negative span.
            self.low, self.high, self.span = low, high, (high - low) & 0xFFFFFFFF
        elif (further := distance(high, self.high)) > 0:
            self.high = high
            self.span += further

    @property
    def bytes(self) -> int:
        """Payload without what was sent again: no more than the sequence numbers went on."""
        return self.payload if self.low is None else min(self.payload, self.span)


@dataclass(slots=True, eq=False)
class Flow:
    """One flow. Side 0 is the endpoint that the key names first."""

    key: Key
    protocol: int
    begin_ns: int
    end_ns: int
    first: int
    """Which side the first packet came from."""
    packets: int = 0
    sides: tuple[Side, Side] = field(default_factory=lambda: (Side(), Side()))
    client: int | None = None
    """Which side opened it, where a SYN or an echo request says so."""
    is_closed: bool = False
    """A FIN or RST was seen."""
    datagrams: list[tuple[bytes, int, int]] | None = None
    """Data, size, side."""
    messages: array[int] | None = None
    """Two numbers for each packet with payload: its time, and twice its size plus the side."""
    held: int = 0
    """Bytes of heads, datagrams and messages."""

    def opens_anew(self, side: int, isn: int, *, is_answer: bool) -> bool:
        """Whether a SYN with this number begins another flow between the same endpoints."""
        mine, other = self.sides[side], self.sides[1 - side]
        if mine.isn is not None:
            # An answer with another number is a stray, unless the flow it would answer is over.
            return mine.isn != isn and (self.is_closed or not is_answer)
        if mine.low == (isn + 1) & 0xFFFFFFFF:
            return False  # overtaken by its own data
        # The answer to a SYN, or a simultaneous open (RFC 9293 section 3.5).
        is_awaited = other.isn is not None and not self.is_closed and mine.payload == 0
        return not (is_awaited and (is_answer or other.payload == 0))

    def open(self, side: int, isn: int, *, is_client: bool) -> None:
        """Note a SYN, or with *is_client* false the answer to one."""
        mine = self.sides[side]
        if mine.isn is None:
            mine.isn = isn
        if self.client is None:
            self.client = side if is_client else 1 - side

    def begin_stream(self, side: int) -> Stream:
        """Return a new stream of one side, which begins behind its SYN where that was seen."""
        mine = self.sides[side]
        mine.stream = Stream(None if mine.isn is None else (mine.isn + 1) & 0xFFFFFFFF)
        return mine.stream


class FlowTable:
    """All flows of one capture that are not conversations yet."""

    def __init__(self, *, max_flows: int = MAX_FLOWS, max_held: int = MAX_HELD) -> None:
        self.flows: dict[Key, Flow] = {}
        self.held = 0
        """Bytes of heads, datagrams and messages of all flows."""
        self.evicted = 0
        """How many flows left before the capture ended because of the limits."""
        self.ended: list[Flow] = []
        """Flows that are over, until they are taken."""
        self._max_flows = max_flows
        self._max_held = max_held
        self._endpoints = Endpoints()

    def hold(self, flow: Flow, size: int) -> None:
        """Count bytes that *flow* keeps."""
        flow.held += size
        self.held += size

    def end(self, flow: Flow) -> None:
        """Another flow takes its place."""
        del self.flows[flow.key]
        self.held -= flow.held
        self.ended.append(flow)

    def make_room(self) -> None:
        """Let the flows go that were idle longest, where a limit is reached."""
        while self.flows and (len(self.flows) > self._max_flows or self.held > self._max_held):
            by_idleness = sorted(self.flows.values(), key=lambda flow: flow.end_ns)
            for flow in by_idleness[: max(1, len(by_idleness) // 16)]:
                self.end(flow)
                self.evicted += 1

    def make_room_for_more(self) -> None:
        """Do so in the middle of a batch that has many new flows."""
        if len(self.flows) >= self._max_flows + self._max_flows // 4:
            self.make_room()

    def take_ended(self) -> Iterator[Conversation]:
        """Return the flows that are over as conversations."""
        ended, self.ended = self.ended, []
        for flow in ended:
            yield conversation(flow, self._endpoints)

    def take_all(self) -> Iterator[Conversation]:
        """Return all flows, in the order in which they began in the capture."""
        yield from self.take_ended()
        flows, self.flows, self.held = self.flows, {}, 0
        for flow in flows.values():
            yield conversation(flow, self._endpoints)


class Endpoints:
    """Endpoints by the bytes of a key, each made once; bounded by beginning anew."""

    def __init__(self) -> None:
        self._made: dict[bytes, Endpoint] = {}

    def of(self, key: Key) -> tuple[Endpoint, Endpoint]:
        """Return both endpoints of a key."""
        tail = key[36:]
        return self._of(key[0:16] + key[32:34] + tail), self._of(key[16:32] + key[34:36] + tail)

    def _of(self, raw: bytes) -> Endpoint:
        made = self._made.get(raw)
        if made is None:
            if len(self._made) >= MAX_FLOWS:
                self._made.clear()
            port = int.from_bytes(raw[16:18], "little")
            address = canonical(IPv6Address(raw[:16])) if raw[19] else IPv4Address(raw[12:16])
            made = self._made[raw] = Endpoint(address, port, raw[18])
        return made


def conversation(flow: Flow, endpoints: Endpoints) -> Conversation:
    """Return what a flow adds up to."""
    ends = endpoints.of(flow.key)
    client = client_of(flow)
    ours, theirs = flow.sides[client], flow.sides[1 - client]
    heads = [_head(ours.stream), _head(theirs.stream)]
    is_gapped = any([side.stream is not None and side.stream.is_gapped for side in flow.sides])
    datagrams: tuple[Datagram, ...] = ()
    if flow.datagrams:
        datagrams = tuple(
            [Datagram(data, size, side == client) for data, size, side in flow.datagrams]
        )
    return Conversation(
        client=ends[client],
        server=ends[1 - client],
        begin_ns=flow.begin_ns,
        end_ns=flow.end_ns,
        packets=flow.packets,
        client_bytes=ours.bytes,
        server_bytes=theirs.bytes,
        client_head=heads[0][0],
        server_head=heads[1][0],
        client_cuts=heads[0][1],
        server_cuts=heads[1][1],
        is_midstream=flow.protocol == TCP and (flow.client is None or is_gapped),
        datagrams=datagrams,
        messages=Messages(flow.messages, client) if flow.messages else (),
        name=name_of(heads[0][0]) if heads[0][0] else None,
    )


def _head(stream: Stream | None) -> tuple[bytes, tuple[int, ...]]:
    if stream is None:
        return b"", ()
    stream.finish()
    return stream.head, stream.cuts


def client_of(flow: Flow) -> int:
    """Return which side is the client."""
    if flow.client is not None:
        return flow.client
    ports = [int.from_bytes(flow.key[at : at + 2], "little") for at in (32, 34)]
    if flow.protocol == TCP and ports[0] != ports[1]:
        return 0 if ports[0] > ports[1] else 1
    return flow.first
