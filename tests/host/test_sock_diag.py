# SPDX-License-Identifier: Apache-2.0
"""Sockets of others are ended, those and no others."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address

import pytest
from rig.cgroup import temp_cgroup
from rig.namespace import Namespace, temp_netns
from rig.process import wait_until
from rig.puppet import puppet

from agentwall.host.sock_diag import LISTEN, SockDiag, cookie_of, try_destroying
from agentwall.net.endpoint import Endpoint, canonical

pytestmark = pytest.mark.kernel

TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM
ESTABLISHED = 1
PROTOCOLS = {TCP: socket.IPPROTO_TCP, UDP: socket.IPPROTO_UDP}
KINDS = [
    pytest.param(kind, family, server, client, id=f"{name}-{label}")
    for kind, name in ((TCP, "tcp"), (UDP, "udp"))
    for family, server, client, label in (
        (socket.AF_INET, "127.0.0.1", "127.0.0.1", "v4"),
        (socket.AF_INET6, "::1", "::1", "v6"),
        (socket.AF_INET6, "127.0.0.1", "::ffff:127.0.0.1", "mapped"),
    )
]


@pytest.fixture(scope="module")
def here() -> Iterator[Namespace]:
    with temp_netns("diag") as made:
        yield made


@pytest.fixture
def monitor(here: Namespace) -> Iterator[SockDiag]:
    made = here.call(SockDiag)
    yield made
    made.close()


@pytest.fixture
def make(here: Namespace) -> Iterator[object]:
    """A function that returns a socket that is connected to another, and that other."""
    with ExitStack() as closing:

        def connect(kind: int, family: int, at: str, to: str) -> tuple[socket.socket, ...]:
            server_family = socket.AF_INET6 if ":" in at else socket.AF_INET
            server = closing.enter_context(here.socket(server_family, kind))
            server.bind((at, 0))
            if kind == TCP:
                server.listen()
            client = closing.enter_context(here.socket(family, kind))
            client.settimeout(60)
            client.connect((to, server.getsockname()[1]))
            peer = closing.enter_context(server.accept()[0]) if kind == TCP else server
            peer.settimeout(60)
            return client, peer

        yield connect


def ends(sock: socket.socket, kind: int) -> tuple[Endpoint, Endpoint]:
    """Return both ends as events have them: IPv4 wherever it is IPv4."""
    return tuple(
        Endpoint(canonical(ip_address(name[0])), name[1], PROTOCOLS[kind])
        for name in (sock.getsockname(), sock.getpeername())
    )


@pytest.mark.parametrize(("kind", "family", "at", "to"), KINDS)
def test_ends(monitor, make, kind, family, at, to):
    """Whatever the family, the application gets ECONNABORTED at once, and the peer a reset."""
    client, peer = make(kind, family, at, to)
    local, remote = ends(client, kind)

    assert monitor.destroy(PROTOCOLS[kind], local, remote, cookie_of(client))
    with pytest.raises(ConnectionAbortedError):
        client.recv(1)
    if kind == TCP:
        with pytest.raises(ConnectionResetError):
            peer.recv(1)
    assert not monitor.destroy(PROTOCOLS[kind], local, remote, cookie_of(client)) or kind == UDP


@pytest.mark.parametrize(("kind", "family", "at", "to"), KINDS)
def test_no_other(monitor, make, kind, family, at, to):
    """A socket that has the addresses of one that is gone is left alone."""
    client, peer = make(kind, family, at, to)
    local, remote = ends(client, kind)

    assert not monitor.destroy(PROTOCOLS[kind], local, remote, cookie_of(client) + (1 << 40))
    client.send(b"alive")
    assert peer.recv(16) == b"alive"


def test_bound_to_a_device(monitor, make):
    """Addresses alone do not lead to a socket that is bound to a device; its cookie does."""
    client, _ = make(TCP, socket.AF_INET, "127.0.0.1", "127.0.0.1")
    client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\0")
    local, remote = ends(client, TCP)

    assert monitor.destroy(socket.IPPROTO_TCP, local, remote, cookie_of(client))
    with pytest.raises(ConnectionAbortedError):
        client.recv(1)


def test_unconnected(monitor, here):
    """A UDP socket that is bound to every address is found by the packet's, or by its cookie."""
    with here.socket(socket.AF_INET, UDP) as sock:
        sock.bind(("0.0.0.0", 0))
        sock.settimeout(60)
        local = Endpoint(ip_address("127.0.0.1"), sock.getsockname()[1], socket.IPPROTO_UDP)
        remote = Endpoint(ip_address("192.0.2.1"), 53, socket.IPPROTO_UDP)

        assert monitor.destroy(socket.IPPROTO_UDP, local, remote, cookie_of(sock))
        with pytest.raises(ConnectionAbortedError):
            sock.recv(1)


def test_among_many(monitor, make):
    """One is found by its cookie among hundreds, whose list takes several messages."""
    others = [make(TCP, socket.AF_INET6, "::1", "::1") for _ in range(300)]
    client = others[150][0]

    assert monitor.destroy_by_cookie(socket.IPPROTO_TCP, cookie_of(client))
    with pytest.raises(ConnectionAbortedError):
        client.recv(1)
    others[151][0].send(b"alive")
    assert others[151][1].recv(16) == b"alive"


def test_other_namespace(make):
    """Sockets of another network namespace are not found."""
    client, peer = make(TCP, socket.AF_INET, "127.0.0.1", "127.0.0.1")
    outside = SockDiag()

    assert not outside.destroy(socket.IPPROTO_TCP, *ends(client, TCP), cookie_of(client))
    outside.close()
    client.send(b"alive")
    assert peer.recv(16) == b"alive"


def test_try(here):
    """On this kernel it works, which is found out by trying."""
    assert here.call(try_destroying) is None


def test_list_in(here, monitor):
    """Sockets are told by the cgroup they were made in, with both ends, state and inode."""
    with temp_cgroup("list") as cgroup, puppet(here, cgroup, timeout_s=60) as hand:
        server = hand.open("tcp")
        server.bind("127.0.0.1", 0)
        server.listen()
        port = server.port()
        mapped = hand.open("tcp", "::")
        mapped.connect("::ffff:127.0.0.1", port)
        loose = hand.open("udp")
        loose.bind("127.0.0.1", 0)

        def has_all() -> bool:
            # The peer of one that has connected is there once it has heard of that.
            seen = [each.state for each in monitor.list_in({cgroup.stat().st_ino})]
            return seen.count(ESTABLISHED) == 2

        wait_until(has_all, what="both ends of the connection")
        found = monitor.list_in({cgroup.stat().st_ino})
        everything = monitor.list_in(None)

        # The accepted one is of the listener's cgroup too.
        tcp = sorted(
            (seen.state, str(seen.local.address), seen.remote and str(seen.remote.address))
            for seen in found
            if seen.protocol == socket.IPPROTO_TCP
        )
        assert tcp == [
            (ESTABLISHED, "127.0.0.1", "127.0.0.1"),
            (ESTABLISHED, "127.0.0.1", "127.0.0.1"),
            (LISTEN, "127.0.0.1", None),
        ]
        [udp] = [seen for seen in found if seen.protocol == socket.IPPROTO_UDP]
        assert (udp.local.port, udp.remote, udp.uid) == (loose.port(), None, 0)
        assert {seen.cookie for seen in found} <= {seen.cookie for seen in everything}
        held = [seen.inode for seen in found if seen.inode]
        # No process holds the accepted one before accept().
        assert len(set(held)) == 3
        server.accept()


def test_list_elsewhere(here):
    """The sockets of another process's network namespace are listed from outside."""
    with temp_cgroup("list") as cgroup, puppet(here, cgroup) as hand:
        hand.open("udp").connect("127.0.0.1", 9)
        outside, inside = SockDiag(), SockDiag(hand.pid)
        ids = {cgroup.stat().st_ino}

        assert outside.list_in(ids) == []
        assert [seen.remote.port for seen in inside.list_in(ids)] == [9]
        assert inside.list_in(set()) == []
        outside.close()
        inside.close()
