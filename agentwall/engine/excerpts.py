# SPDX-License-Identifier: Apache-2.0
"""Bytes of flows that the kernel hands over, put together for the decoders. Bounded, pure.

A flow is handed over from the packet on in which a signature says so, 1 KiB of each packet at most.
So a side may begin in its middle, and may have holes: what follows a hole is read anew, as a stream
seen from the middle.

What is said inside TLS is a conversation of its own beside the encrypted one of the same socket. It
may begin before anybody knows its flow: then it is kept by its process until that is known.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address

from agentwall.detect.conversation import Conversation
from agentwall.flow.finding import DetectionClass
from agentwall.flow.record import Attempt, Excerpt
from agentwall.flow.verdict import Direction, Hook
from agentwall.net.endpoint import Endpoint, L4Protocol
from agentwall.policy.model import Response

MAX_FLOWS = 1024
"""Kept at a time; of more the one heard of longest ago goes."""
MAX_SIDE_BYTES = 8192
"""Kept of each side of a flow: twice what the kernel hands over."""


FlowKey = tuple[int, bool, int]
"""Which conversation: the socket's cookie, whether it is inside TLS, and where there is no cookie
the process."""


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
    """The flows of one sandbox that were handed over."""

    def __init__(self) -> None:
        self._flows: OrderedDict[FlowKey, _Flow] = OrderedDict()
        self.dropped = 0
        """Flows that were forgotten to make room; most had ended by then."""

    def add(self, excerpt: Excerpt) -> bool:
        """Take what was handed over; say whether the decoders should look at the flow again."""
        attempt = excerpt.attempt
        if not is_stream(attempt):
            return False
        self._begin(excerpt)
        flow = self._flow(attempt)
        if flow.is_over:
            return False
        flow.end_ns = attempt.mono_ns
        flow.packets += 1
        return flow.side(from_client=excerpt.from_client).add(excerpt.position, excerpt.data)

    def __contains__(self, key: FlowKey) -> bool:
        """Say whether a flow is known; no more where it was forgotten, or its text was joined."""
        return key in self._flows

    def conversation(self, key: FlowKey) -> Conversation:
        """Return all that is known of a flow that :meth:`add` took. Times are the kernel's."""
        flow = self._flows[key]
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

    def passed(self, key: FlowKey, *, from_client: bool) -> int:
        """Return how many bytes one side of a flow has got through; inside TLS, bytes of text."""
        return self._flows[key].side(from_client=from_client).passed

    def tell(self, key: FlowKey, cls: DetectionClass, dialect: str, response: Response) -> bool:
        """Say whether a finding is news: the first of its dialect in a flow, or graver than it."""
        told = self._flows[key].told
        before = told.get((cls, dialect), Response.OFF)
        if response.gravity <= before.gravity:
            return False
        told[cls, dialect] = response
        return True

    def end(self, attempt: Attempt) -> None:
        """Look no more at the flow of *attempt*, which was cut."""
        key = key_of(attempt)
        if not attempt.cookie:
            # The next text of this process may be of another connection.
            self._flows.pop(key, None)
            return
        flow = self._flow(attempt)
        flow.is_over = True
        flow.client, flow.server = _Side(), _Side()

    def _begin(self, excerpt: Excerpt) -> None:
        # What a process said before the flow was known is the beginning of this one, if it goes on
        # there; if it begins anew, it is another connection whose flow is not known.
        attempt = excerpt.attempt
        key = key_of(attempt)
        waiting = _waiting(attempt)
        flow = self._flows.get(waiting) if attempt.hook is Hook.PLAIN else None
        if flow is None:
            return
        passed = flow.side(from_client=excerpt.from_client).passed
        if not attempt.cookie:
            if passed > excerpt.position:
                del self._flows[waiting]
        elif key not in self._flows and passed == excerpt.position:
            self._flows[key] = self._flows.pop(waiting)
            flow.first = replace(attempt, mono_ns=flow.first.mono_ns)

    def _flow(self, attempt: Attempt) -> _Flow:
        key = key_of(attempt)
        flow = self._flows.get(key)
        if flow is None:
            if len(self._flows) >= MAX_FLOWS:
                self._flows.popitem(last=False)
                self.dropped += 1
            flow = self._flows[key] = _Flow(attempt, attempt.mono_ns)
        self._flows.move_to_end(key)
        return flow


def is_stream(attempt: Attempt) -> bool:
    """Say whether what *attempt* is about is one stream each way: TCP, or text inside TLS."""
    return attempt.protocol == L4Protocol.TCP or attempt.hook is Hook.PLAIN


def key_of(attempt: Attempt) -> FlowKey:
    """Return the conversation that *attempt* is of."""
    is_plain = attempt.hook is Hook.PLAIN
    if is_plain and not attempt.cookie:
        return _waiting(attempt)
    return attempt.cookie, is_plain, 0


def _waiting(attempt: Attempt) -> FlowKey:
    return 0, True, attempt.task.pid


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
