# SPDX-License-Identifier: Apache-2.0
"""Bytes of flows that the kernel hands over, put together for the decoders. Bounded, pure.

A flow is handed over from the packet on in which a signature says so, 1 KiB of each packet at most.
So a side may begin in its middle, and may have holes: what follows a hole is read anew, as a stream
seen from the middle.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from agentwall.detect.conversation import Conversation
from agentwall.flow.finding import DetectionClass
from agentwall.flow.record import Attempt, Excerpt
from agentwall.flow.verdict import Direction
from agentwall.net.endpoint import Endpoint, L4Protocol
from agentwall.policy.model import Response

MAX_FLOWS = 1024
"""Kept at a time; of more the one heard of longest ago goes."""
MAX_SIDE_BYTES = 8192
"""Kept of each side of a flow: twice what the kernel hands over."""


@dataclass(slots=True)
class _Side:
    begin: int = 0
    """Where in the stream :attr:`data` begins."""
    data: bytearray = field(default_factory=bytearray)
    cuts: list[int] = field(default_factory=list)
    passed: int = 0
    """Bytes of the stream that have passed, as far as is known."""
    is_whole: bool = True
    """Nothing is missing before :attr:`data`."""

    def add(self, position: int, piece: bytes) -> bool:
        """Add a piece; say whether there is anything new to read."""
        end = position + len(piece)
        if end <= self.passed:
            return False
        if position > self.passed:
            self._begin_anew(position, piece)
        fresh = piece[max(self.passed - position, 0) :]
        self.passed = end
        room = MAX_SIDE_BYTES - len(self.data)
        if not room:
            return False
        self.cuts.append(len(self.data))
        self.data += fresh[:room]
        return True

    def _begin_anew(self, position: int, piece: bytes) -> None:
        # What is handed over for JSON is so at its first quotation mark: if that was the first byte
        # of a packet, an opening brace stood before it.
        is_object = not self.passed and piece.lstrip(b" \t\r\n").startswith(b'"')
        self.data = bytearray(b"{" if is_object else b"")
        self.begin, self.cuts, self.is_whole = position, [], is_object
        self.passed = position


@dataclass(slots=True)
class _Flow:
    first: Attempt
    end_ns: int
    client: _Side = field(default_factory=_Side)
    server: _Side = field(default_factory=_Side)
    packets: int = 0
    told: dict[tuple[DetectionClass, str], Response] = field(default_factory=dict)
    is_over: bool = False

    def side(self, *, from_client: bool) -> _Side:
        return self.client if from_client else self.server


class Excerpts:
    """The flows of one sandbox that were handed over, by the cookie of their socket."""

    def __init__(self) -> None:
        self._flows: OrderedDict[int, _Flow] = OrderedDict()
        self.dropped = 0
        """Flows that were forgotten to make room; most had ended by then."""

    def add(self, excerpt: Excerpt) -> bool:
        """Take what was handed over; say whether the decoders should look at the flow again."""
        attempt = excerpt.attempt
        if attempt.protocol != L4Protocol.TCP:
            return False
        flow = self._flow(attempt)
        if flow.is_over:
            return False
        flow.end_ns = attempt.mono_ns
        flow.packets += 1
        return flow.side(from_client=excerpt.from_client).add(excerpt.position, excerpt.data)

    def conversation(self, cookie: int) -> Conversation:
        """Return all that is known of a flow that :meth:`add` took. Times are the kernel's."""
        flow = self._flows[cookie]
        client, server = _ends(flow.first)
        return Conversation(
            client=client,
            server=server,
            begin_ns=flow.first.mono_ns,
            end_ns=flow.end_ns,
            packets=flow.packets,
            client_bytes=flow.client.passed,
            server_bytes=flow.server.passed,
            client_head=bytes(flow.client.data),
            server_head=bytes(flow.server.data),
            client_cuts=tuple(flow.client.cuts),
            server_cuts=tuple(flow.server.cuts),
            is_midstream=not (flow.client.is_whole and flow.server.is_whole),
            name=flow.first.name,
        )

    def passed(self, cookie: int, *, from_client: bool) -> int:
        """Return how many bytes one side of a flow has got through."""
        return self._flows[cookie].side(from_client=from_client).passed

    def tell(self, cookie: int, cls: DetectionClass, dialect: str, response: Response) -> bool:
        """Say whether a finding is news: the first of its dialect in a flow, or graver than it."""
        told = self._flows[cookie].told
        before = told.get((cls, dialect), Response.OFF)
        if response.gravity <= before.gravity:
            return False
        told[cls, dialect] = response
        return True

    def end(self, attempt: Attempt) -> None:
        """Look no more at the flow of *attempt*, which was cut."""
        flow = self._flow(attempt)
        flow.is_over = True
        flow.client, flow.server = _Side(), _Side()

    def _flow(self, attempt: Attempt) -> _Flow:
        flow = self._flows.get(attempt.cookie)
        if flow is None:
            if len(self._flows) >= MAX_FLOWS:
                self._flows.popitem(last=False)
                self.dropped += 1
            flow = self._flows[attempt.cookie] = _Flow(attempt, attempt.mono_ns)
        self._flows.move_to_end(attempt.cookie)
        return flow


def conversation_of(attempt: Attempt, text: bytes, *, from_client: bool) -> Conversation:
    """Return a flow of which one side has said *text*, all of it, and the other nothing."""
    client, server = _ends(attempt)
    return Conversation(
        client=client,
        server=server,
        begin_ns=attempt.mono_ns,
        end_ns=attempt.mono_ns,
        packets=1,
        client_bytes=len(text) if from_client else 0,
        server_bytes=0 if from_client else len(text),
        client_head=text if from_client else b"",
        server_head=b"" if from_client else text,
        name=attempt.name,
    )


def _ends(attempt: Attempt) -> tuple[Endpoint, Endpoint]:
    """Return who opened the flow, and who was called."""
    nowhere = Endpoint(IPv4Address(0), 0, attempt.protocol)
    local, remote = attempt.local or nowhere, attempt.remote or nowhere
    return (local, remote) if attempt.direction is Direction.OUT else (remote, local)
