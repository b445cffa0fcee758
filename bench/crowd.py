# SPDX-License-Identifier: Apache-2.0
"""Many sandboxes behind one daemon: admitting them, connecting from one, resting, adopting."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from bench.course import LOCAL, OPERATIONS
from bench.ground import LOCAL_ADDRESS, Ground, lay_ground, make_cgroup
from bench.hosted import POLICY, Hosted, hosted, sandbox, settle
from bench.latency import sample
from bench.prober import Doors, Seen, listening, probing
from bench.variants import Place

_TCP = OPERATIONS[0]
_CONNECT_ROUNDS = 15
_STATUS_ROUNDS = 20
_ROUND_S = 16.0
"""Until the daemon has looked at each sandbox once."""


@dataclass(slots=True)
class Crowd:
    """What was measured."""

    sandboxes: int
    admitted_ms: list[float] = field(default_factory=list)
    """From the request on the control socket to its answer: links in force."""
    inside_ms: list[float] = field(default_factory=list)
    """Of that, what the daemon itself took."""
    connects: dict[str, list[float]] = field(default_factory=dict)
    """Nanoseconds of connect, accept and close, by :data:`NONE`, :data:`ONE` and :data:`LAST`;
    and the same outside of every sandbox, by ``beside`` and that."""
    status_ms: list[float] = field(default_factory=list)
    list_ms: float = 0.0
    empty_bytes: int = 0
    """Resident without a sandbox."""
    resident_bytes: int = 0
    rest_share: float = 0.0
    """Of a processor, at rest."""
    adopted_s: float = 0.0
    """From its start until the next daemon answered, which then has all of them."""
    start_s: float = 0.0
    """The same where there is nothing to adopt."""
    adopted: int = 0
    seen: Seen = field(default_factory=Seen)
    """By a prober in one of them while the daemon was killed and the next one adopted them."""


NONE, ONE, LAST = "none", "one sandbox", "the last of all"
BESIDE = "beside "


def policy(doors: Doors) -> str:
    """Return what permits the probe's address and the prober's door."""
    return (
        f"allow:\n  - {{cidr: {LOCAL_ADDRESS}/32, ports: [any]}}\n"
        f"  - {{cidr: 127.0.0.1, ports: [{doors.permitted}, udp/{doors.permitted}]}}\n"
    )


def measure_crowd(
    probe: Path, directory: Path, count: int, rest_s: float, progress: Callable[[str], None]
) -> Crowd:
    """Admit *count* sandboxes, let them rest *rest_s*, kill the daemon and start another."""
    crowd = Crowd(count)
    with listening() as (doors, came), lay_ground() as ground, hosted(directory) as host:
        host.write(policy(doors))
        with make_cgroup() as outside:
            beside = Place(ground, outside, nullcontext)
            _connect(crowd, probe, NONE, {NONE: beside})
            crowd.start_s = host.start()
            crowd.empty_bytes = host.resident_bytes()
            with _settled(host, count) as pids:
                _admit(host, crowd, pids[:1])
                first, last = (_place(ground, host, number) for number in (0, count - 1))
                _connect(crowd, probe, ONE, {ONE: first, BESIDE + ONE: beside})
                progress(f"daemon: admitting {count} sandboxes")
                _admit(host, crowd, pids[1:])
                _connect(crowd, probe, LAST, {LAST: last, BESIDE + LAST: beside})
                progress(f"daemon: at rest for {rest_s:g} s")
                _rest(host, crowd, rest_s)
                progress("daemon: adopting")
                _adopt(host, crowd, doors)
    crowd.seen.reached += came.reached
    return crowd


def _place(ground: Ground, host: Hosted, number: int) -> Place:
    return Place(ground, host.scope / f"sandbox-{number}", nullcontext)


@contextmanager
def _settled(host: Hosted, count: int) -> Iterator[list[int]]:
    """Make *count* cgroups with a process each."""
    pids: list[int] = []
    with contextlib.ExitStack() as stack:
        try:
            for number in range(count):
                cgroup = stack.enter_context(sandbox(host, str(number)))
                pids.append(settle(cgroup, "sleep", "infinity"))
            yield pids
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def _admit(host: Hosted, crowd: Crowd, pids: list[int]) -> None:
    with host.client() as client:
        for pid in pids:
            begun_s = time.perf_counter()
            answer = client.admit(pid=pid, policy=POLICY)
            crowd.admitted_ms.append((time.perf_counter() - begun_s) * 1e3)
            crowd.inside_ms.append(float(str(answer["took_ms"])))


def _connect(crowd: Crowd, probe: Path, what: str, places: dict[str, Place]) -> None:
    for name in places:
        crowd.connects[name] = []
    for _ in range(_CONNECT_ROUNDS):
        for name, place in places.items():
            crowd.connects[name].append(sample(probe, _TCP, LOCAL, place).ns)
    assert what in crowd.connects


def _rest(host: Hosted, crowd: Crowd, rest_s: float) -> None:
    with host.client() as client:
        for _ in range(_STATUS_ROUNDS):
            begun_s = time.perf_counter()
            client.status()
            crowd.status_ms.append((time.perf_counter() - begun_s) * 1e3)
        begun_s = time.perf_counter()
        client.sandboxes()
        crowd.list_ms = (time.perf_counter() - begun_s) * 1e3
    time.sleep(min(_ROUND_S, rest_s))
    before_s = host.processor_s()
    time.sleep(rest_s)
    crowd.rest_share = (host.processor_s() - before_s) / rest_s
    crowd.resident_bytes = host.resident_bytes()


def _adopt(host: Hosted, crowd: Crowd, doors: Doors) -> None:
    with probing(host.scope / "sandbox-0", doors) as crowd.seen:
        time.sleep(0.5)
        host.kill()
        crowd.adopted_s = host.start()
    with host.client() as client:
        crowd.adopted = sum(each["admission"] == "adopted" for each in client.sandboxes())
