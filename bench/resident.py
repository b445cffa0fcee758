# SPDX-License-Identifier: Apache-2.0
"""``python -m bench.resident POLICY``: put a wall in force and print the bytes resident with it."""

from __future__ import annotations

import sys
from pathlib import Path

from bench.ground import Ground
from bench.variants import Agentwall


def resident_bytes() -> int:
    """Return what is resident of this process now, shared libraries included."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status: expected VmRSS, got none")


if __name__ == "__main__":
    wall = Agentwall.from_file(Path(sys.argv[1]))
    # A wall needs a cgroup, not a namespace.
    with wall.prepare(Ground(near="", far="")) as place, place.in_force():
        print(resident_bytes())
