# SPDX-License-Identifier: Apache-2.0
"""Nanoseconds per operation, every variant in every round, in rotating order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.course import Leg, Operation, Road
from bench.ground import run
from bench.policies import PERMITTED_NAME
from bench.ratios import rotated
from bench.variants import PROBE_CPU, Place

Samples = Mapping[tuple[str, str, str], list[float]]
"""Nanoseconds by (operation title, road title, variant name), one a round."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of the probe."""

    ns: float
    """Per operation, the median of the run's batches."""
    operations: int
    """All that were done, warm-up included."""


def sample(probe: Path, operation: Operation, road: Road, place: Place) -> Sample:
    """Run *probe* at *place*: time *operation* over *road*."""
    options = ["--address", road.address, "--cgroup", str(place.cgroup), "--cpu", str(PROBE_CPU)]
    options += ["--name", PERMITTED_NAME]
    if road.is_far:
        options += ["--listener-netns", f"/run/netns/{place.ground.far}"]
    # What else runs on this machine shall not take the processor in the middle of a batch.
    command = ["nice", "-n", "-20", str(probe), *options, operation.name, str(operation.count)]
    ns, operations = run(*place.ground.inside(*command)).split()
    return Sample(float(ns), int(operations))


def measure_latency(
    probe: Path,
    places: Mapping[str, Place],
    legs: Sequence[Leg],
    rounds: int,
    progress: Callable[[str], None],
) -> Samples:
    """Sample every leg under each of its variants *rounds* times."""
    samples: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for number in range(rounds):
        progress(f"latency: round {number + 1} of {rounds}")
        for leg in legs:
            for name in rotated(list(leg.variants), number):
                with places[name].in_force():
                    found = sample(probe, leg.operation, leg.road, places[name])
                samples[leg.operation.title, leg.road.title, name].append(found.ns)
    return samples
