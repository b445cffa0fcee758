# SPDX-License-Identifier: Apache-2.0
"""From samples to tables: ratios against bare, and what the targets say. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping

from bench.course import (
    AGAIN,
    AGENTWALL,
    BARE,
    BESIDE,
    EMPTY,
    FEW,
    FEW_BY_NAME,
    INSPECTED,
    JUDGED_ROADS,
    LOCAL,
    LOOKUP,
    LOOKUP_VARIANTS,
    MANY,
    MANY_BY_NAME,
    NFTABLES,
    OPERATIONS,
    PROFILED,
    ROADS,
    SIDE_BY_SIDE,
    TEN_THOUSAND,
    VETH,
    Operation,
    Road,
)
from bench.latency import Samples
from bench.programs import Cost, Costs
from bench.ratios import Spread, paired_ratio, spread
from bench.tables import Table
from bench.throughput import DIRECTIONS, Rates

THROUGHPUT_TARGET = 0.97
"""At least this times bare."""
LATENCY_TARGETS = {
    "tcp": 1.05,
    "tcp-stream": 1 / THROUGHPUT_TARGET,
    "udp-sendto": 1.20,
    "udp-connect": 1.40,
}
"""At most this times bare, by operation name."""
MANY_RULES_TARGET = 1.15
"""At most this times the same with few rules."""
_ONCE_A_RUN = 0.5
"""Fewer runs an operation than this belong to the probe's start, not to the operation."""


def _ratio(value: Spread) -> str:
    return f"{value.median:.3f} ({value.low:.3f}-{value.high:.3f})"


def latency_table(samples: Samples, rounds: int) -> Table:
    """Return the ratios of every operation and road, variant beside variant."""
    rows = [
        _latency_row(samples, operation, road)
        for operation, road in itertools.product(OPERATIONS, ROADS)
    ]
    return Table(
        title="Connections and datagrams",
        note=f"Time against bare: the median of {rounds} ratios, each of two samples from one "
        f"round, and their quartiles. '{AGAIN}' is bare measured a second time: what differs from "
        "1 there is noise. 'above empty' is agentwall less empty programs, the part that is ours. "
        f"'{INSPECTED}' is agentwall that looks for the shipped signatures, as it does unless told "
        "otherwise; what that costs a flow is in a table of its own.",
        header=["operation", "to", BARE, *SIDE_BY_SIDE, "above empty", "target"],
        rows=rows,
    )


def _latency_row(samples: Samples, operation: Operation, road: Road) -> list[str]:
    of = _of(samples, operation, road, (BARE, *SIDE_BY_SIDE))
    return [
        operation.title,
        road.title,
        f"{spread(of[BARE]).median:.0f} ns",
        *(_against(of, name, BARE) for name in SIDE_BY_SIDE),
        _above(of, AGENTWALL, EMPTY),
        f"<= {LATENCY_TARGETS[operation.name]:.2f}",
    ]


def _of(
    samples: Samples, operation: Operation, road: Road, names: Iterable[str]
) -> Mapping[str, list[float]]:
    return {name: samples[operation.title, road.title, name] for name in names}


def _against(of: Mapping[str, list[float]], name: str, base: str) -> str:
    return _ratio(paired_ratio(of[name], of[base]))


def _above(of: Mapping[str, list[float]], name: str, base: str) -> str:
    more = [sample - below for sample, below in zip(of[name], of[base], strict=True)]
    return f"{spread(more).median:.0f} ns"


def entries_table(samples: Samples, rounds: int) -> Table:
    """Return agentwall beside nftables, with equally many addresses in both."""
    rows = []
    for operation, road in itertools.product(OPERATIONS, JUDGED_ROADS):
        of = _of(samples, operation, road, (BARE, NFTABLES, TEN_THOUSAND))
        ratios = [_against(of, name, BARE) for name in (NFTABLES, TEN_THOUSAND)]
        rows.append([operation.title, road.title, *ratios, _against(of, TEN_THOUSAND, NFTABLES)])
    return Table(
        title="Ten thousand entries, against nftables",
        note="A policy that permits 10 000 addresses, and an nftables chain at output with a set "
        f"of as many, each against bare and against each other. Medians of {rounds} ratios and "
        "quartiles. The same under iperf3 is in the next table.",
        header=["operation", "to", NFTABLES, TEN_THOUSAND, "agentwall against nftables"],
        rows=rows,
    )


def scale_table(samples: Samples, rounds: int) -> Table:
    """Return what many rules cost a sandbox."""
    rows = []
    for operation in OPERATIONS:
        of = _of(samples, operation, LOCAL, (FEW, MANY, FEW_BY_NAME, MANY_BY_NAME))
        ratios = [_against(of, MANY, FEW), _against(of, MANY_BY_NAME, FEW_BY_NAME)]
        rows.append([operation.title, *ratios, f"<= {MANY_RULES_TARGET}"])
    return Table(
        title="Many rules",
        note="100 000 addresses and 100 000 names against 10 of each, to the local address, "
        "which is permitted by address, or by a name that the sandbox has resolved. Medians of "
        f"{rounds} ratios and quartiles.",
        header=["operation", "permitted by address", "permitted by name", "target"],
        rows=rows,
    )


def names_table(samples: Samples, rounds: int) -> Table:
    """Return what names cost those who use them, and those who do not."""
    rows = []
    for operation in OPERATIONS:
        of = _of(samples, operation, LOCAL, (AGENTWALL, FEW, FEW_BY_NAME))
        without = f"{spread(of[AGENTWALL]).median:.0f} ns"
        ratios = [_against(of, name, AGENTWALL) for name in (FEW, FEW_BY_NAME)]
        rows.append([operation.title, without, *ratios, _above(of, FEW_BY_NAME, AGENTWALL)])
    return Table(
        title="What names cost",
        note="A policy of 10 addresses against the same with a DNS server and 10 names, to the "
        "local address, which is permitted by address as before, or by name. Medians of "
        f"{rounds} ratios and quartiles.",
        header=["operation", "no names", "by address", "by name", "by name, above no names"],
        rows=rows,
    )


def lookup_table(samples: Samples, rounds: int) -> Table:
    """Return what the wall costs a DNS question and its answer."""
    of = _of(samples, LOOKUP, VETH, LOOKUP_VARIANTS)
    rows = [
        [
            name,
            f"{spread(of[name]).median:.0f} ns",
            _against(of, name, BARE),
            _above(of, name, BARE),
        ]
        for name in LOOKUP_VARIANTS
    ]
    return Table(
        title=LOOKUP.title,
        note="One lookup over UDP: socket, connect, question, the answer of dnsmasq across a "
        "veth, close. The question is judged, the answer read and its address learned. Two "
        "processes wake each other up on two processors, so this is less steady than the rest; "
        f"'{LOOKUP.title}' under 'Where the time goes' is not. Medians of {rounds} samples "
        "and ratios, and quartiles.",
        header=["", "a lookup", "against bare", "above bare"],
        rows=rows,
    )


def neighbours_table(samples: Samples, rounds: int) -> Table:
    """Return what a sandbox costs its neighbours."""
    rows = []
    for operation in OPERATIONS:
        of = _of(samples, operation, LOCAL, (BARE, BESIDE))
        rows.append([operation.title, _against(of, BESIDE, BARE)])
    return Table(
        title="Neighbours",
        note="A command in another cgroup, to the local address, against bare: once any cgroup "
        "has programs at a hook, the kernel looks for them in all cgroups. Medians of "
        f"{rounds} ratios and quartiles.",
        header=["operation", BESIDE],
        rows=rows,
    )


def throughput_table(rates: Rates, rounds: int) -> Table:
    """Return the ratios of both directions."""
    compared = (*SIDE_BY_SIDE, TEN_THOUSAND)
    rows = []
    for direction in DIRECTIONS:
        of = {name: rates[direction, name] for name in (BARE, *compared)}
        rows.append(
            [
                direction,
                f"{spread(of[BARE]).median:.1f} Gbit/s",
                *(_against(of, name, BARE) for name in compared),
                f">= {THROUGHPUT_TARGET}",
                _against(of, INSPECTED, AGENTWALL),
                _against(of, TEN_THOUSAND, NFTABLES),
            ]
        )
    return Table(
        title="Throughput",
        note="One TCP stream of iperf3 across a veth, received rate against bare: the median of "
        f"{rounds} ratios and their quartiles. It needs two processors to itself; where it has "
        "not, '64 KiB sent and read' above, both ends in one thread, is the steadier figure. The "
        "last column has 10 000 entries on both sides; the one before it is the wall with the "
        "shipped signatures against the wall without.",
        header=[
            *("direction", BARE, *compared, "target"),
            *("signatures against none", "agentwall against nftables"),
        ],
        rows=rows,
    )


def programs_table(costs: Costs) -> Table:
    """Return where the time of agentwall's programs goes."""
    rows = []
    for operation in (*OPERATIONS, LOOKUP):
        hooks = {hook for title, hook, name in costs if (title, name) == (operation.title, EMPTY)}
        for hook in sorted(hooks):
            of = {name: costs.get((operation.title, hook, name)) for name in PROFILED}
            named = of[FEW_BY_NAME]
            if named is None or named.runs < _ONCE_A_RUN:
                continue
            ran = [f"{cost.ns:.0f} ns" if cost else "-" for cost in of.values()]
            ours = [_ours(of[name], of[EMPTY]) for name in (AGENTWALL, FEW_BY_NAME)]
            rows.append([operation.title, hook, f"{named.runs:.2f}", *ran, *ours])
    return Table(
        title="Where the time goes",
        note="Run statistics of the kernel (bpf_stats_enabled): to the local address, and of DNS "
        "across a veth. A run holds two clock reads; the columns 'ours' have them taken off again "
        "and are of an operation. 'by name' is permitted by a name.",
        header=[
            *("operation", "hook", "runs an operation", EMPTY, AGENTWALL, "by name"),
            *("ours", "ours, by name"),
        ],
        rows=rows,
    )


def _ours(wall: Cost | None, empty: Cost | None) -> str:
    return f"{wall.runs * (wall.ns - empty.ns):.0f} ns" if wall and empty else "-"


def noise(samples: Samples, rates: Rates) -> str:
    """Return how far bare differs from itself, in words."""
    parts = []
    courses = [*((operation, ROADS) for operation in OPERATIONS), (LOOKUP, (VETH,))]
    for operation, roads in courses:
        pairs = [
            (
                samples[operation.title, road.title, AGAIN],
                samples[operation.title, road.title, BARE],
            )
            for road in roads
        ]
        parts.append(f"{operation.title} {_widest(pairs):.1%}")
    pairs = [(rates[direction, AGAIN], rates[direction, BARE]) for direction in DIRECTIONS]
    parts.append(f"iperf3 {_widest(pairs):.1%}")
    return (
        "Noise of this run, how far from 1 the quartiles of bare against itself lie: "
        + ", ".join(parts)
        + ". A difference smaller than that is none."
    )


def _widest(pairs: list[tuple[list[float], list[float]]]) -> float:
    ratios = [paired_ratio(again, bare) for again, bare in pairs]
    return max(max(abs(ratio.low - 1), abs(ratio.high - 1)) for ratio in ratios)
