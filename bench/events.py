# SPDX-License-Identifier: Apache-2.0
"""Events per second that one core takes out of a ring, decodes and counts."""

from __future__ import annotations

import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass

from agentwall.kernel.wall import Wall
from bench.ground import lay_ground, make_cgroup, run
from bench.ratios import Spread, spread
from bench.resolver import name_server
from bench.tables import Table
from bench.variants import Place
from bench.walls import GENERATION, Agentwall, admitted, resolve

TARGET = 200_000
"""At least so many a second."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Events that :mod:`bench.flood` makes."""

    title: str
    flood: str
    count: int
    """Nearly fills the ring, which holds 1 MiB."""
    target: str


KINDS = (
    Kind("permitted by address", "by-address", 6_000, f">= {TARGET}"),
    Kind("permitted by name", "by-name", 6_000, f">= {TARGET}"),
    Kind("refused address", "refused", 6_000, f">= {TARGET}"),
    Kind("refused question", "question", 2_000, "-"),
)

Rates = Mapping[Kind, list[float]]
"""Events a second, one a round."""


def measure_events(agentwall: Agentwall, rounds: int, progress: Callable[[str], None]) -> Rates:
    """Fill a ring and empty it, *rounds* times for each kind.

    Args:
        agentwall: Has to permit the local address by name, which it resolves, and the far address
            by address.
        rounds: How often.
        progress: Is told what is next.
    """
    rates: dict[Kind, list[float]] = defaultdict(list)
    # Unlike a variant's, this wall has no reader: the events shall wait.
    with lay_ground() as ground, name_server(ground), make_cgroup() as cgroup, Wall.load() as wall:
        wall.apply(GENERATION, agentwall.tables)
        place = Place(ground, cgroup, nullcontext)
        for number in range(rounds):
            progress(f"events: round {number + 1} of {rounds}")
            for kind in KINDS:
                rates[kind].append(_rate(agentwall, wall, place, kind))
    return rates


def _rate(agentwall: Agentwall, wall: Wall, place: Place, kind: Kind) -> float:
    with admitted(wall, place.cgroup, place.ground.call(agentwall.settings)):
        if agentwall.resolving:
            resolve(agentwall.resolving, place)
        wall.attempts()
        run(*place.within(sys.executable, "-m", "bench.flood", kind.flood, str(kind.count)))
        start = time.perf_counter()
        attempts = wall.attempts()
        counted = Counter((one.verdict, one.code, one.name) for one in attempts)
        took_s = time.perf_counter() - start
        wall.totals()
    if kind.count not in counted.values():
        raise RuntimeError(f"{kind.title}: expected {kind.count} of one sort, got {counted}")
    return len(attempts) / took_s


def events_table(rates: Rates) -> Table:
    """Return one row a kind."""
    rounds = max(len(found) for found in rates.values())
    return Table(
        title="Events",
        note="How many events a second one core takes out of the kernel's ring, decodes, with "
        "names and questions, and counts. Each is of another port, so that no endpoint repeats. "
        f"Medians of {rounds} full rings and quartiles.",
        header=["event", "events a second", "target"],
        rows=[
            [kind.title, _thousands(spread(found)), kind.target] for kind, found in rates.items()
        ],
    )


def _thousands(value: Spread) -> str:
    return f"{value.median:,.0f} ({value.low:,.0f}-{value.high:,.0f})".replace(",", " ")
