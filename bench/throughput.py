# SPDX-License-Identifier: Apache-2.0
"""Gigabits per second of one TCP stream across the veth, measured by iperf3."""

from __future__ import annotations

import json
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

from bench.ground import FAR_ADDRESS, Ground, run
from bench.ratios import rotated
from bench.variants import OTHER_CPU, PROBE_CPU, Place

DIRECTIONS = {"out of the sandbox": (), "into the sandbox": ("--reverse",)}
_UNDISTURBED = ("nice", "-n", "-20")
_START_S = 5.0

Rates = Mapping[tuple[str, str], list[float]]
"""Gbit/s by (direction, variant name), one a round."""


@contextmanager
def iperf3_server(ground: Ground) -> Iterator[None]:
    """Let iperf3 listen at the far address for the length of the block."""
    command = ground.outside(*_UNDISTURBED, "iperf3", "--server", "--bind", FAR_ADDRESS)
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=quiet, stderr=quiet) as server:
        try:
            _await_listener(ground)
            yield
        finally:
            server.terminate()


def _await_listener(ground: Ground) -> None:
    deadline = time.monotonic() + _START_S
    while FAR_ADDRESS not in run(*ground.outside("ss", "-Hltn", "sport", "=", ":5201")):
        if time.monotonic() > deadline:
            raise RuntimeError(f"iperf3 --server: not listening after {_START_S} s")
        time.sleep(0.02)


def _rate(place: Place, options: tuple[str, ...], duration_s: int) -> float:
    client = [*_UNDISTURBED, "iperf3", "--client", FAR_ADDRESS, "--json"]
    client += ["--time", str(duration_s), "--affinity", f"{PROBE_CPU},{OTHER_CPU}", *options]
    result = json.loads(run(*place.within(*client)))
    return float(result["end"]["sum_received"]["bits_per_second"]) / 1e9


def measure_throughput(
    places: Mapping[str, Place], rounds: int, duration_s: int, progress: Callable[[str], None]
) -> Rates:
    """Sample every direction at every place *rounds* times, *duration_s* seconds each."""
    rates: dict[tuple[str, str], list[float]] = defaultdict(list)
    with ExitStack() as servers:
        for place in places.values():
            servers.enter_context(iperf3_server(place.ground))
        for number in range(rounds):
            progress(f"throughput: round {number + 1} of {rounds}")
            for direction, options in DIRECTIONS.items():
                for name in rotated(list(places), number):
                    with places[name].in_force():
                        rate = _rate(places[name], options, duration_s)
                    rates[direction, name].append(rate)
    return rates
