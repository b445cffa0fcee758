# SPDX-License-Identifier: Apache-2.0
"""Tables say what was measured against what."""

from __future__ import annotations

import itertools

from bench import report
from bench.latency import OPERATIONS, ROADS
from bench.tables import Table, as_markdown, as_text
from bench.throughput import DIRECTIONS

_FACTORS = {
    report.BARE: 1.0,
    report.AGAIN: 1.01,
    report.EMPTY: 1.25,
    report.NFTABLES: 1.1,
    report.AGENTWALL: 1.5,
    report.MANY_RULES: 1.65,
    report.BESIDE: 1.02,
}


def _samples():
    """Two rounds, the second on a machine half as fast."""
    return {
        (operation.title, road.title, name): [1000.0 * factor, 2000.0 * factor]
        for operation, road in itertools.product(OPERATIONS, ROADS)
        for name, factor in _FACTORS.items()
    }


def _rates():
    names = report.THROUGHPUT_VARIANTS
    return {(way, name): [10 / _FACTORS[name]] for way in DIRECTIONS for name in names}


def test_latency_is_relative_to_bare():
    """Every variant stands beside bare, and our own part is what lies above empty programs."""
    row = report.latency_table(_samples(), 2).rows[0]

    assert row == [
        "TCP connect + accept + close",
        "local address",
        "1500 ns",
        "1.010 (1.010-1.010)",
        "1.250 (1.250-1.250)",
        "1.100 (1.100-1.100)",
        "1.500 (1.500-1.500)",
        "375 ns",
        "<= 1.05",
    ]


def test_many_rules_are_relative_to_few():
    """100 000 rules are compared with 2, neighbours with bare."""
    row = report.scale_table(_samples(), 2).rows[0]

    assert row[2:] == ["1.100 (1.100-1.100)", "<= 1.15", "1.020 (1.020-1.020)"]


def test_throughput_is_relative_to_bare():
    """A lower rate is a lower ratio."""
    row = report.throughput_table(_rates(), 1).rows[0]

    assert row[1] == "10.0 Gbit/s"
    assert row[5] == "0.667 (0.667-0.667)"


def test_noise_is_bare_against_itself():
    """The remark under the tables is about the second column alone."""
    remark = report.noise(_samples(), _rates())

    assert "UDP connect 1.0%, iperf3 1.0%" in remark


def test_every_row_fits_its_header():
    """Both forms of a table hold each cell once."""
    table = Table(title="T", note="N", header=["a", "bb"], rows=[["1", "2"], ["333", "4"]])

    assert as_text(table) == "T\nN\n\na    bb\n1    2\n333  4\n"
    assert as_markdown(table).splitlines()[4:] == [
        "| a | bb |",
        "| --- | --- |",
        "| 1 | 2 |",
        "| 333 | 4 |",
    ]
