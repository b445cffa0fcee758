# SPDX-License-Identifier: Apache-2.0
"""Tables say what was measured against what."""

from __future__ import annotations

import pytest

from bench import course, report, report_inspection
from bench.course import LEGS, PROFILED_LEGS
from bench.events import KINDS, events_table
from bench.footprint import footprint_table
from bench.programs import Cost
from bench.stand import Step
from bench.tables import Table, as_markdown, as_text
from bench.throughput import DIRECTIONS

_FACTORS = {
    course.BARE: 1.0,
    course.AGAIN: 1.01,
    course.EMPTY: 1.25,
    course.NFTABLES: 1.2,
    course.AGENTWALL: 1.5,
    course.INSPECTED: 1.6,
    course.FEW_SIGNATURES: 2.0,
    course.MANY_SIGNATURES: 2.0,
    course.TEN_THOUSAND: 1.8,
    course.BESIDE: 1.02,
    course.FEW: 1.65,
    course.MANY: 1.98,
    course.FEW_BY_NAME: 2.0,
    course.MANY_BY_NAME: 2.2,
}


def _samples():
    """Two rounds, the second on a machine half as fast."""
    return {
        (leg.operation.title, leg.road.title, name): [1000.0 * factor, 2000.0 * factor]
        for leg in LEGS
        for name, factor in _FACTORS.items()
        if name in leg.variants
    }


def _rates():
    names = course.THROUGHPUT_VARIANTS
    return {(way, name): [10 / _FACTORS[name]] for way in DIRECTIONS for name in names}


def _steady(ratio):
    return f"{ratio:.3f} ({ratio:.3f}-{ratio:.3f})"


def test_latency_is_relative_to_bare():
    """Every variant stands beside bare, and our own part is what lies above empty programs."""
    row = report.latency_table(_samples(), 2).rows[0]

    assert row == [
        "TCP connect + accept + close",
        "local address",
        "1500 ns",
        "1.010 (1.010-1.010)",
        "1.250 (1.250-1.250)",
        "1.200 (1.200-1.200)",
        "1.500 (1.500-1.500)",
        "1.600 (1.600-1.600)",
        "375 ns",
        "<= 1.05",
    ]


def test_ten_thousand_entries_are_relative_to_nftables():
    """Both stand beside bare and beside each other, on each road that rules judge."""
    table = report.entries_table(_samples(), 2)

    assert table.rows[0][2:] == [_steady(1.2), _steady(1.8), _steady(1.5)]
    assert len(table.rows) == 8


def test_many_rules_are_relative_to_few():
    """Permitted by address and by name, each against few of the same."""
    row = report.scale_table(_samples(), 2).rows[0]

    assert row[1:] == [_steady(1.2), _steady(1.1), "<= 1.15"]


def test_names_are_relative_to_none():
    """What they cost a flow that is permitted by address, and one permitted by name."""
    row = report.names_table(_samples(), 2).rows[0]

    assert row[1:] == ["2250 ns", _steady(1.1), _steady(4 / 3), "750 ns"]


def test_lookups_are_relative_to_bare():
    """One row a variant: the time, the ratio and the difference."""
    rows = report.lookup_table(_samples(), 2).rows

    assert rows[0] == ["bare", "1500 ns", _steady(1), "0 ns"]
    assert rows[3] == ["10 + 10, by name", "3000 ns", _steady(2), "1500 ns"]


def test_neighbours_are_relative_to_bare():
    """They have no programs of their own."""
    assert report.neighbours_table(_samples(), 2).rows[0][1:] == [_steady(1.02)]


def test_throughput_is_relative_to_bare():
    """A lower rate is a lower ratio."""
    row = report.throughput_table(_rates(), 1).rows[0]

    assert row[1] == "10.0 Gbit/s"
    assert row[5:8] == [_steady(2 / 3), _steady(1 / 1.6), _steady(5 / 9)]
    assert row[8:] == [">= 0.97", _steady(1.5 / 1.6), _steady(2 / 3)]


def test_signatures_are_relative_to_the_wall_without():
    """New flows that say something come first, beside bare and beside the wall alone."""
    table = report_inspection.inspection_table(_samples(), 2)

    assert table.rows[0] == [
        "TCP connect, HTTP request and answer, close",
        "local address",
        "1500 ns",
        _steady(1.01),
        _steady(1.25),
        _steady(1.5),
        _steady(1.6),
        _steady(1.6 / 1.5),
        "150 ns",
    ]
    assert len(table.rows) == 12


def test_bytes_are_told_above_the_wall():
    """Connecting is in both, so it is taken off: what is left is the reading."""
    costs = {
        (course.LINES.title, "cgroup_inet_egress", name): Cost(runs=2, ns=ns)
        for name, ns in (
            (course.AGENTWALL, 100.0),
            (course.INSPECTED, 100.0 + 32_768),
            (course.FEW_SIGNATURES, 100.0 + 65_536),
            (course.MANY_SIGNATURES, 100.0 + 65_536),
        )
    }

    rows = report_inspection.bytes_table(_samples(), costs, 2).rows

    assert [row[0] for row in rows] == ["shipped", "50 signatures", "1 000 signatures"]
    assert [row[3] for row in rows] == [_steady(0.2), _steady(1), _steady(1)]
    assert [row[4:] for row in rows] == [
        ["1.00 ns", "0.500", "-"],
        ["2.00 ns", "1.000", "-"],
        ["2.00 ns", "1.000", "1.0"],
    ]


def test_signatures_time_is_told_by_hook():
    """An operation's time at a hook, above the wall's; hooks that read nothing are left out."""
    title = course.TALKS[0].title
    costs = {
        (title, hook, name): Cost(runs=2, ns=ns)
        for hook in ("cgroup_inet_egress", "cgroup_inet4_connect")
        for name, ns in ((course.EMPTY, 50.0), (course.AGENTWALL, 100.0), (course.INSPECTED, 400.0))
    }

    rows = report_inspection.inspected_programs_table(costs).rows

    assert rows == [[title, "cgroup_inet_egress", "2.00", "50 ns", "100 ns", "400 ns", "600 ns"]]


def test_programs_are_relative_to_empty_ones():
    """What a hook takes is runs times what a run takes above an empty program's."""
    costs = {
        (leg.operation.title, hook, name): Cost(runs, 50 * _FACTORS[name])
        for leg in PROFILED_LEGS
        for name in leg.variants
        for hook, runs in (("often", 4.0), ("at the start", 0.01))
    }

    rows = report.programs_table(costs).rows

    assert rows[0][1:] == ["often", "4.00", "62 ns", "75 ns", "100 ns", "50 ns", "150 ns"]
    assert rows[-1][1:] == ["often", "4.00", "62 ns", "-", "100 ns", "-", "150 ns"]
    assert len(rows) == 5


def test_footprint_sums_steps():
    """Rules are read, compiled and written; everything is each step."""
    took = dict.fromkeys((step.name for step in Step), 0.25)
    row = footprint_table({"P": [{**took, "maps": 2e6, "resident": 3e6, "peak": 4e6}]}).rows[0]

    assert row[0] == "P"
    assert row[6:8] == ["750.0 ms (750.0-750.0)", "1250.0 ms (1250.0-1250.0)"]
    assert row[8:] == ["2.0 MB", "3.0 MB", "4.0 MB"]


def test_events_are_told_by_kind():
    """Thousands are set apart, as numbers of six digits are hard to compare."""
    table = events_table({KINDS[0]: [200_000.0, 210_000.0, 220_000.0]})

    assert table.rows == [
        ["permitted by address", "210 000 (205 000-215 000)", ">= 200000"],
    ]


@pytest.mark.parametrize("leg", [*LEGS, *PROFILED_LEGS], ids=lambda leg: leg.operation.name)
def test_legs_name_each_variant_once(leg):
    """A variant that a leg named twice would be sampled twice a round."""
    assert len(set(leg.variants)) == len(leg.variants)
    assert set(leg.variants) <= set(_FACTORS)


def test_noise_is_bare_against_itself():
    """The remark under the tables is about the second column alone."""
    remark = report.noise(_samples(), _rates())

    assert "UDP connect 1.0%, DNS question and answer 1.0%, iperf3 1.0%" in remark


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
