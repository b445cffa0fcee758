# SPDX-License-Identifier: Apache-2.0
"""What is measured, over which road and under which variants. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from bench.ground import FAR_ADDRESS, LOCAL_ADDRESS, LOOPBACK_ADDRESS

BARE = "bare"
AGAIN = "bare again"
EMPTY = "empty programs"
NFTABLES = "nftables"
AGENTWALL = "agentwall"
"""10 addresses and no names."""
TEN_THOUSAND = "agentwall, 10 000 entries"
INSPECTED = "with signatures"
"""As agentwall, and the shipped signatures are looked for."""
FEW_SIGNATURES = "50 signatures"
MANY_SIGNATURES = "1 000 signatures"
BESIDE = "beside a sandbox"
# Addresses and names. The probe's destination is permitted by address in the first two.
FEW = "10 + 10"
MANY = "100 000 + 100 000"
FEW_BY_NAME = "10 + 10, by name"
MANY_BY_NAME = "100 000 + 100 000, by name"

FEW_ENTRIES = 10
NFT_ENTRIES = 10_000
MANY_ENTRIES = 100_000
FEW_LITERALS = 50
MANY_LITERALS = 1_000


@dataclass(frozen=True, slots=True)
class Operation:
    """What the probe times."""

    name: str
    """The probe's word for it."""
    title: str
    count: int
    """Timed operations in one sample: ten milliseconds or so."""


@dataclass(frozen=True, slots=True)
class Road:
    """Where the operation goes to."""

    title: str
    address: str
    is_far: bool
    """The listener is behind the veth."""


@dataclass(frozen=True, slots=True)
class Leg:
    """One operation over one road, under variants that are compared with each other."""

    operation: Operation
    road: Road
    variants: Sequence[str]


OPERATIONS = (
    Operation("tcp", "TCP connect + accept + close", 320),
    Operation("tcp-stream", "TCP, 64 KiB sent and read", 640),
    Operation("udp-sendto", "UDP sendto", 2_560),
    Operation("udp-connect", "UDP connect", 9_600),
)
TALKS = (
    Operation("tcp-http", "TCP connect, HTTP request and answer, close", 320),
    Operation("tcp-tls", "TCP connect, TLS hello and answer, close", 320),
)
"""New flows that say something: 300 bytes each way."""
LINES = Operation("tcp-lines", "TCP connect, 64 KiB of JSON lines, close", 320)
"""A flow that is read to the depth limit."""
LINES_BYTES = 65_536
LOOKUP = Operation("dns", "DNS question and answer", 320)
LOCAL = Road("local address", LOCAL_ADDRESS, False)
VETH = Road("across a veth", FAR_ADDRESS, True)
LOOPBACK = Road("loopback", LOOPBACK_ADDRESS, False)
ROADS = (LOCAL, VETH, LOOPBACK)
JUDGED_ROADS = (LOCAL, VETH)
"""Those that rules judge."""

SIDE_BY_SIDE = (AGAIN, EMPTY, NFTABLES, AGENTWALL, INSPECTED)
"""What is compared with bare."""
LOOKUP_VARIANTS = (BARE, AGAIN, EMPTY, FEW_BY_NAME, MANY_BY_NAME)
THROUGHPUT_VARIANTS = (BARE, *SIDE_BY_SIDE, TEN_THOUSAND)
TALK_VARIANTS = (BARE, AGAIN, EMPTY, AGENTWALL, INSPECTED)
LINES_VARIANTS = (AGENTWALL, INSPECTED, FEW_SIGNATURES, MANY_SIGNATURES)
PROFILED = (EMPTY, AGENTWALL, FEW_BY_NAME)
INSPECTED_PROFILED = (EMPTY, AGENTWALL, INSPECTED)
_EVERYWHERE = (BARE, *SIDE_BY_SIDE)
# One road is enough for these: the rules are looked up in the same way on each.
_ON_ROAD = {
    LOCAL: (*_EVERYWHERE, TEN_THOUSAND, BESIDE, FEW, MANY, FEW_BY_NAME, MANY_BY_NAME),
    VETH: (*_EVERYWHERE, TEN_THOUSAND),
    LOOPBACK: _EVERYWHERE,
}
LEGS = (
    *(Leg(what, road, _ON_ROAD[road]) for what, road in itertools.product(OPERATIONS, ROADS)),
    *(Leg(what, road, TALK_VARIANTS) for what, road in itertools.product(TALKS, JUDGED_ROADS)),
    Leg(LINES, LOCAL, LINES_VARIANTS),
    Leg(LOOKUP, VETH, LOOKUP_VARIANTS),
)
PROFILED_LEGS = (
    *(Leg(operation, LOCAL, (*PROFILED, INSPECTED)) for operation in OPERATIONS),
    *(Leg(operation, LOCAL, INSPECTED_PROFILED) for operation in TALKS),
    Leg(LINES, LOCAL, LINES_VARIANTS),
    Leg(LOOKUP, VETH, (EMPTY, FEW_BY_NAME)),
)
