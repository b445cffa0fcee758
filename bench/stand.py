# SPDX-License-Identifier: Apache-2.0
"""``python -m bench.stand POLICY``: put a wall in force, and print as JSON what that took.

A process of its own, so that its memory is that of a wall and of nothing else.
"""

from __future__ import annotations

import enum
import itertools
import json
import sys
import time
from pathlib import Path

from agentwall.kernel.wall import Wall
from agentwall.policy.load import load_policy
from bench.ground import make_cgroup, run
from bench.walls import GENERATION, Agentwall, admitted


class Step(enum.Enum):
    """What has to be done until a policy is in force, in this order."""

    READ = "read"
    COMPILE = "compile"
    LOAD = "load"
    APPLY = "write rules"
    ADMIT = "admit"


def stand(policy_path: Path, cgroup: Path) -> dict[str, float]:
    """Put *cgroup* behind a policy.

    Returns:
        Seconds by the name of the step, and bytes of memory: ``maps`` (bytes_memlock, as the
        kernel accounts them), ``resident``, and ``peak``, the most that was ever resident.
    """
    marks = [time.perf_counter()]
    policy = load_policy(policy_path)
    marks.append(time.perf_counter())
    agentwall = Agentwall(policy)
    marks.append(time.perf_counter())
    with Wall.load() as wall:
        marks.append(time.perf_counter())
        wall.apply(GENERATION, agentwall.tables)
        marks.append(time.perf_counter())
        with admitted(wall, cgroup, agentwall.settings()):
            marks.append(time.perf_counter())
            memory = _memory_bytes()
            spans = itertools.pairwise(marks)
            steps = zip(Step, spans, strict=True)
            took = {step.name: end - start for step, (start, end) in steps}
            return {**took, **memory, "maps": _maps_bytes(cgroup)}


# Shared libraries included. VmHWM, unlike getrusage(2), leaves out what the parent held at fork.
def _memory_bytes() -> dict[str, int]:
    # Of one look: between two of them memory may be given back.
    lines = map(str.split, Path("/proc/self/status").read_text().splitlines())
    found = {words[0]: int(words[1]) * 1024 for words in lines if words[0].startswith("Vm")}
    return {"resident": found["VmRSS:"], "peak": found["VmHWM:"]}


def _maps_bytes(cgroup: Path) -> int:
    attached = json.loads(run("bpftool", "--json", "cgroup", "show", cgroup))
    ids: set[int] = set()
    for found in attached:
        program = json.loads(run("bpftool", "--json", "prog", "show", "id", str(found["id"])))
        ids.update(program.get("map_ids", ()))
    maps = (json.loads(run("bpftool", "--json", "map", "show", "id", str(i))) for i in ids)
    return sum(int(found["bytes_memlock"]) for found in maps)


if __name__ == "__main__":
    with make_cgroup() as made:
        print(json.dumps(stand(Path(sys.argv[1]), made)))
