# SPDX-License-Identifier: Apache-2.0
"""Nanoseconds per connect and sendto, every variant in every round, in rotating order."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.ground import FAR_ADDRESS, LOCAL_ADDRESS, LOOPBACK_ADDRESS, run
from bench.ratios import rotated
from bench.variants import PROBE_CPU, Place


@dataclass(frozen=True, slots=True)
class Operation:
    """What the probe times."""

    name: str
    """The probe's word for it."""
    title: str
    count: int
    """Timed operations in one sample: ten milliseconds or so."""


@dataclass(frozen=True, slots=True)
class Road:
    """Where the operation goes to."""

    title: str
    address: str
    is_far: bool
    """The listener is behind the veth."""


OPERATIONS = (
    Operation("tcp", "TCP connect + accept + close", 320),
    Operation("tcp-stream", "TCP, 64 KiB sent and read", 640),
    Operation("udp-sendto", "UDP sendto", 2_560),
    Operation("udp-connect", "UDP connect", 9_600),
)
ROADS = (
    Road("local address", LOCAL_ADDRESS, False),
    Road("across a veth", FAR_ADDRESS, True),
    Road("loopback", LOOPBACK_ADDRESS, False),
)

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
    if road.is_far:
        options += ["--listener-netns", f"/run/netns/{place.ground.far}"]
    # What else runs on this machine shall not take the processor in the middle of a batch.
    command = ["nice", "-n", "-20", str(probe), *options, operation.name, str(operation.count)]
    ns, operations = run(*place.ground.inside(*command)).split()
    return Sample(float(ns), int(operations))


def measure_latency(
    probe: Path,
    places: Mapping[str, Place],
    rounds: int,
    progress: Callable[[str], None],
) -> Samples:
    """Sample every operation and road at every place *rounds* times."""
    samples: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for number in range(rounds):
        progress(f"latency: round {number + 1} of {rounds}")
        for operation, road in itertools.product(OPERATIONS, ROADS):
            for name in rotated(list(places), number):
                with places[name].in_force():
                    found = sample(probe, operation, road, places[name])
                samples[operation.title, road.title, name].append(found.ns)
    return samples
