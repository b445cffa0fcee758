# SPDX-License-Identifier: Apache-2.0
"""Nanoseconds per BPF program run, by the kernel's own run statistics: where the time goes."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.course import Leg
from bench.ground import run
from bench.latency import sample
from bench.ratios import spread
from bench.variants import Place

_SWITCH = Path("/proc/sys/kernel/bpf_stats_enabled")


@dataclass(frozen=True, slots=True)
class Cost:
    """What one program costs one operation."""

    runs: float
    """Per operation."""
    ns: float
    """Per run. Holds the two clock reads of the statistics, which empty programs show too."""


Costs = Mapping[tuple[str, str, str], Cost]
"""By (operation title, attach type, variant name); programs that did not run are left out."""

_Totals = dict[str, tuple[int, int]]


@contextmanager
def _statistics() -> Iterator[None]:
    before = _SWITCH.read_text()
    _SWITCH.write_text("1")
    try:
        yield
    finally:
        _SWITCH.write_text(before)


def _totals(cgroup: Path) -> _Totals:
    # (runs, ns) by attach type; the kernel leaves both out of a program that never ran.
    totals: _Totals = {}
    for attached in json.loads(run("bpftool", "--json", "cgroup", "show", cgroup)):
        program = json.loads(run("bpftool", "--json", "prog", "show", "id", str(attached["id"])))
        figures = program.get("run_cnt", 0), program.get("run_time_ns", 0)
        totals[attached["attach_type"]] = figures
    return totals


def measure_programs(
    probe: Path,
    places: Mapping[str, Place],
    legs: Sequence[Leg],
    rounds: int,
    progress: Callable[[str], None],
) -> Costs:
    """Run every leg under each of its variants with run statistics on."""
    runs: Counter[tuple[str, str, str]] = Counter()
    operations: Counter[tuple[str, str]] = Counter()
    ns: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    courses = [(leg, name) for leg in legs for name in leg.variants]
    with _statistics():
        for number in range(rounds):
            progress(f"programs: round {number + 1} of {rounds}")
            for leg, name in courses:
                place, title = places[name], leg.operation.title
                with place.in_force():
                    before = _totals(place.cgroup)
                    found = sample(probe, leg.operation, leg.road, place)
                    after = _totals(place.cgroup)
                operations[title, name] += found.operations
                for hook, (count, spent) in after.items():
                    done = count - before[hook][0]
                    if done:
                        runs[title, hook, name] += done
                        average = (spent - before[hook][1]) / done
                        ns[title, hook, name].append(average)
    return {
        key: Cost(runs[key] / operations[key[0], key[2]], spread(samples).median)
        for key, samples in ns.items()
    }
