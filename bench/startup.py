# SPDX-License-Identifier: Apache-2.0
"""How long ``agentwall run -- true`` takes, and what memory a run holds."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from bench.policies import write_policy
from bench.ratios import Spread, paired_ratio, rotated, spread
from bench.tables import Table

WITHOUT = "run, nothing looked for"
SHIPPED = "run, shipped signatures, --tls off"
INSIDE = "run, shipped signatures, inside TLS too"
_PYTHON = "agentwall --version"
_OFF = "detect: {mining: off, tunnel: off, p2p: off}\n"
_LONG_ENOUGH = "0.5"
_BASE = (sys.executable, "-m", "agentwall")


@dataclass(frozen=True, slots=True)
class Started:
    """What one command took."""

    seconds: list[float] = field(default_factory=list)
    """From its start to its end, one a round."""
    processor: list[float] = field(default_factory=list)
    """Processor seconds of it and its children, user and system."""
    peak: list[float] = field(default_factory=list)
    """Bytes that its own process held at most, one a round."""


def measure_startup(
    scratch: Path, rounds: int, progress: Callable[[str], None]
) -> Mapping[str, Started]:
    """Run each command *rounds* times, in rotating order.

    Args:
        scratch: A directory to make.
        rounds: How often. Once more before that, untimed: what is compiled once is then kept.
        progress: Is told what is next.
    """
    scratch.mkdir()
    on = write_policy(scratch / "on")
    off = write_policy(scratch / "off")
    off.write_text(off.read_text() + _OFF)
    policies = {WITHOUT: off, SHIPPED: on, INSIDE: on}
    numbers = count()

    def command(name: str, *sandboxed: str) -> list[str]:
        if name not in policies:
            return [*_BASE, "--version"]
        events = scratch / f"{next(numbers)}.jsonl"
        options = ["--policy", policies[name], "--events", events, "--quiet"]
        options += ["--tls", "require" if name == INSIDE else "off"]
        return [*_BASE, "run", *map(str, options), "--", *sandboxed]

    names = [_PYTHON, *policies]
    found: Mapping[str, Started] = defaultdict(Started)
    for name in names:
        _timed(command(name, "true"))
    for number in range(rounds):
        progress(f"start-up: round {number + 1} of {rounds}")
        for name in rotated(names, number):
            took, processor = _timed(command(name, "true"))
            found[name].seconds.append(took)
            found[name].processor.append(processor)
            found[name].peak.append(_peak_bytes(command(name, "sleep", _LONG_ENOUGH)))
    return {name: found[name] for name in names}


def _timed(command: list[str]) -> tuple[float, float]:
    quiet = subprocess.DEVNULL
    begin, before = time.perf_counter(), os.times()
    subprocess.run(command, check=True, stdout=quiet, stderr=quiet)
    after = os.times()
    processor = (after.children_user - before.children_user) + (
        after.children_system - before.children_system
    )
    return time.perf_counter() - begin, processor


def _peak_bytes(command: list[str]) -> float:
    """Return the last VmHWM that was seen of a command's own process."""
    peak = 0
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=quiet, stderr=quiet) as process:
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            for line in status.read_text().splitlines():
                if line.startswith("VmHWM:"):
                    peak = int(line.split()[1]) * 1024
            time.sleep(0.01)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: exit {process.returncode}")
    return float(peak)


def startup_table(started: Mapping[str, Started]) -> Table:
    """Return one row a command."""
    rounds = max(len(one.seconds) for one in started.values())
    without = started[WITHOUT].processor
    return Table(
        title="Starting a run",
        note="`agentwall run -- true` with the wall's programs loaded and verified each time, and "
        "its automaton from the cache; the first time it is compiled. 'inside TLS too' has probes "
        "compiled in a child, which ends before the command begins. 'processor' is user and "
        "system time of it and its children, and the ratio is of that. 'start to end' holds "
        "waiting for other sandboxes that start or end meanwhile. 'peak' is the most that the "
        f"process of agentwall ever held resident. Medians of {rounds} and quartiles; each is a "
        "process of its own.",
        header=[
            *("command", "start to end", "processor", "against nothing looked for", "peak"),
        ],
        rows=[
            [
                name,
                _milliseconds(spread(one.seconds)),
                _milliseconds(spread(one.processor)),
                _ratio(paired_ratio(one.processor, without)),
                f"{spread(one.peak).median / 1e6:.1f} MB",
            ]
            for name, one in started.items()
        ],
    )


def _milliseconds(value: Spread) -> str:
    return f"{value.median * 1e3:.0f} ms ({value.low * 1e3:.0f}-{value.high * 1e3:.0f})"


def _ratio(value: Spread) -> str:
    return f"{value.median:.3f} ({value.low:.3f}-{value.high:.3f})"
