# SPDX-License-Identifier: Apache-2.0
"""A process in a cgroup and a namespace that makes exactly the socket calls a test tells it to.

Run as a program it is the puppet: a JSON line in for each call, a JSON line out. Imported, it is
the hand: :func:`puppet` starts one, and its sockets are used like Python's.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from subprocess import Popen

    from rig.namespace import Namespace

CALL_TIMEOUT_S = 1.0
"""What a test waits for that nothing comes; see :func:`puppet` where something must."""
PATIENCE_S = 60.0
"""What a puppet waits where something must come; see :data:`SILENCE_S` for one call of it."""
SILENCE_S = 0.5
"""How long a patient one waits for what must not come: TCP has sent it again by then."""
SO_ATTACH_FILTER, IP_PKTINFO = 26, 8
KINDS = {
    "tcp": (socket.SOCK_STREAM, 0),
    "mptcp": (socket.SOCK_STREAM, 262),
    "udp": (socket.SOCK_DGRAM, 0),
    "ping": (socket.SOCK_DGRAM, socket.IPPROTO_ICMP),
    "ping6": (socket.SOCK_DGRAM, socket.IPPROTO_ICMPV6),
    "udplite": (socket.SOCK_DGRAM, 136),
}


class PuppetSocket:
    """A socket of the puppet. A call that fails raises the OSError that the puppet got."""

    def __init__(self, owner: Puppet, number: int) -> None:
        self._owner = owner
        self._number = number

    def bind(self, address: str, port: int) -> None:
        """Bind, with SO_REUSEADDR."""
        self._owner.call("bind", self._number, address, port)

    def connect(self, address: str, port: int, within_s: float | None = None) -> None:
        """Connect, and wait *within_s* at most: as long as the puppet does, unless given."""
        self._owner.call("connect", self._number, address, port, within_s)

    def begin_connect(self, address: str, port: int) -> None:
        """Send the SYN, and do not wait for the answer."""
        self._owner.call("begin_connect", self._number, address, port)

    def disconnect(self) -> None:
        """Connect to AF_UNSPEC: the peer, and a port that was not asked for, are given up."""
        self._owner.call("disconnect", self._number)

    def turn_deaf(self) -> None:
        """Drop all that arrives from now on, by a filter."""
        self._owner.call("turn_deaf", self._number)

    def set_option(self, level: int, name: int, value: bytes) -> None:
        """Set a socket option."""
        self._owner.call("set_option", self._number, level, name, value.hex())

    def listen(self) -> None:
        """Listen."""
        self._owner.call("listen", self._number)

    def accept(self) -> PuppetSocket:
        """Accept, and wait as long as the puppet does at most."""
        return PuppetSocket(self._owner, self._owner.call("accept", self._number))

    def send(self, data: bytes, times: int = 1) -> None:
        """Send *data*, *times* times over."""
        self._owner.call("send", self._number, data.decode("latin-1"), times)

    def send_urgent(self, data: bytes) -> None:
        """Send *data* over TCP, the last octet as urgent."""
        self._owner.call("send_urgent", self._number, data.decode("latin-1"))

    def sendto(self, data: bytes, address: str, port: int) -> None:
        """Send a datagram to an address."""
        self._owner.call("sendto", self._number, data.decode("latin-1"), address, port)

    def sendto_as(self, source: str, data: bytes, address: str, port: int) -> None:
        """Send a datagram from *source*, an address of this host, whatever was bound."""
        self._owner.call("sendto_as", self._number, source, data.decode("latin-1"), address, port)

    def port(self) -> int:
        """Return the local port."""
        return int(self._owner.call("port", self._number))

    def recv(self, within_s: float | None = None) -> bytes:
        """Receive what is there, and wait as :meth:`connect` does."""
        return str(self._owner.call("recv", self._number, within_s)).encode("latin-1")

    def recvfrom(self, within_s: float | None = None) -> tuple[bytes, str, int]:
        """Receive a datagram and say from whom; wait as :meth:`connect` does."""
        data, address, port = self._owner.call("recvfrom", self._number, within_s)
        return data.encode("latin-1"), address, port

    def close(self) -> None:
        """Close."""
        self._owner.call("close", self._number)


class Puppet:
    """The hand of a running puppet."""

    def __init__(self, process: Popen[str]) -> None:
        self._process = process
        self.pid = int(self.call("pid"))

    def open(self, kind: str, address: str = "0.0.0.0") -> PuppetSocket:
        """Make a socket of a KINDS for the family of *address*."""
        return PuppetSocket(self, self.call("open", kind, ":" in address))

    def resolve(self, name: str) -> list[str]:
        """Return the IPv4 addresses of *name* by the C library, or raise gaierror's number."""
        return list(self.call("resolve", name))

    def call(self, name: str, *arguments: object) -> Any:
        """Make one call and return its result.

        Raises:
            OSError: What the puppet's call raised; a TimeoutError if nothing came.
            RuntimeError: The puppet is gone.
        """
        self.begin(name, *arguments)
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            assert self._process.stderr
            raise RuntimeError(f"puppet: {self._process.stderr.read()}")
        answer = json.loads(line)
        if "errno" in answer:
            raise OSError(answer["errno"], os.strerror(answer["errno"]))
        return answer["value"]

    def begin(self, name: str, *arguments: object) -> None:
        """Have it make one call that it may never return from; the last that is asked of it."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps([name, *arguments]) + "\n")
        self._process.stdin.flush()


@contextmanager
def puppet(near: Namespace, cgroup: Path, *, timeout_s: float = CALL_TIMEOUT_S) -> Iterator[Puppet]:
    """Start a puppet in *cgroup* and *near*, whose calls wait so long; end it after the block."""
    command = (sys.executable, "-I", "-S", Path(__file__), str(timeout_s))
    with near.process(*command, cgroup=cgroup) as process:
        yield Puppet(process)


class _Strings:
    """The puppet's side: one method a call."""

    def __init__(self, timeout_s: float) -> None:
        self._sockets: list[socket.socket] = []
        self._timeout_s = timeout_s

    def _keep(self, sock: socket.socket) -> int:
        sock.settimeout(self._timeout_s)
        self._sockets.append(sock)
        return len(self._sockets) - 1

    def pid(self) -> int:
        return os.getpid()

    def open(self, kind: str, is_v6: bool) -> int:
        family = socket.AF_INET6 if is_v6 else socket.AF_INET
        sock = socket.socket(family, *KINDS[kind])
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        return self._keep(sock)

    def resolve(self, name: str) -> list[str]:
        found = socket.getaddrinfo(name, 0, socket.AF_INET, socket.SOCK_STREAM)
        return [str(each[4][0]) for each in found]

    def bind(self, number: int, address: str, port: int) -> None:
        self._sockets[number].bind((address, port))

    @contextmanager
    def _waiting(self, number: int, within_s: float | None) -> Iterator[socket.socket]:
        sock = self._sockets[number]
        sock.settimeout(self._timeout_s if within_s is None else within_s)
        try:
            yield sock
        finally:
            sock.settimeout(self._timeout_s)

    def connect(self, number: int, address: str, port: int, within_s: float | None = None) -> None:
        with self._waiting(number, within_s) as sock:
            sock.connect((address, port))

    def begin_connect(self, number: int, address: str, port: int) -> None:
        sock = self._sockets[number]
        sock.setblocking(False)
        if (code := sock.connect_ex((address, port))) != errno.EINPROGRESS:
            raise OSError(code, os.strerror(code))
        sock.settimeout(self._timeout_s)

    def disconnect(self, number: int) -> None:
        unspecified = struct.pack("=H14x", socket.AF_UNSPEC)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.connect(self._sockets[number].fileno(), unspecified, len(unspecified)) != 0:
            raise OSError(ctypes.get_errno(), "connect")

    def turn_deaf(self, number: int) -> None:
        # One instruction of classic BPF: return 0 bytes.
        code = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0))
        program = struct.pack("@HL", 1, ctypes.addressof(code))
        self._sockets[number].setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)

    def set_option(self, number: int, level: int, name: int, value: str) -> None:
        self._sockets[number].setsockopt(level, name, bytes.fromhex(value))

    def listen(self, number: int) -> None:
        self._sockets[number].listen()

    def accept(self, number: int) -> int:
        return self._keep(self._sockets[number].accept()[0])

    def send(self, number: int, data: str, times: int) -> None:
        for _ in range(times):
            self._sockets[number].sendall(data.encode("latin-1"))

    def send_urgent(self, number: int, data: str) -> None:
        self._sockets[number].send(data.encode("latin-1"), socket.MSG_OOB)

    def sendto(self, number: int, data: str, address: str, port: int) -> None:
        self._sockets[number].sendto(data.encode("latin-1"), (address, port))

    def sendto_as(self, number: int, source: str, data: str, address: str, port: int) -> None:
        if ":" in source:
            packed = socket.inet_pton(socket.AF_INET6, source)
            info = (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, struct.pack("=16si", packed, 0))
        else:
            packed = socket.inet_aton(source)
            info = (socket.IPPROTO_IP, IP_PKTINFO, struct.pack("=i4s4s", 0, packed, bytes(4)))
        self._sockets[number].sendmsg([data.encode("latin-1")], [info], 0, (address, port))

    def port(self, number: int) -> int:
        return int(self._sockets[number].getsockname()[1])

    def recv(self, number: int, within_s: float | None = None) -> str:
        with self._waiting(number, within_s) as sock:
            return sock.recv(1 << 16).decode("latin-1")

    def recvfrom(self, number: int, within_s: float | None = None) -> tuple[str, str, int]:
        with self._waiting(number, within_s) as sock:
            data, peer = sock.recvfrom(1 << 16)
        return data.decode("latin-1"), peer[0], peer[1]

    def close(self, number: int) -> None:
        self._sockets[number].close()


def _serve(timeout_s: float) -> None:
    strings = _Strings(timeout_s)
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        answer: dict[str, object]
        try:
            answer = {"value": getattr(strings, name)(*arguments)}
        except TimeoutError:
            answer = {"errno": errno.ETIMEDOUT}
        except OSError as err:
            answer = {"errno": err.errno}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve(float(sys.argv[1]) if sys.argv[1:] else CALL_TIMEOUT_S)
