# SPDX-License-Identifier: Apache-2.0
"""What a technique is told: where to send, what to send, and when to go on."""

from __future__ import annotations

import socket
import struct
import sys
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """A destination: a socket family and the address tuple that family takes."""

    family: int
    address: tuple[str | int, ...]

    @property
    def host(self) -> str:
        """The address without its port."""
        return str(self.address[0])

    @property
    def port(self) -> int:
        """The port, host byte order."""
        return int(self.address[1])

    def pack(self, family: int | None = None) -> bytes:
        """Return the C sockaddr, with another *family* number in it if one is given."""
        name = self.family if family is None else family
        if self.family == socket.AF_INET:
            raw = socket.inet_pton(socket.AF_INET, self.host)
            return struct.pack("=H", name) + struct.pack("!H4s8x", self.port, raw)
        raw = socket.inet_pton(socket.AF_INET6, self.host)
        scope = int(self.address[3]) if len(self.address) > 3 else 0
        return (
            struct.pack("=H", name)
            + struct.pack("!HI16s", self.port, 0, raw)
            + struct.pack("=I", scope)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The orders of one run of one technique."""

    marker: bytes
    """The payload; unique to this run."""
    places: dict[str, Place]
    """Destinations by role: ``denied4``, ``permitted6``, ..."""
    cgroup: str
    """Directory of the sandbox's cgroup."""
    outside: str
    """Directory of a cgroup beside it, without a wall."""
    interface: str
    far_netns: str
    """Path of the far network namespace, for techniques that keep SYS_ADMIN."""
    side_netns: str
    """Path of another namespace with a road of its own to the far side."""
    timeout_s: float
    """How long to wait for what comes, unless the wall has it not: then SIGALRM says so."""
    silence_s: float
    """How long to wait for what the wall may keep back without anybody's being told."""

    def place(self, role: str) -> Place:
        """Return the destination that plays *role*."""
        return self.places[role]

    def open(self, role: str, kind: int, protocol: int = 0) -> socket.socket:
        """Return a blocking socket of the family of *role* with :attr:`timeout_s` for each call."""
        sock = socket.socket(self.place(role).family, kind, protocol)
        timeout = struct.pack("ll", *divmod(int(self.timeout_s * 1e6), 1_000_000))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
        return sock

    def pause(self) -> None:
        """Say that the preparation is done and wait for the word to go on."""
        print("ready", flush=True)
        if sys.stdin.readline() != "go\n":
            raise SystemExit("attempt: the harness hung up")
