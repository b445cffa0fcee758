# SPDX-License-Identifier: Apache-2.0
"""Which sockets processes hold, read from outside."""

from __future__ import annotations

import os
import socket
import subprocess

import pytest

from agentwall.host import sockets_of
from agentwall.host.sockets_of import other_sockets, sockets_held_by

SLEEP = ("sleep", "60")


@pytest.fixture
def heir():
    """A function that starts a process which inherits sockets."""
    children = []

    def start(*sockets: socket.socket) -> subprocess.Popen[bytes]:
        numbers = [sock.fileno() for sock in sockets]
        child = subprocess.Popen(SLEEP, pass_fds=numbers, stdin=subprocess.DEVNULL)
        children.append(child)
        return child

    yield start
    for child in children:
        child.kill()
        child.wait()


def inode(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


def test_inherited(heir):
    """A socket that a process was given is found, with the descriptor it has there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        child = heir(sock)
        held = sockets_held_by([child.pid])

        holder = held.holders[inode(sock)]
        assert (holder.pid, holder.descriptor) == (child.pid, sock.fileno())
        assert held.unread == []


def test_gone():
    """A process that has ended holds nothing, and that is no loss."""
    held = sockets_held_by([2**22 + 1])

    assert (held.holders, held.unread) == ({}, [])


def test_bounds(heir, monkeypatch):
    """What is beyond the bounds is said to be unread."""
    monkeypatch.setattr(sockets_of, "MAX_PROCESSES", 1)
    monkeypatch.setattr(sockets_of, "MAX_DESCRIPTORS", 2)
    with socket.socket() as one, socket.socket() as other:
        pids = [heir(one, other).pid for _ in range(3)]

        assert sockets_held_by(pids).unread == [
            "descriptors of 2 more processes",
            "more than 2 descriptors",
        ]


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("arguments", "family", "detail"),
    [
        ((socket.AF_PACKET, socket.SOCK_RAW, 0), "packet", ""),
        ((socket.AF_NETLINK, socket.SOCK_RAW, 0), "netlink", "0"),
        ((socket.AF_NETLINK, socket.SOCK_RAW, 16), "netlink", "16"),
        ((socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP), "raw", ""),
        ((socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6), "raw", ""),
        ((socket.AF_UNIX, socket.SOCK_STREAM, 0), "unix", ""),
    ],
)
def test_others(arguments, family, detail):
    """Sockets of other families are told by the tables of the namespace they are in."""
    with socket.socket(*arguments) as sock:
        # A netlink socket is in its table once it has an address.
        if arguments[0] == socket.AF_NETLINK:
            sock.bind((0, 0))
        found = other_sockets("self", [inode(sock)])

        [other] = found.values()
        assert (other.inode, other.family, other.detail) == (inode(sock), family, detail)


@pytest.mark.kernel
def test_not_listed():
    """TCP is not in these tables, nor is an inode that nobody has."""
    with socket.socket() as sock:
        assert other_sockets("self", [inode(sock), 1]) == {}
