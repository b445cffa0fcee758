# SPDX-License-Identifier: Apache-2.0
"""A scope with a default policy, and cgroups below it with or without a sandbox of their own."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agentwall.flow.record import SandboxKey
from agentwall.policy.model import Policy
from rig.answers import IN, A, pack_name
from rig.enclosure import Enclosure
from rig.puppet import PATIENCE_S, Puppet, PuppetSocket, puppet
from rig.workbench import Workbench

_RECURSION_DESIRED = 0x0100
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """A scope that stands, at the cgroup of its bench."""

    bench: Workbench
    key: SandboxKey

    @property
    def enclosure(self) -> Enclosure:
        """The wall."""
        return self.bench.enclosure

    def child(self, name: str) -> Path:
        """Return a new cgroup below the scope's; the bench removes it."""
        path = self.bench.cgroup / name
        path.mkdir()
        return path

    @contextmanager
    def puppet(self, cgroup: Path) -> Iterator[Puppet]:
        """Start a patient puppet in *cgroup*."""
        with puppet(self.bench.ground.near, cgroup, timeout_s=PATIENCE_S) as actor:
            yield actor


def raise_scope(enclosure: Enclosure, cgroup: Path, policy: Policy) -> SandboxKey:
    """Put *policy* at *cgroup* as the default of what lies below it."""
    key = enclosure.attach(cgroup)
    enclosure.bind(key, policy, is_scope=True)
    enclosure.wall.activate(cgroup, key)
    return key


@contextmanager
def scope(bench: Workbench, policy: Policy) -> Iterator[Scope]:
    """Let *policy* be the default below the bench's cgroup for the length of the block."""
    key = raise_scope(bench.enclosure, bench.cgroup, policy)
    try:
        yield Scope(bench=bench, key=key)
    finally:
        bench.enclosure.wall.detach(key)


def say(actor: Puppet, kind: str, address: str, port: int) -> bytes:
    """Return what the echo server there answers a new socket.

    Args:
        actor: Whose socket.
        kind: ``tcp``, ``mptcp``, ``udp`` (connected) or ``sendto``.
        address: Of the server.
        port: Of the server.

    Raises:
        OSError: The wall refuses, or nothing is answered.
    """
    sock = actor.open("udp" if kind == "sendto" else kind, address)
    try:
        if kind == "sendto":
            sock.sendto(b"hello", address, port)
        else:
            sock.connect(address, port)
            sock.send(b"hello")
        return sock.recv()
    finally:
        sock.close()


def is_answered(sock: PuppetSocket, data: bytes, within_s: float | None = None) -> bool:
    """Say whether the echo server that *sock* is connected to gets and returns *data*.

    *within_s*: what :meth:`PuppetSocket.recv` waits; short where nothing is to come.
    """
    try:
        sock.send(data)
        return sock.recv(within_s) == data
    except OSError:
        return False


def question(name: str) -> bytes:
    """Return a DNS message that asks for the IPv4 addresses of *name*, with an id of its own."""
    header = struct.pack("!6H", next(_numbers), _RECURSION_DESIRED, 1, 0, 0, 0)
    return header + pack_name(name) + struct.pack("!2H", A, IN)


def connected(actor: Puppet, kind: str, address: str, port: int) -> PuppetSocket:
    """Return a socket that has talked to the echo server there."""
    sock = actor.open(kind, address)
    sock.connect(address, port)
    assert is_answered(sock, b"before")
    return sock
