# SPDX-License-Identifier: Apache-2.0
"""Reverse tunnels: the sandbox opened the flow, and the other side gives the orders. Pure.

Whoever opened a flow asks, as a rule, and the server answers more than it was asked. In a reverse
tunnel (``ssh -R`` and its like) it is the server that begins, after a pause, and the client that
answers with more. Sizes and times alone say so; the inside may be encrypted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from agentwall.detect.conversation import Conversation, Message
from agentwall.detect.pauses import NS_PER_S
from agentwall.detect.places import is_reserved
from agentwall.flow.finding import Confidence, DetectionClass, Finding, Stage
from agentwall.flow.record import FlowRecord
from agentwall.flow.severity import Severity
from agentwall.flow.verdict import Direction, Hook
from agentwall.net.endpoint import L4Protocol

MIN_SECONDS = 300
_OPENING_NS = 10 * NS_PER_S
"""Handshake and login; in SSH a person may type a password."""
_QUIET_NS = NS_PER_S
"""A pause after which whoever speaks first begins an exchange."""
_KEEPALIVE = 160
"""Bytes of an exchange, both sides, up to which it keeps the flow open and says nothing."""
_MIN_EXCHANGES = 4
_BY_SERVER = 0.75
_ANSWER_RATIO = 1.5
_ANSWERED = 0.75


@dataclass(slots=True)
class _Exchange:
    """What both sides said between two pauses."""

    by_server: bool
    server_bytes: int = 0
    client_bytes: int = 0


def reverse_tunnel(conversation: Conversation) -> Finding | None:
    """Return a finding where the server of a long TCP *conversation* leads it."""
    elapsed_ns = conversation.end_ns - conversation.begin_ns
    if conversation.client.protocol != L4Protocol.TCP or elapsed_ns < MIN_SECONDS * NS_PER_S:
        return None
    if conversation.is_midstream:
        return None  # which side opened it is a guess
    exchanges = list(_exchanges(conversation.messages, conversation.begin_ns))
    kept = [e for e in exchanges if e.server_bytes + e.client_bytes > _KEEPALIVE]
    led = [e for e in kept if e.by_server]
    answered = [e for e in led if e.client_bytes >= _ANSWER_RATIO * e.server_bytes]
    if len(led) < max(_MIN_EXCHANGES, _BY_SERVER * len(kept)):
        return None
    if len(answered) < _ANSWERED * len(led):
        return None
    ordered = sum(e.server_bytes for e in led)
    answer = sum(e.client_bytes for e in led)
    is_ssh = conversation.client_head[:4] == b"SSH-"
    keepalives = len(exchanges) - len(kept)
    return Finding(
        cls=DetectionClass.TUNNEL,
        signature="behaviour/reverse-tunnel",
        dialect="reverse-tunnel",
        severity=Severity.HIGH if is_ssh else Severity.MEDIUM,
        confidence=Confidence.MEDIUM if is_ssh or keepalives >= len(led) else Confidence.LOW,
        stage=Stage.BEHAVIOUR,
        evidence={
            "seconds": round(elapsed_ns / NS_PER_S),
            "exchanges": len(kept),
            "begun_by_server": len(led),
            "answered_with_more": len(answered),
            "server_bytes": ordered,
            "client_bytes": answer,
            "keepalives": keepalives,
        },
    )


def _exchanges(messages: Sequence[Message], begin_ns: int) -> Iterator[_Exchange]:
    exchange: _Exchange | None = None
    last_ns = 0
    for message in messages:
        if message.time_ns - begin_ns < _OPENING_NS:
            continue
        if exchange is None or message.time_ns - last_ns > _QUIET_NS:
            if exchange is not None:
                yield exchange
            exchange = _Exchange(not message.from_client)
        if message.from_client:
            exchange.client_bytes += message.size
        else:
            exchange.server_bytes += message.size
        last_ns = message.time_ns
    if exchange is not None:
        yield exchange


MAX_FLOWS = 1024
"""Of one sandbox; of more the one heard of longest ago goes."""
_LEAD_SECONDS = 900
_LEAD_BYTES = 65536
_LEAD_RATIO = 4
_LEAD_MOST_SOCKETS = 2
_LEAD_MOST_BYTES_PER_S = 20_000


@dataclass(slots=True)
class _Flow:
    first_ns: int
    sockets: int = 0
    bytes_out: int = 0
    bytes_in: int = 0
    is_told: bool = False


@dataclass(slots=True)
class LeadWatch:
    """The totals of one sandbox's flows, added up: the little they can say of reverse tunnels.

    One or two sockets of one process, open for a quarter of an hour or more to a public address,
    through which four times more left than came, slowly. Uploads of metrics look alike, so it is
    never certain.
    """

    dropped: int = 0
    """Flows that were forgotten early."""
    _flows: OrderedDict[tuple[object, ...], _Flow] = field(default_factory=OrderedDict)

    def see(self, record: FlowRecord) -> Iterator[Finding]:
        """Yield a finding where *record* completes the picture of a flow: once a flow."""
        remote = record.remote
        if record.direction is not Direction.OUT or record.protocol != L4Protocol.TCP:
            return
        if record.hook is not Hook.SOCK_RELEASE or remote is None:
            return
        if is_reserved(remote.address):
            return
        key = (record.process.pid if record.process else 0, remote.address, remote.port)
        flow = self._flows.get(key)
        if flow is None:
            if len(self._flows) >= MAX_FLOWS:
                self._flows.popitem(last=False)
                self.dropped += 1
            begin_ns = record.time_ns - (record.duration_ns or 0) // max(record.count, 1)
            flow = self._flows[key] = _Flow(begin_ns)
        self._flows.move_to_end(key)
        flow.sockets += record.count
        flow.bytes_out += record.bytes_out or 0
        flow.bytes_in += record.bytes_in or 0
        seconds = (record.time_ns - flow.first_ns) / NS_PER_S
        if not flow.is_told and _leads(flow, seconds):
            flow.is_told = True
            yield _lead(flow, seconds)


def _leads(flow: _Flow, seconds: float) -> bool:
    return (
        seconds >= _LEAD_SECONDS
        and flow.sockets <= _LEAD_MOST_SOCKETS
        and flow.bytes_in > 0
        and flow.bytes_out >= max(_LEAD_BYTES, _LEAD_RATIO * flow.bytes_in)
        and flow.bytes_out <= _LEAD_MOST_BYTES_PER_S * seconds
    )


def _lead(flow: _Flow, seconds: float) -> Finding:
    return Finding(
        cls=DetectionClass.TUNNEL,
        signature="behaviour/long-lead",
        dialect="reverse-tunnel",
        severity=Severity.LOW,
        confidence=Confidence.LOW,
        stage=Stage.BEHAVIOUR,
        evidence={
            "seconds": round(seconds),
            "sockets": flow.sockets,
            "bytes_out": flow.bytes_out,
            "bytes_in": flow.bytes_in,
        },
    )
