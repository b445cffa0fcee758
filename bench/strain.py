# SPDX-License-Identifier: Apache-2.0
"""A daemon under strain: flooded with denials, killed again and again, replaced under load."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from agentwall.errors import ControlError, DaemonNotRunningError
from bench.crowd import policy
from bench.ground import FAR_ADDRESS, lay_ground, run
from bench.hosted import POLICY, Hosted, hosted, sandbox
from bench.prober import Doors, Seen, listening, probing
from bench.throughput import iperf3_server

FLOODERS = 50
_DENIER = Path(__file__).with_name("denier.py")
_JOIN_AND_EXEC = 'echo 0 > "$1/cgroup.procs" && shift && exec "$@"'
_IPERF_S = 20
_IPERF_BEFORE_S = 4.0
_INTERVAL_S = 0.1


# --- Denials ------------------------------------------------------------------------------------


@dataclass(slots=True)
class Flood:
    """What came of it."""

    duration_s: float
    wanted_rate: int
    denied: int = 0
    """As the sandboxes counted."""
    counted: int = 0
    """As the daemon says."""
    wrong: int = 0
    """Attempts that were not refused, and permitted ones that were; must be zero."""
    late_ms: dict[str, float] = field(default_factory=dict)
    """Of a timer in another process: ``median``, ``p99`` and ``most``."""
    calm_ms: dict[str, float] = field(default_factory=dict)
    """The same before."""
    status_ms: list[float] = field(default_factory=list)
    processor_share: float = 0.0
    """Of the daemon, of one processor."""
    resident_bytes: int = 0


def measure_flood(
    directory: Path, rate: int, duration_s: float, progress: Callable[[str], None]
) -> Flood:
    """Have :data:`FLOODERS` sandboxes be refused *rate* times a second, together."""
    flood = Flood(duration_s, rate)
    progress(f"daemon: {rate} denials a second for {duration_s:g} s")
    with listening() as (doors, came), hosted(directory) as host, ExitStack() as stack:
        host.write(policy(doors))
        host.start()
        cgroups = [
            stack.enter_context(_admitted(host, f"flood-{number}")) for number in range(FLOODERS)
        ]
        calm = stack.enter_context(_admitted(host, "calm"))
        flood.calm_ms = json.loads(run(*_denier("watch", 3)))
        before_s = host.processor_s()
        with probing(calm, doors) as seen:
            _run_flood(flood, host, cgroups)
        flood.processor_share = (host.processor_s() - before_s) / duration_s
        flood.resident_bytes = host.resident_bytes()
        with host.client() as client:
            flood.counted = sum(
                int(str(each["denied"]))
                for each in client.sandboxes()
                if str(each["id"]).startswith("sandbox-flood-")
            )
    flood.wrong += seen.reached + seen.cut + seen.broken + came.reached
    return flood


def _denier(*arguments: object) -> list[str]:
    return [sys.executable, "-I", "-S", str(_DENIER), *map(str, arguments)]


def _run_flood(flood: Flood, host: Hosted, cgroups: list[Path]) -> None:
    rate = flood.wanted_rate // len(cgroups)
    pipe = subprocess.PIPE
    flooders = [
        subprocess.Popen(_denier("flood", cgroup, rate, flood.duration_s), stdout=pipe)
        for cgroup in cgroups
    ]
    watcher = subprocess.Popen(_denier("watch", flood.duration_s), stdout=pipe)
    end_s = time.monotonic() + flood.duration_s
    with host.client() as client:
        while time.monotonic() < end_s:
            begun_s = time.perf_counter()
            client.status()
            flood.status_ms.append((time.perf_counter() - begun_s) * 1e3)
            time.sleep(0.5)
    flood.late_ms = json.loads(watcher.communicate()[0])
    for flooder in flooders:
        found = json.loads(flooder.communicate()[0])
        flood.denied += found["denied"]
        flood.wrong += found["wrong"]


@contextmanager
def _admitted(host: Hosted, name: str) -> Iterator[Path]:
    with sandbox(host, name) as cgroup, subprocess.Popen(["sleep", "infinity"]) as process:
        try:
            (cgroup / "cgroup.procs").write_text(str(process.pid))
            with host.client() as client:
                client.admit(pid=process.pid, policy=POLICY)
            yield cgroup
        finally:
            process.kill()


# --- Kills --------------------------------------------------------------------------------------


@dataclass(slots=True)
class Kills:
    """What came of them."""

    while_switching: int = 0
    while_starting: int = 0
    switches: int = 0
    """Of policies and phases, before a kill."""
    kept: int = 0
    """Daemons that had adopted the sandbox, under its key."""
    seen: Seen = field(default_factory=Seen)
    """By a prober, throughout."""


def measure_kills(directory: Path, count: int, progress: Callable[[str], None]) -> Kills:
    """Kill *count* daemons, every other one while it starts, the others while they switch."""
    kills = Kills()
    with listening() as (doors, came), hosted(directory) as host:
        _write_phases(host, doors, 0)
        host.start()
        with _admitted(host, "kept") as cgroup:
            records = _records(host)
            with probing(cgroup, doors) as kills.seen:
                for number in range(count):
                    progress(f"daemon: kill {number + 1} of {count}")
                    _kill_one(host, doors, kills)
                    kills.kept += _has_kept(host, records)
    kills.seen.reached += came.reached
    return kills


def _records(host: Hosted) -> list[str]:
    return sorted(path.name for path in (host.state / "sandboxes").glob("*.json"))


def _has_kept(host: Hosted, records: list[str]) -> bool:
    # One that is written anew just now may be missing in a listing.
    is_there = all((host.state / "sandboxes" / name).exists() for name in records)
    return is_there and set(_records(host)) <= set(records)


def _write_phases(host: Hosted, doors: Doors, variant: int) -> None:
    host.write(
        policy(doors)
        + f"  - {{cidr: 198.51.100.{variant % 250}, ports: [{1 + variant}]}}\n"
        + "phases:\n  one: {deny: [{cidr: 192.0.2.0/24}]}\n"
        + f"  two: {{allow: [{{cidr: 192.0.2.{variant % 250}, ports: [any]}}]}}\n"
    )


def _kill_one(host: Hosted, doors: Doors, kills: Kills) -> None:
    if (kills.while_switching + kills.while_starting) % 2:
        host.kill()
        host.start(wait=False)
        time.sleep(random.uniform(0, 3))
        kills.while_starting += 1
    else:
        switcher = threading.Thread(target=_switch, args=(host, doors, kills))
        switcher.start()
        time.sleep(random.uniform(0.02, 0.6))
        host.kill()
        switcher.join()
        kills.while_switching += 1
    host.kill()
    host.start()


def _switch(host: Hosted, doors: Doors, kills: Kills) -> None:
    with contextlib.suppress(DaemonNotRunningError, ControlError), host.client() as client:
        while True:
            _write_phases(host, doors, random.randrange(250))
            client.reload(wait=False)
            for _ in range(8):
                for phase in ("two", "one"):
                    client.phase("sandbox-kept", phase)
                    kills.switches += 1


# --- Replacing it under load --------------------------------------------------------------------


@dataclass(slots=True)
class Upgrade:
    """One stream of iperf3 out of a sandbox; Gbit/s of each tenth of a second."""

    before: list[float]
    during: list[float]
    """While the next daemon started, loaded its programs and took the links over."""
    after: list[float]
    took_s: float


def measure_upgrade(directory: Path, progress: Callable[[str], None]) -> Upgrade:
    """Kill the daemon and start another in the middle of a stream."""
    progress("daemon: replaced under iperf3")
    with lay_ground() as ground, iperf3_server(ground), hosted(directory) as host:
        host.write(f"allow: [{{cidr: {FAR_ADDRESS}, ports: [any]}}]\n")
        host.start()
        with _admitted(host, "iperf") as cgroup:
            client = ["iperf3", "--client", FAR_ADDRESS, "--json", "--time", str(_IPERF_S)]
            client += ["--interval", str(_INTERVAL_S)]
            command = ground.inside("sh", "-c", _JOIN_AND_EXEC, "sh", cgroup, *client)
            with subprocess.Popen(command, stdout=subprocess.PIPE) as stream:
                time.sleep(_IPERF_BEFORE_S)
                host.kill()
                took_s = host.start()
                said = json.loads(stream.communicate(timeout=60)[0])
    if "error" in said:
        raise RuntimeError(f"iperf3: {said['error']}")
    rates = [each["sum"]["bits_per_second"] / 1e9 for each in said["intervals"]]
    start = int(_IPERF_BEFORE_S / _INTERVAL_S)
    end = start + int(took_s / _INTERVAL_S) + 2
    # Slow start belongs to no part.
    return Upgrade(rates[10 : start - 2], rates[start - 2 : end], rates[end:-1], took_s)
