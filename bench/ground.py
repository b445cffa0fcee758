# SPDX-License-Identifier: Apache-2.0
"""The ground the benchmark runs on: two network namespaces of its own and cgroups of its own.

``near`` is where the measured command lives, ``far`` holds the servers behind a veth. Everything
is named after this process and taken down again.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from agentwall.host import libc
from agentwall.kernel.cgroup2 import own_cgroup

LOOPBACK_ADDRESS = "127.0.0.1"
LOCAL_ADDRESS = "198.51.100.1"
"""On the near side's lo, yet no loopback address: rules judge it, and no device slows it down."""
FAR_ADDRESS = "203.0.113.2"
"""Behind the veth."""
NEAR_ADDRESS = "203.0.113.1"

_SETTLE_S = 60.0
_CLONE_NEWNET = 0x4000_0000
_T = TypeVar("_T")
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """The two namespaces."""

    near: str
    far: str

    def inside(self, *command: str | Path) -> list[str]:
        """Return *command* as run in the near namespace."""
        return ["nsenter", f"--net=/run/netns/{self.near}", *map(str, command)]

    def outside(self, *command: str | Path) -> list[str]:
        """Return *command* as run in the far namespace."""
        return ["nsenter", f"--net=/run/netns/{self.far}", *map(str, command)]

    def call(self, function: Callable[[], _T]) -> _T:
        """Call *function* in the near namespace, on a thread of its own, and return its result."""
        outcome: list[_T] = []
        errors: list[Exception] = []

        def enter_and_call() -> None:
            try:
                with open(f"/run/netns/{self.near}", "rb") as namespace:
                    libc.setns(namespace.fileno(), _CLONE_NEWNET)
                outcome.append(function())
            except Exception as err:  # noqa: BLE001 - raised again by the caller's thread
                errors.append(err)

        thread = threading.Thread(target=enter_and_call)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return outcome[0]


def run(*command: str | Path, text: str | None = None) -> str:
    """Run *command*, which must succeed, and return its stdout.

    Raises:
        RuntimeError: It did not; the message holds what it wrote to stderr.
    """
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]}: exit {done.returncode}: {done.stderr.strip()}")
    return done.stdout


@contextmanager
def lay_ground() -> Iterator[Ground]:
    """Make the namespaces and their veth; delete them at the end."""
    name = f"agentwall-bench-{os.getpid()}-{next(_numbers)}"
    ground = Ground(near=f"{name}-near", far=f"{name}-far")
    try:
        for namespace in (ground.near, ground.far):
            run("ip", "netns", "add", namespace)
            run("ip", "-n", namespace, "link", "set", "lo", "up")
        _join(ground)
        yield ground
    finally:
        # Deleting a namespace that was never made must not hide the error that brought us here.
        for namespace in (ground.near, ground.far):
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False)


def _join(ground: Ground) -> None:
    ends = [("bench0", ground.near, NEAR_ADDRESS), ("bench1", ground.far, FAR_ADDRESS)]
    run(
        *("ip", "link", "add", "bench0", "netns", ground.near, "type", "veth"),
        *("peer", "name", "bench1", "netns", ground.far),
    )
    for device, namespace, address in ends:
        run("ip", "-n", namespace, "address", "add", f"{address}/24", "dev", device)
        run("ip", "-n", namespace, "link", "set", device, "up")
    run("ip", "-n", ground.near, "address", "add", f"{LOCAL_ADDRESS}/32", "dev", "lo")
    # A million connections would leave every port in TIME_WAIT and time the search for a free one.
    run(*ground.inside("sysctl", "-qw", "net.ipv4.tcp_max_tw_buckets=0"))
    # Congestion control that paces (bbr) would measure its timers; reno is in every kernel.
    for enter in (ground.inside, ground.outside):
        run(*enter("sysctl", "-qw", "net.ipv4.tcp_congestion_control=reno"))


@contextmanager
def make_cgroup() -> Iterator[Path]:
    """Make a cgroup below our own; remove it at the end, when its processes are gone."""
    path = own_cgroup() / f"agentwall-bench-{os.getpid()}-{next(_numbers)}"
    path.mkdir()
    try:
        yield path
    finally:
        _remove(path)


def _remove(cgroup: Path) -> None:
    deadline = time.monotonic() + _SETTLE_S
    while True:
        try:
            cgroup.rmdir()
        except OSError:
            # A process that has just exited stays in its cgroup for a moment.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
