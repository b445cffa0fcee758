# SPDX-License-Identifier: Apache-2.0
"""The rhythm of mining in sessions that nobody can read: sizes and times of messages, no bytes.

A miner behind TLS still sends shares of one size whenever it finds one, gets an answer of one
small size to each, and is sent work, larger and unasked, whenever there is a block. Finding a share
is chance, so the pauses are not those of a timer: that tells it from keepalives, heartbeats and
metrics, which are sent by the clock. docs/behaviour.md has the figures.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from agentwall.detect.conversation import Conversation, Message
from agentwall.detect.pauses import NS_PER_S, irregularity, pauses_s
from agentwall.flow.finding import Confidence, DetectionClass, Finding, Stage
from agentwall.flow.severity import Severity
from agentwall.net.endpoint import L4Protocol

MIN_SECONDS = 60
"""Younger flows are not judged."""
_CERTAIN_SECONDS = 270
"""Of messages behind the opening: a flow of five minutes."""
_OPENING_NS = 3 * NS_PER_S
"""Handshake, login and first work come in this time; their sizes say nothing."""
_MOST_BYTES_PER_S = 250
_SPREAD = 4
"""Bytes by which shares, or answers, differ: the digits of a counter."""
_MIN_SHARES = 6
_LEAST_SHARE_SIZE = 60
"""A share of Stratum V2 has 62 bytes; below are the keys of somebody typing into SSH (36)."""
_MOST_SHARE_SIZE = 512
"""Of the shares of nearly all coins; equihash has 2.9 kB, and is less certain."""
_MOST_LARGE_SHARE_SIZE = 4096
_MOST_ANSWER_SIZE = 160
_SHARES_OF_CLIENT = 0.95
_ANSWERED = 0.8
"""So many shares have an answer soon, and so many answers are of one size: some come together."""
_ANSWER_NS = 2 * NS_PER_S
_PUSH_RATIO = 1.5
"""Work is larger than an answer by this factor."""
_LEAST_PUSH_SIZE = 100
_PUSH_SIZES = 3
_PUSHES_OF_SIZES = 0.8
_CERTAIN_PUSHES = 2
_CERTAIN_SHARES = 10
_PUSH_PAUSE_S = (2.0, 240.0)
_MIN_IRREGULARITY = 0.3
"""Of the pauses; a timer has 0, pure chance 1."""
_JOIN_NS = NS_PER_S // 20
_SMALLEST_FULL_PACKET = 536
"""What goes on in the client's next packet, at once, has filled this one (RFC 9293 section 3.7.1:
a segment takes at least 536 bytes)."""

_MIN_FEED = 20
_FEED_SIZE = (200, 640)
_FEED_OF_SERVER = 0.9
_FEED_PAUSE_S = (0.2, 20.0)
_FEED_CLIENT_SIZES = 3
_FEED_OF_CLIENT = 0.9


@dataclass(frozen=True, slots=True)
class _Band:
    """Sizes within :data:`_SPREAD` of each other, and how much of all messages they are."""

    low: int
    high: int
    part: float

    def holds(self, size: int) -> bool:
        return self.low <= size <= self.high


def mining_rhythm(conversation: Conversation) -> Finding | None:
    """Return a finding where *conversation* has the rhythm of mining; None where it has not.

    Only TCP that is not readable text: what can be read is judged by what it says.
    """
    elapsed_ns = conversation.end_ns - conversation.begin_ns
    if conversation.client.protocol != L4Protocol.TCP or elapsed_ns < MIN_SECONDS * NS_PER_S:
        return None
    if _is_text(conversation.client_head):
        return None
    messages = _joined(conversation.messages, conversation.begin_ns)
    if len(messages) < _MIN_SHARES or _rate(messages) > _MOST_BYTES_PER_S:
        return None
    return _shares(messages) or _feed(messages)


def _is_text(head: bytes) -> bool:
    start = head[:32]
    return bool(start) and all(0x20 <= octet < 0x7F or octet in b"\t\r\n" for octet in start)


def _joined(messages: Sequence[Message], begin_ns: int) -> list[Message]:
    """Leave the opening out, and put together what one side sent in one go."""
    joined: list[Message] = []
    for message in messages:
        if message.time_ns - begin_ns < _OPENING_NS:
            continue
        last = joined[-1] if joined else None
        if (
            last is not None
            and last.from_client == message.from_client
            and message.from_client
            and message.time_ns - last.time_ns < _JOIN_NS
            and last.size >= _SMALLEST_FULL_PACKET
        ):
            joined[-1] = Message(last.time_ns, last.size + message.size, last.from_client)
        else:
            joined.append(message)
    return joined


def _elapsed_s(messages: Sequence[Message]) -> float:
    return max((messages[-1].time_ns - messages[0].time_ns) / NS_PER_S, 1.0)


def _rate(messages: Sequence[Message]) -> float:
    return sum(message.size for message in messages) / _elapsed_s(messages)


def _shares(messages: list[Message]) -> Finding | None:
    """The rhythm of every dialect in which shares are sent and work is pushed."""
    client = [m for m in messages if m.from_client]
    server = [m for m in messages if not m.from_client]
    if len(client) < _MIN_SHARES or len(server) < _MIN_SHARES:
        return None
    shares = _band([m.size for m in client])
    fits = shares.low >= _LEAST_SHARE_SIZE and shares.high <= _MOST_LARGE_SHARE_SIZE
    irregular = irregularity(pauses_s([m.time_ns for m in client]))
    if not fits or shares.part < _SHARES_OF_CLIENT or irregular < _MIN_IRREGULARITY:
        return None
    answers, delay_ns = _answers(client, server)
    if len(answers) < _ANSWERED * len(client):
        return None
    answer = _band(answers)
    if answer.part < _ANSWERED or answer.high > min(_MOST_ANSWER_SIZE, shares.low):
        return None
    work = _work(server, client, answer, delay_ns)
    if work is None:
        return None
    certain = (
        work.is_certain
        and shares.high <= _MOST_SHARE_SIZE
        and len(client) >= _CERTAIN_SHARES
        and _elapsed_s(messages) >= _CERTAIN_SECONDS
    )
    evidence = {
        "shares": len(client),
        "share_bytes": [shares.low, shares.high],
        "shares_of_client": round(shares.part, 3),
        "answer_bytes": [answer.low, answer.high],
        "answered": round(len(answers) / len(client), 3),
        "answer_ms": round(delay_ns / 1e6),
        **work.evidence,
        "irregularity": round(irregular, 2),
    }
    confidence = Confidence.MEDIUM if certain else Confidence.LOW
    return _finding("mining-rhythm", confidence, messages, evidence)


@dataclass(frozen=True, slots=True)
class _Work:
    is_certain: bool
    evidence: dict[str, object]


def _work(
    server: list[Message], client: list[Message], answer: _Band, delay_ns: int
) -> _Work | None:
    """Look for work among what the server said: larger than answers, and for the most unasked."""
    least = max(_LEAST_PUSH_SIZE, _PUSH_RATIO * answer.high)
    pushes = [m for m in server if m.size >= least]
    unasked = _unasked(pushes, client, delay_ns)
    if len(unasked) < max(1, len(pushes) // 2):
        return None
    pauses = pauses_s([m.time_ns for m in pushes])
    pause_s = median(pauses) if pauses else None
    if pause_s is not None and not _PUSH_PAUSE_S[0] <= pause_s <= _PUSH_PAUSE_S[1]:
        return None
    sizes = Counter(m.size for m in pushes).most_common(_PUSH_SIZES)
    is_constant = sum(count for _, count in sizes) >= _PUSHES_OF_SIZES * len(pushes)
    return _Work(
        is_constant and len(unasked) >= _CERTAIN_PUSHES,
        {
            "pushes": len(pushes),
            "push_bytes": [size for size, _ in sizes],
            "push_seconds": None if pause_s is None else round(pause_s, 1),
        },
    )


def _feed(messages: list[Message]) -> Finding | None:
    """The rhythm of Ethereum's getWork dialect: work of one size, again and again, unasked."""
    client = [m for m in messages if m.from_client]
    server = [m for m in messages if not m.from_client]
    if len(server) < _MIN_FEED or len(client) > len(server):
        return None
    work = _band([m.size for m in server])
    if work.part < _FEED_OF_SERVER or not _FEED_SIZE[0] <= work.low <= work.high <= _FEED_SIZE[1]:
        return None
    said = Counter(m.size for m in client).most_common(_FEED_CLIENT_SIZES)
    if sum(count for _, count in said) < _FEED_OF_CLIENT * len(client):
        return None
    unasked = _unasked(server, client, _answers(client, server)[1])
    pauses = pauses_s([m.time_ns for m in unasked])
    if len(unasked) < max(_MIN_FEED, len(server) // 3):
        return None
    irregular = irregularity(pauses)
    if not _FEED_PAUSE_S[0] <= median(pauses) <= _FEED_PAUSE_S[1] or irregular < _MIN_IRREGULARITY:
        return None
    return _finding(
        "mining-work-feed",
        Confidence.LOW,
        messages,
        {
            "pushes": len(unasked),
            "push_bytes": [work.low, work.high],
            "pushes_of_server": round(work.part, 3),
            "push_seconds": round(median(pauses), 2),
            "client_messages": len(client),
            "client_bytes": [size for size, _ in said],
            "irregularity": round(irregular, 2),
        },
    )


def _finding(
    name: str, confidence: Confidence, messages: list[Message], evidence: dict[str, object]
) -> Finding:
    return Finding(
        cls=DetectionClass.MINING,
        signature=f"behaviour/{name}",
        dialect=name,
        severity=Severity.HIGH if confidence is Confidence.MEDIUM else Severity.MEDIUM,
        confidence=confidence,
        stage=Stage.BEHAVIOUR,
        evidence={
            "seconds": round(_elapsed_s(messages)),
            "bytes_per_second": round(_rate(messages), 1),
            **evidence,
        },
    )


def _band(sizes: Sequence[int]) -> _Band:
    """Return the sizes within :data:`_SPREAD` that most of *sizes*, at least one, have."""
    counts = Counter(sizes)
    best = max(
        counts, key=lambda low: sum(counts.get(low + more, 0) for more in range(_SPREAD + 1))
    )
    held = [size for size in range(best, best + _SPREAD + 1) if counts.get(size)]
    return _Band(held[0], held[-1], sum(counts[size] for size in held) / len(sizes))


def _answers(client: list[Message], server: list[Message]) -> tuple[list[int], int]:
    """Return the sizes of what followed each client message soon, and the median delay (ns)."""
    times = [m.time_ns for m in server]
    sizes: list[int] = []
    delays: list[int] = []
    for message in client:
        at = bisect_left(times, message.time_ns)
        if at < len(server) and times[at] - message.time_ns <= _ANSWER_NS:
            sizes.append(server[at].size)
            delays.append(times[at] - message.time_ns)
    return sizes, int(median(delays)) if delays else 0


def _unasked(pushes: list[Message], client: list[Message], delay_ns: int) -> list[Message]:
    """Return the pushes that no client message came just before."""
    times = [m.time_ns for m in client]
    soon_ns = min(max(2 * delay_ns, NS_PER_S // 50), _ANSWER_NS)
    unasked = []
    for push in pushes:
        at = bisect_left(times, push.time_ns)
        if at == 0 or push.time_ns - times[at - 1] > soon_ns:
            unasked.append(push)
    return unasked
