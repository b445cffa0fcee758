# SPDX-License-Identifier: Apache-2.0
"""How long it takes until the wall stands, and what memory it holds."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench.ground import run
from bench.ratios import Spread, spread
from bench.stand import Step
from bench.tables import Table

RULES_TARGET_S = 5
"""At most: read, compiled and written, 100 000 addresses and as many names."""
PEAK_TARGET_MB = 500
"""At most: resident meanwhile, of the same."""
_RULES = (Step.READ, Step.COMPILE, Step.APPLY)

Footprints = Mapping[str, Sequence[Mapping[str, float]]]
"""What :func:`bench.stand.stand` returned each time, by the title of the policy."""


def measure_footprint(
    policies: Mapping[str, Path], rounds: int, progress: Callable[[str], None]
) -> Footprints:
    """Put each of *policies*, files by title, in force *rounds* times, each in a process."""
    found: dict[str, list[Mapping[str, float]]] = {title: [] for title in policies}
    for number in range(rounds):
        progress(f"footprint: round {number + 1} of {rounds}")
        for title, path in policies.items():
            found[title].append(json.loads(run(sys.executable, "-m", "bench.stand", path)))
    return found


def footprint_table(footprints: Footprints) -> Table:
    """Return one row a policy."""
    rounds = max(len(runs) for runs in footprints.values())
    return Table(
        title="Until the wall stands, and what it holds",
        note="'load' is the BPF object, verified; 'admit' is attach, bind and activate: what one "
        "more sandbox takes. 'rules' is read, compile and write. 'kernel maps' is what the kernel "
        "accounts to them; 'resident' is the process that holds the wall, Python included, and "
        f"'peak' the most it ever held. Targets, for the last row: rules <= {RULES_TARGET_S} s, "
        f"peak <= {PEAK_TARGET_MB} MB. Medians of {rounds} and quartiles; each is a process of "
        "its own.",
        header=[
            *("policy", *(step.value for step in Step), "rules", "all"),
            *("kernel maps", "resident", "peak"),
        ],
        rows=[_row(title, runs) for title, runs in footprints.items()],
    )


def _row(title: str, runs: Sequence[Mapping[str, float]]) -> list[str]:
    return [
        title,
        *(_milliseconds(spread([one[step.name] for one in runs])) for step in Step),
        _milliseconds(spread([sum(one[step.name] for step in _RULES) for one in runs])),
        _milliseconds(spread([sum(one[step.name] for step in Step) for one in runs])),
        *(_megabytes([one[key] for one in runs]) for key in ("maps", "resident", "peak")),
    ]


def _milliseconds(value: Spread) -> str:
    return f"{value.median * 1e3:.1f} ms ({value.low * 1e3:.1f}-{value.high * 1e3:.1f})"


def _megabytes(samples: Sequence[float]) -> str:
    return f"{spread(samples).median / 1e6:.1f} MB"
