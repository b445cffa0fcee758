# SPDX-License-Identifier: Apache-2.0
"""A process behind the wall that tries what it is told, in a cgroup and a namespace of its own."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agree.judge import SANDBOX, Kernel
from rig import Namespace, in_cgroup, temp_cgroup, temp_netns

from agentwall.flow.verdict import Verdict
from agentwall.host.netns import netns_cookie
from agentwall.kernel.wall import Wall

PROBER = Path(__file__).with_name("prober.py")


class Prober:
    """The process inside."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"

    def attempt(self, kind: str, address: object, port: int, said: bytes = b"x") -> Verdict:
        """Try one flow; *said* goes into its datagram."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(kind, address, port, said.hex(), file=self._process.stdin, flush=True)
        answer = int(self._process.stdout.readline())
        return Verdict.DENY if answer == errno.EPERM else Verdict.ALLOW


@dataclass(frozen=True, slots=True, kw_only=True)
class Behind:
    """A prober, and the wall around it."""

    wall: Wall
    kernel: Kernel
    prober: Prober
    namespace: Namespace
    activate: Callable[[], None]
    """To be called once a policy is in use."""


@contextmanager
def behind_a_wall() -> Iterator[Behind]:
    """Start a prober in a namespace that has loopback and no routes, behind a wall of its own."""
    with temp_cgroup() as cgroup, temp_netns("agree") as namespace, Wall.load() as wall:
        wall.attach(cgroup, SANDBOX)
        command = in_cgroup(cgroup, *namespace.inside(sys.executable, "-S", str(PROBER)))
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            yield Behind(
                wall=wall,
                kernel=Kernel(wall, namespace.call(netns_cookie)),
                prober=Prober(process),
                namespace=namespace,
                activate=lambda: wall.activate(cgroup, SANDBOX),
            )
            assert process.stdin is not None
            process.stdin.close()
            process.wait(60)
