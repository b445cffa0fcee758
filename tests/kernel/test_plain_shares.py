# SPDX-License-Identifier: Apache-2.0
"""What one sandbox does with its TLS library keeps nobody else from being read."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rig.inspection import NOTIFY, SUBSCRIBE, matched
from rig.lab import PERMITTED
from rig.process import wait_until
from rig.spoken import Ground, Talker, ground, record

from agentwall.host.process import living
from agentwall.kernel import plain
from agentwall.kernel.abi_plain import PlainCall
from agentwall.probes import compiling

WHY_NOT = compiling.why_not() or plain.why_not()
pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT)),
]

FORSAKEN = 17_000
"""Reads: more than could be remembered of all sandboxes together."""
MOST, MANY = 512, 700
"""AW_PLAIN_THREADS, and threads that are more."""
PORT, POOL = 4445, 3333
MARKS, PROCESS = 1024, 1 << 63
"""AW_PLAIN_MARKS, AW_DEAD_PROCESS."""
RECEIVING = ("45", "207")
"""recvfrom(2) by its number."""


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Iterator[Ground]:
    """A wall that reads, for all tests here."""
    with ground(tmp_path_factory.mktemp("shares")) as made:
        yield made


@contextmanager
def peer_of(bench: Ground, talker: Talker) -> Iterator[tuple[int, socket.socket]]:
    """Have a process connect and shake hands; yield its number of the connection, and the peer."""
    with bench.lab.far.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((PERMITTED, PORT))
        listener.listen()
        number = talker.ask("open", PERMITTED, PORT)
        peer, _ = listener.accept()
        with peer:
            talker.ask("shake", number)
            yield number, peer


def is_receiving(pid: int) -> bool:
    """Say whether the first thread of a process waits for what a peer says."""
    return Path(f"/proc/{pid}/syscall").read_text().split()[0] in RECEIVING


def test_reads_that_never_return(bench):
    """A sandbox that begins reads without end does not have a read of another one forgotten."""
    with (
        bench.sandbox() as (_, greedy),
        bench.sandbox() as (key, talker),
        peer_of(bench, talker) as (number, peer),
    ):
        heard: list[bytes] = []
        waiting = threading.Thread(target=lambda: heard.append(talker.octets("hear", number)))
        waiting.start()
        wait_until(lambda: is_receiving(talker.pid), what="a read that waits")
        greedy.ask("forsake", FORSAKEN)
        peer.sendall(record(NOTIFY))
        waiting.join()
        event = bench.enclosure.await_event(key, lambda e: e.match is not None)

        assert heard == [NOTIFY]
        assert event is not None
        assert matched(event.match) == ("mining/notify",)


def threads_of(bench: Ground, sandbox: int) -> list[PlainCall]:
    """Return the last call of each thread of a sandbox, as far as they are known."""
    calls = bench.enclosure.wall.maps()["aw_plain_calls"].entries()
    known = [PlainCall.from_buffer_copy(value) for _, value in calls]
    return [call for call in known if call.sandbox == sandbox]


def test_threads_without_end(bench):
    """A sandbox with many threads does not have the last call of another one's forgotten."""
    with bench.sandbox() as (greedy_key, greedy), bench.sandbox() as (key, talker):
        number = talker.ask("open_held", PERMITTED, POOL)
        talker.ask("shake", number)
        failed = greedy.ask("crowd", MANY)
        known = len(threads_of(bench, greedy_key))
        talker.ask("send", number, talker.octets("take", number))
        (hello,) = bench.hellos(key)
        talker.ask("say", number, SUBSCRIBE)
        talker.ask("send", number, talker.octets("take", number))
        event = bench.enclosure.await_event(key, lambda e: e.match is not None)

        assert (failed, known) == (0, MOST)
        assert hello.library is not None
        assert str(event.remote.address) == PERMITTED
        assert bench.said() == b""


def test_first_thread_is_taken_in_anew(bench):
    """A thread that made room for others of its sandbox is read as ever when it calls again."""
    with bench.sandbox() as (key, talker):
        talker.opened(thread=1)
        talker.ask("crowd", MANY)
        before = bench.counts().lost
        again = talker.opened(thread=1)
        talker.ask("say", again, SUBSCRIBE, thread=1)
        event = bench.enclosure.await_event(key, lambda e: e.match is not None)

        assert len(threads_of(bench, key)) == MOST
        assert bench.counts().lost == before
        assert str(event.remote.address) == PERMITTED
        assert bench.said() == b""


def test_end_of_a_sandbox(bench):
    """What is known of its threads is forgotten with it, and nothing of other sandboxes."""
    wall = bench.enclosure.wall
    with bench.sandbox() as (lasting_key, lasting):
        lasting.opened()
        with bench.sandbox() as (key, talker):
            talker.ask("crowd", MANY)
            wall.plain.sweep(living)
            there = len(threads_of(bench, key))
        wall.plain.sweep(living)
        left = [wall.maps()[name].entries() for name in ("aw_plain_turns", "aw_plain_order")]

        assert there == MOST
        assert threads_of(bench, key) == []
        assert len(threads_of(bench, lasting_key)) == 1
        assert [len(each) for each in left] == [1, 1]


def marked_processes(bench: Ground) -> set[int]:
    """Return the marks of processes with a dead connection, and of whole sandboxes."""
    dead = bench.enclosure.wall.maps()["aw_plain_dead"].entries()
    return {mark for key, _ in dead for mark in struct.unpack("=Q", key) if mark & PROCESS}


def test_marks_without_end(bench):
    """A sandbox that has marked too many connections as dead loses flows; no other one a mark."""
    wall = bench.enclosure.wall
    marks = wall.maps()["aw_plain_marks"]
    wall.plain.sweep(living)
    with bench.sandbox() as (greedy_key, greedy), bench.sandbox() as (key, talker):
        marks.update(struct.pack("=Q", greedy_key), struct.pack("=q", MARKS))
        for each in (greedy, talker):
            # Another thread sends: the connection is joined with no flow.
            number = each.ask("open_held", PERMITTED, POOL)
            each.ask("shake", number)
            each.ask("say", number, SUBSCRIBE)
            each.ask("send", number, each.octets("take", number), thread=1)
        found, said = marked_processes(bench), bench.said()
        wall.plain.sweep(living)
        left = marked_processes(bench)
        wall.plain.sweep(set)

        assert found == {PROCESS | greedy_key << 32, PROCESS | key << 32 | talker.pid}
        assert said == b""
        assert left == {PROCESS | key << 32 | talker.pid}
        assert marked_processes(bench) == set()
        assert marks.lookup(struct.pack("=Q", greedy_key)) is None
