# SPDX-License-Identifier: Apache-2.0
"""From samples to tables: ratios against bare, and what the targets say. Pure."""

from __future__ import annotations

import itertools

from bench.latency import OPERATIONS, ROADS, Operation, Road, Samples
from bench.programs import Costs
from bench.ratios import Spread, paired_ratio, spread
from bench.tables import Table
from bench.throughput import DIRECTIONS, Rates

BARE = "bare"
AGAIN = "bare again"
EMPTY = "empty programs"
NFTABLES = "nftables"
AGENTWALL = "agentwall"
MANY_RULES = "100 000 rules"
BESIDE = "beside a sandbox"

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
_SIDE_BY_SIDE = (AGAIN, EMPTY, NFTABLES, AGENTWALL)
"""The columns that are compared with bare."""
THROUGHPUT_VARIANTS = (BARE, *_SIDE_BY_SIDE)
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
        "1 there is noise. 'above empty' is agentwall less empty programs, the part that is ours.",
        header=["operation", "to", BARE, *_SIDE_BY_SIDE, "above empty", "target"],
        rows=rows,
    )


def _latency_row(samples: Samples, operation: Operation, road: Road) -> list[str]:
    of = {name: samples[operation.title, road.title, name] for name in (BARE, *_SIDE_BY_SIDE)}
    ours = [wall - empty for wall, empty in zip(of[AGENTWALL], of[EMPTY], strict=True)]
    return [
        operation.title,
        road.title,
        f"{spread(of[BARE]).median:.0f} ns",
        *(_ratio(paired_ratio(of[name], of[BARE])) for name in _SIDE_BY_SIDE),
        f"{spread(ours).median:.0f} ns",
        f"<= {LATENCY_TARGETS[operation.name]:.2f}",
    ]


def scale_table(samples: Samples, rounds: int) -> Table:
    """Return what many rules cost a sandbox, and what a sandbox costs its neighbours."""
    rows = []
    for operation, road in itertools.product(OPERATIONS, ROADS):
        of = {
            name: samples[operation.title, road.title, name]
            for name in (BARE, AGENTWALL, MANY_RULES, BESIDE)
        }
        many = _ratio(paired_ratio(of[MANY_RULES], of[AGENTWALL]))
        beside = _ratio(paired_ratio(of[BESIDE], of[BARE]))
        target = f"<= {MANY_RULES_TARGET}"
        rows.append([operation.title, road.title, many, target, beside])
    return Table(
        title="Many rules, and neighbours",
        note=f"'{MANY_RULES}' is against agentwall with 2. '{BESIDE}' is a command in another "
        "cgroup against bare: once any cgroup has programs at a hook, the kernel looks for them in "
        f"all cgroups. Medians of {rounds} ratios and quartiles.",
        header=["operation", "to", MANY_RULES, "target", BESIDE],
        rows=rows,
    )


def throughput_table(rates: Rates, rounds: int) -> Table:
    """Return the ratios of both directions."""
    rows = []
    for direction in DIRECTIONS:
        bare = rates[direction, BARE]
        ratios = [_ratio(paired_ratio(rates[direction, name], bare)) for name in _SIDE_BY_SIDE]
        row = [direction, f"{spread(bare).median:.1f} Gbit/s", *ratios, f">= {THROUGHPUT_TARGET}"]
        rows.append(row)
    return Table(
        title="Throughput",
        note="One TCP stream of iperf3 across a veth, received rate against bare: the median of "
        f"{rounds} ratios and their quartiles. It needs two processors to itself; where it has "
        "not, '64 KiB sent and read' above, both ends in one thread, is the steadier figure.",
        header=["direction", BARE, *_SIDE_BY_SIDE, "target"],
        rows=rows,
    )


def programs_table(costs: Costs) -> Table:
    """Return where the time of agentwall's programs goes."""
    rows = []
    for operation in OPERATIONS:
        hooks = sorted(h for title, h, name in costs if (title, name) == (operation.title, EMPTY))
        for hook in hooks:
            empty = costs[operation.title, hook, EMPTY]
            wall = costs[operation.title, hook, AGENTWALL]
            if wall.runs < _ONCE_A_RUN:
                continue
            total = wall.runs * (wall.ns - empty.ns)
            figures = [f"{wall.runs:.2f}", f"{empty.ns:.0f} ns", f"{wall.ns:.0f} ns"]
            rows.append([operation.title, hook, *figures, f"{total:.0f} ns"])
    return Table(
        title="Where the time goes",
        note="Run statistics of the kernel (bpf_stats_enabled), to the local address. Each run "
        "holds two clock reads; the last column has them taken off again.",
        header=["operation", "hook", "runs an operation", EMPTY, AGENTWALL, "ours an operation"],
        rows=rows,
    )


def noise(samples: Samples, rates: Rates) -> str:
    """Return how far bare differs from itself, in words."""
    parts = []
    for operation in OPERATIONS:
        pairs = [
            (
                samples[operation.title, road.title, AGAIN],
                samples[operation.title, road.title, BARE],
            )
            for road in ROADS
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
