# SPDX-License-Identifier: Apache-2.0
"""One connection's buffers: what it waits for, line by line, over a real pair of sockets."""

from __future__ import annotations

import os
import select
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwall.daemon.callers import Peer
from agentwall.daemon.connections import Connection, Deferred


@pytest.fixture
def pair():
    """A connection, and the client's end of it."""
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    ours.setblocking(False)
    connection = Connection(ours, Peer(ours), 0.0)
    yield connection, theirs
    connection.close()
    theirs.close()


def test_interest(pair):
    """It waits to read, to write while a line or an answer is there, and for nothing else."""
    connection, theirs = pair
    assert connection.wanted() == select.POLLIN
    theirs.sendall(b"one\ntwo\npart")
    connection.receive(1.0)
    assert connection.wanted() == select.POLLOUT
    assert connection.take_line() == b"one"
    connection.waiting = Deferred()
    assert connection.wanted() == 0
    connection.waiting = None
    assert connection.take_line() == b"two"
    assert not connection.has_line()
    connection.answer(b"answer\n")
    assert connection.wanted() == select.POLLOUT
    connection.send(2.0)
    assert theirs.recv(99) == b"answer\n"

    assert (connection.unread, connection.unsent, connection.active_s) == (4, 0, 2.0)
    assert connection.wanted() == select.POLLIN


@given(st.lists(st.binary(min_size=1, max_size=30), max_size=10))
def test_pieces(pieces):
    """However the bytes come, the lines are the same."""
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    ours.setblocking(False)
    connection = Connection(ours, Peer(ours), 0.0)
    lines = []
    for piece in pieces:
        theirs.sendall(piece)
        connection.receive(0.0)
        while connection.has_line():
            lines.append(connection.take_line())
    rest = connection.unread
    connection.close()
    theirs.close()
    data = b"".join(pieces)

    assert lines == data.split(b"\n")[:-1]
    assert rest == len(data.split(b"\n")[-1])


def test_full_socket(pair):
    """What the kernel does not take now stays, and nothing blocks."""
    connection, theirs = pair
    connection.answer(b"x" * 5_000_000)
    connection.send(1.0)
    left = connection.unsent
    assert 0 < left < 5_000_000
    connection.send(2.0)
    assert (connection.unsent, connection.active_s) == (left, 1.0)
    assert len(theirs.recv(1 << 20)) > 0
    connection.receive(3.0)

    assert not connection.has_ended


def test_end(pair):
    """The client's end is noted; closing forgets what was to be answered."""
    connection, theirs = pair
    deferred = connection.waiting = Deferred()
    theirs.shutdown(socket.SHUT_WR)
    connection.receive(0.0)
    assert connection.has_ended
    connection.close()

    assert not deferred.is_wanted
    assert connection.wanted() == 0


def test_crowd(pair):
    """A line in which too many processes had a part is nobody's."""
    connection, theirs = pair
    theirs.sendall(b"a")
    connection.receive(0.0)
    assert [each.pid for each in connection.callers()] == [os.getpid()]
    for _ in range(5):
        pid = os.fork()
        if pid == 0:
            theirs.sendall(b"b")
            os._exit(0)
        os.waitpid(pid, 0)
        connection.receive(0.0)

    assert connection.callers() is None
