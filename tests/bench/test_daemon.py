# SPDX-License-Identifier: Apache-2.0
"""What the daemon costs and stands: small runs of each measurement, and the tables of them."""

from __future__ import annotations

import pytest

from bench.crowd import BESIDE, LAST, NONE, ONE, Crowd, measure_crowd
from bench.daemon import crowd_table, flood_table, kills_table, upgrade_table
from bench.prober import Seen
from bench.strain import Flood, Kills, Upgrade, measure_flood, measure_kills
from bench.toolchain import build


@pytest.mark.kernel
@pytest.mark.slow
def test_a_crowd_is_measured(tmp_path):
    """Sandboxes are admitted, compared with one alone, and adopted by the next daemon."""
    crowd = measure_crowd(build(tmp_path / "built").probe, tmp_path / "crowd", 5, 0.1, _hush)

    assert len(crowd.admitted_ms) == crowd.adopted == 5
    assert set(crowd.connects) == {NONE, ONE, LAST, BESIDE + ONE, BESIDE + LAST}
    assert crowd.seen.rounds > 0
    assert (crowd.seen.reached, crowd.seen.cut, crowd.seen.broken) == (0, 0, 0)


@pytest.mark.kernel
@pytest.mark.slow
def test_strain_is_measured(tmp_path):
    """A flood is counted to the last denial, and killed daemons leave nothing open."""
    flood = measure_flood(tmp_path / "flood", 5000, 1, _hush)
    kills = measure_kills(tmp_path / "kills", 2, _hush)

    assert flood.denied > 0
    assert (flood.wrong, flood.counted) == (0, flood.denied)
    assert (kills.while_switching, kills.while_starting, kills.kept) == (1, 1, 2)
    assert (kills.seen.reached, kills.seen.cut, kills.seen.broken) == (0, 0, 0)


def _hush(_: str) -> None:
    pass


def test_tables():
    """Each says what was measured beside what is wanted."""
    crowd = Crowd(
        1000, admitted_ms=[1.0, 2.0, 9.0], inside_ms=[1.0], status_ms=[5.0], rest_share=0.005
    )
    crowd.connects = {NONE: [80.0], ONE: [110.0], LAST: [110.0]}
    crowd.connects |= {BESIDE + ONE: [100.0], BESIDE + LAST: [50.0]}
    flood = Flood(2, 100_000, denied=100, counted=99, status_ms=[1.0])
    flood.late_ms = flood.calm_ms = {"median": 0.1, "p99": 1.0, "most": 20.0}
    kills = Kills(while_switching=1, while_starting=1, kept=2, seen=Seen(rounds=7))
    upgrade = Upgrade([10.0, 10.0], [5.0, 0.0], [9.0, 11.0], 2.0)
    rows = {row[0]: row[1:] for row in crowd_table(crowd).rows}
    flooded = {row[0]: row[1:] for row in flood_table(flood).rows}
    killed = {row[0]: row[1:] for row in kills_table(kills).rows}

    assert rows["admission, request to links in force"] == ["2.0 ms (9.0)", "<= 5 ms"]
    assert rows["the last of all against one alone"] == ["2.000", "1.00"]
    assert rows["processor at rest, of one"] == ["0.50%", "< 1%"]
    assert flooded["denials a second"] == ["50", "100 000"]
    assert flooded["timer late, meanwhile"] == ["0.1 / 1.0 / 20 ms", "-"]
    assert killed["next daemon had the sandbox under its key"] == ["2", "2"]
    assert [row[1:] for row in upgrade_table(upgrade).rows] == [
        ["10.0 (10.0-10.0)", "1.00", "10.00", "0"],
        ["2.5 (1.2-3.8)", "0.25", "0.00", "1"],
        ["10.0 (9.5-10.5)", "1.00", "9.00", "0"],
    ]
