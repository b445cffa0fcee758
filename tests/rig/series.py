# SPDX-License-Identifier: Apache-2.0
"""Conversations by sizes and times alone: what an encrypted flow shows. Made up, seeded, pure.

Each maker returns ``(seconds, size, from_client)`` tuples in any order; :func:`conversation` puts
them in order and around them what the rules read.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from ipaddress import ip_address

from agentwall.detect.conversation import Conversation, Message
from agentwall.net.endpoint import Endpoint, L4Protocol

BEGIN_NS = 1_790_000_000_000_000_000
SECOND = 1_000_000_000
HELLO = b"\x16\x03\x01\x00\xdc\x01"
Series = list[tuple[float, int, bool]]

TLS_HANDSHAKE: Series = [
    (0.02, 225, True),
    (0.04, 1337, False),
    (0.06, 80, True),
    (0.08, 510, False),
]


def conversation(
    series: Iterable[tuple[float, int, bool]],
    *,
    server: str = "203.0.113.10",
    port: int = 443,
    client: str = "192.0.2.2",
    protocol: int = L4Protocol.TCP,
    head: bytes = HELLO,
    begin_ns: int = BEGIN_NS,
    seconds: float | None = None,
    is_midstream: bool = False,
) -> Conversation:
    """Return a conversation of the messages of *series*; *seconds* is its length, if longer."""
    messages = [Message(begin_ns + int(at * SECOND), size, up) for at, size, up in sorted(series)]
    end_ns = messages[-1].time_ns if messages else begin_ns
    if seconds is not None:
        end_ns = max(end_ns, begin_ns + int(seconds * SECOND))
    return Conversation(
        client=Endpoint(ip_address(client), 50000, protocol),
        server=Endpoint(ip_address(server), port, protocol),
        begin_ns=begin_ns,
        end_ns=end_ns,
        packets=len(messages) + 3,
        client_bytes=sum(m.size for m in messages if m.from_client),
        server_bytes=sum(m.size for m in messages if not m.from_client),
        client_head=head,
        messages=messages[:4096],
        is_midstream=is_midstream,
    )


def miner(
    seed: int,
    seconds: float,
    *,
    share: int = 205,
    answer: int = 86,
    job: int = 400,
    share_s: float = 8.0,
    job_s: float = 40.0,
    rtt_s: float = 0.18,
) -> Series:
    """Return a session of shares found by chance, each answered, and of work pushed by chance."""
    chance = random.Random(seed)
    series = [*TLS_HANDSHAKE, (0.3, 511, True), (0.3 + rtt_s, 439, False)]
    at = 4.0
    while (at := at + rtt_s + chance.expovariate(1 / share_s)) < seconds:
        series += [(at, share + chance.choice((0, 0, 1)), True)]
        series += [(at + rtt_s * chance.uniform(0.95, 1.3), answer - chance.choice((0, 1)), False)]
    at = 4.0
    while (at := at + max(1.0, chance.expovariate(1 / job_s))) < seconds:
        series.append((at, job, False))
    return series


def work_feed(seed: int, seconds: float, *, job: int = 265, job_s: float = 1.6) -> Series:
    """Return a session in which work of one size is pushed by chance, and little is said."""
    chance = random.Random(seed)
    series = [*TLS_HANDSHAKE, (0.3, 118, True), (0.5, 61, False)]
    at = 4.0
    while (at := at + chance.expovariate(1 / job_s)) < seconds:
        series.append((at, job, False))
    return series


def by_clock(
    seconds: float,
    every_s: float,
    exchange: Iterable[tuple[float, int, bool]],
    *,
    seed: int = 0,
    jitter_s: float = 0.05,
) -> Series:
    """Return *exchange*, whose times are relative, again and again, off by a little each time."""
    chance = random.Random(seed)
    series = list(TLS_HANDSHAKE)
    at = 5.0
    while at < seconds:
        off = at + chance.uniform(-jitter_s, jitter_s)
        series += [(off + later, size, up) for later, size, up in exchange]
        at += every_s
    return series


def typing(seed: int, seconds: float) -> Series:
    """Return somebody at a shell over SSH: keys and echoes of one size, output of many sizes."""
    chance = random.Random(seed)
    series: Series = [(0.1, 41, True), (0.12, 41, False), (0.2, 1536, True), (0.3, 1080, False)]
    at = 6.0
    while (at := at + chance.expovariate(0.8)) < seconds:
        series += [(at, 36, True), (at + 0.03, 36, False)]
        if chance.random() < 0.15:
            for later in range(chance.randint(1, 4)):
                series.append((at + 0.08 + later / 50, 4 * chance.randint(11, 360), False))
    return series


def reverse_shell(
    seed: int, seconds: float, *, keepalive_s: float = 30.0, pause_s: float = 40.0
) -> Series:
    """Return a tunnel through which the far side asks and the near side answers with more."""
    chance = random.Random(seed)
    series = by_clock(seconds, keepalive_s, [(0.0, 52, True), (0.03, 36, False)], seed=seed)
    at = 12.0
    while (at := at + 1.5 + chance.expovariate(1 / pause_s)) < seconds:
        series.append((at, chance.randint(60, 180), False))
        for later in range(chance.randint(2, 12)):
            series.append((at + 0.05 + later / 100, chance.randint(300, 1448), True))
    return series
