# SPDX-License-Identifier: Apache-2.0
"""The control socket stays within bounds, whatever its clients do, and keeps nobody waiting."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import select
import socket
import threading

import pytest
from rig.control import read_line, request, serving
from rig.process import wait_until

from agentwall.daemon import control


@pytest.fixture
def served(tmp_path):
    """A server whose handler says what it was asked."""
    with serving(tmp_path / "c.sock") as served:
        yield served


def _error(code, message):
    error = {"code": code, "message": message}
    return {"schema": "agentwall.control/1", "ok": False, "error": error}


def test_line_without_an_end(served):
    """A line of more than a mebibyte is refused, and the connection closed."""
    with served.connect() as asking:
        asking.sendall(b"x" * ((1 << 20) + 1))

        assert read_line(asking) == _error("invalid", "expected a line of at most 1048576 bytes")
        assert asking.recv(1) == b""


def test_longest_line(served):
    """A line of exactly a mebibyte is a request like another."""
    line = request("status", x="")
    line = line.replace(b'"x": ""', b'"x": "' + b"y" * ((1 << 20) - len(line)) + b'"')
    with served.connect() as asking:
        sending = threading.Thread(target=asking.sendall, args=(line,))
        sending.start()
        answer = read_line(asking)
        sending.join()

    assert answer["ok"] is True
    assert len(line) == 1 << 20


def test_long_lines_together(served, monkeypatch):
    """Beginnings of long lines take so much memory and no more; short requests go on."""
    monkeypatch.setattr(control, "MAX_UNREAD", 1 << 20)
    with served.connect() as first, served.connect() as second, served.connect() as third:
        first.sendall(b"x" * 600_000)
        with contextlib.suppress(ConnectionError):
            second.sendall(b"x" * 600_000)
        third.sendall(request("status"))

        assert read_line(third)["ok"] is True
        gone = select.select([first, second], [], [], 60)[0]
        assert [read_line(each) for each in gone] == [
            _error("busy", "too many long requests at once")
        ]
        (other,) = {first, second} - set(gone)
        other.sendall(b"\n")
        assert read_line(other)["error"]["message"].startswith("expected JSON")


def test_slow_reader(tmp_path):
    """Who does not read its answers costs no turns of the loop and keeps nobody waiting."""
    with serving(tmp_path / "c.sock", lambda *_: {"x": "y" * 2_000_000}) as served:
        slow, other = served.connect(), served.connect()
        with slow, other:
            slow.sendall(request("status") * 5)
            for _ in range(3):
                other.sendall(request("status"))
                assert len(read_all(other)) > 2_000_000
            before = served.turns
            other.sendall(request("no-such"))
            read_line(other)

            assert served.turns - before < 5
            assert len(served.calls) == 4
            assert len(read_all(slow)) > 2_000_000


def read_all(connection):
    data = b""
    while not data.endswith(b"\n"):
        data += connection.recv(1 << 20)
    return data


def test_unsent_answers_together(tmp_path):
    """Answers that nobody reads take 8 MiB at most: the slowest reader goes."""
    with serving(tmp_path / "c.sock", lambda *_: {"x": "y" * 3_000_000}) as served:
        readers = [served.connect() for _ in range(4)]
        for n, reader in enumerate(readers):
            served.clock.now_s = n
            reader.sendall(request("status"))
            wait_until(lambda n=n: len(served.calls) == n + 1, what="the request")
            # Its answer has been given before the clock goes on.
            served.in_loop(lambda: None)

        with pytest.raises((ConnectionError, json.JSONDecodeError)):
            _read_whole(readers[0])
        assert all(_read_whole(reader)["ok"] for reader in readers[2:])
        for reader in readers:
            reader.close()


def _read_whole(reader):
    data = b""
    while piece := reader.recv(1 << 20):
        data += piece
        if data.endswith(b"\n"):
            break
    return json.loads(data)


def test_answer_that_is_too_long(tmp_path):
    """An answer of more than 8 MiB is an error, not a surprise for the reader."""
    with serving(tmp_path / "c.sock", lambda *_: {"x": "y" * (8 << 20)}) as served:
        asking = served.connect()
        with asking:
            asking.sendall(request("status"))

            assert read_line(asking)["error"]["code"] == "failed"


def test_clients_without_number(served):
    """The 65th client is told so, and taken once another leaves or was idle for a minute."""
    clients = [served.connect() for _ in range(64)]
    wait_until(lambda: len(clients_of(served)) == 64, what="all of them")
    with served.connect() as late:
        assert read_line(late) == _error("busy", "there are 64 clients already")
    clients.pop().close()
    wait_until(lambda: len(clients_of(served)) == 63, what="the end of one")
    clients.append(served.connect())
    wait_until(lambda: len(clients_of(served)) == 64, what="another")
    served.clock.now_s = 30.0
    for client in clients[1:]:
        client.sendall(request("status"))
        read_line(client)
    served.clock.now_s = 61.0
    with served.connect() as late:
        late.sendall(request("status"))

        assert read_line(late)["ok"] is True
        assert clients[0].recv(1) == b""
    for client in clients:
        client.close()


def clients_of(served):
    """The descriptors of its clients, as the thread that changes them sees them."""
    found = []
    served.in_loop(lambda: found.extend(served.server.filenos()[1:]))
    return found


def test_no_free_descriptors(served, caplog):
    """Where none is left, a client is turned away and the loop does not spin."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    late, later = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    with late, later:
        late.settimeout(60)
        resource.setrlimit(resource.RLIMIT_NOFILE, (_highest() + 1, hard))
        try:
            late.connect(str(served.path))
            ended = late.recv(1)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        turns = served.turns
        later.settimeout(60)
        later.connect(str(served.path))
        later.sendall(request("status"))

        assert ended == b""
        assert turns < 5
        assert read_line(later)["ok"] is True
        assert "a client was turned away: no free descriptors" in caplog.text


def _highest():
    # Every number below has to be taken, or the limit would leave some; and to stay so.
    gc.collect()
    highest = max(number for number in range(1024) if _is_open(number))
    for number in range(highest):
        if not _is_open(number):
            os.dup2(2, number, inheritable=False)
            _filled.append(number)
    return highest


def _is_open(number):
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


_filled: list[int] = []


@pytest.fixture(autouse=True)
def _empty_again():
    yield
    while _filled:
        os.close(_filled.pop())
