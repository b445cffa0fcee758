# SPDX-License-Identifier: Apache-2.0
"""How long it takes until the wall stands, and what memory it holds."""

from __future__ import annotations

import enum
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agentwall.kernel.wall import Wall
from agentwall.policy.load import load_policy
from bench.ground import make_cgroup, run
from bench.ratios import Spread, spread
from bench.tables import Table
from bench.variants import GENERATION, Agentwall

_REPEATS = 9


class Step(enum.Enum):
    """What has to be done until a policy is in force, in this order."""

    READ = "read"
    COMPILE = "compile"
    LOAD = "load"
    APPLY = "write rules"
    ADMIT = "admit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Of one policy."""

    title: str
    steps_s: Mapping[Step, Spread]
    total_s: Spread
    maps_bytes: int
    """What the kernel says its maps take (bytes_memlock)."""
    resident_bytes: int
    """Of a process that holds the wall in force and reads its events."""


def measure_footprint(
    policies: Sequence[tuple[str, Path]], progress: Callable[[str], None]
) -> list[Footprint]:
    """Measure each of *policies*, a title and a file."""
    return [_measure(title, path, progress) for title, path in policies]


def _measure(title: str, path: Path, progress: Callable[[str], None]) -> Footprint:
    progress(f"footprint: {title}")
    durations: list[dict[Step, float]] = []
    for _ in range(_REPEATS):
        with make_cgroup() as cgroup, _timed(path, cgroup) as found:
            durations.append(found)
            maps_bytes = _maps_bytes(cgroup)
    return Footprint(
        title=title,
        steps_s={step: spread([found[step] for found in durations]) for step in Step},
        total_s=spread([sum(found.values()) for found in durations]),
        maps_bytes=maps_bytes,
        resident_bytes=_resident_bytes(path),
    )


@contextmanager
def _timed(path: Path, cgroup: Path) -> Iterator[dict[Step, float]]:
    marks = [time.perf_counter()]
    policy = load_policy(path)
    marks.append(time.perf_counter())
    agentwall = Agentwall(policy)
    marks.append(time.perf_counter())
    with Wall.load() as wall:
        marks.append(time.perf_counter())
        wall.apply(GENERATION, agentwall.tables)
        marks.append(time.perf_counter())
        with agentwall.admitted(wall, cgroup):
            marks.append(time.perf_counter())
            yield {
                step: end - start
                for step, (start, end) in zip(Step, itertools.pairwise(marks), strict=True)
            }


def _maps_bytes(cgroup: Path) -> int:
    attached = json.loads(run("bpftool", "--json", "cgroup", "show", cgroup))
    ids: set[int] = set()
    for found in attached:
        program = json.loads(run("bpftool", "--json", "prog", "show", "id", str(found["id"])))
        ids.update(program.get("map_ids", ()))
    maps = (json.loads(run("bpftool", "--json", "map", "show", "id", str(i))) for i in ids)
    return sum(int(found["bytes_memlock"]) for found in maps)


# In a process of its own: this one holds a good deal more than a wall.
def _resident_bytes(policy: Path) -> int:
    command = [sys.executable, "-m", "bench.resident", str(policy)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout)


def footprint_table(footprints: Sequence[Footprint]) -> Table:
    """Return one row a policy."""
    rows = [
        [
            of.title,
            *(_milliseconds(of.steps_s[step]) for step in Step),
            _milliseconds(of.total_s),
            f"{of.maps_bytes / 2**20:.1f} MiB",
            f"{of.resident_bytes / 2**20:.1f} MiB",
        ]
        for of in footprints
    ]
    return Table(
        title="Until the wall stands, and what it holds",
        note="'load' is the BPF object, verified; 'admit' is attach, bind and activate: what one "
        "more sandbox takes. 'kernel maps' is what the kernel accounts to them; 'resident' is the "
        f"process that holds the wall, Python included. Medians of {_REPEATS} and quartiles.",
        header=["policy", *(step.value for step in Step), "all", "kernel maps", "resident"],
        rows=rows,
    )


def _milliseconds(value: Spread) -> str:
    return f"{value.median * 1e3:.1f} ms ({value.low * 1e3:.1f}-{value.high * 1e3:.1f})"
