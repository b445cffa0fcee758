# SPDX-License-Identifier: Apache-2.0
"""TLS inside TLS: the flow of the outer connection is the inner one's, and dies with it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from rig.inspection import SUBSCRIBE
from rig.lab import OUTSIDE, PERMITTED
from rig.spoken import PORT, Ground, Talker, ground, record

from agentwall.flow.verdict import Verdict
from agentwall.kernel import plain
from agentwall.kernel.abi_plain import PlainCall, PlainKey
from agentwall.probes import compiling

WHY_NOT = compiling.why_not() or plain.why_not()
pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT)),
]

LINE = b'{"jsonrpc": "2.0", "method": "ping"}\n'
SECRET = record(SUBSCRIBE)


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Iterator[Ground]:
    """A wall that reads, for all tests here."""
    with ground(tmp_path_factory.mktemp("nested")) as made:
        yield made


def inner_of(talker: Talker) -> tuple[int, bytes]:
    """Begin a session in memory; return its number and its ClientHello."""
    number = talker.ask("open_held", PERMITTED, PORT)
    talker.ask("shake", number)
    return number, talker.octets("take", number)


def test_inner_mines(bench):
    """What the inner one says is told with the outer one's flow, and none of it leaves."""
    with bench.sandbox() as (key, talker):
        outer = talker.opened()
        inner, hello = inner_of(talker)
        talker.ask("say", outer, hello)
        arrived = bench.await_said(hello)
        talker.ask("say", inner, SUBSCRIBE)
        talker.ask("say", outer, talker.octets("take", inner))
        talker.ask("say", outer, LINE)
        event = bench.enclosure.await_event(key, lambda e: e.match is not None)

        assert arrived == hello
        assert (event.verdict, str(event.remote.address)) == (Verdict.DENY, PERMITTED)
        assert event.match.left_bytes == 0
        assert bench.said() == hello
        assert len(bench.matches(key)) == 1


def test_flow_comes_with_the_records(bench):
    """An inner one that is dead already takes the outer one along when its records come."""
    with bench.sandbox() as (key, talker):
        outer = talker.opened()
        inner, _ = inner_of(talker)
        talker.ask("say", inner, SUBSCRIBE)
        talker.ask("say", outer, talker.octets("take", inner))

        assert bench.enclosure.await_event(key, lambda e: e.verdict is Verdict.DENY)
        assert bench.said() == b""


def test_no_record_no_tie(bench):
    """Other text of the same thread goes on: only what looks like TLS is taken for an inner one."""
    with bench.sandbox() as (key, talker):
        outer = talker.opened()
        talker.ask("say", outer, LINE)
        bench.await_said(LINE)
        inner, _ = inner_of(talker)
        talker.ask("say", inner, SUBSCRIBE)
        talker.ask("say", outer, LINE)

        assert bench.await_said(2 * LINE) == 2 * LINE
        assert len(bench.matches(key)) == 1


def test_excepted_outside(bench):
    """Where the outer one's rule excepts what is found, both go on."""
    with bench.sandbox() as (_, talker):
        outer = talker.opened(OUTSIDE)
        inner, hello = inner_of(talker)
        talker.ask("say", outer, hello)
        talker.ask("say", inner, SUBSCRIBE)
        sent = talker.octets("take", inner)
        talker.ask("say", outer, sent)

        assert bench.await_said(hello + sent, OUTSIDE) == hello + sent


def test_library_nests_by_itself(bench):
    """Records that leave though nothing was said are those of a dead one without a flow."""
    with bench.sandbox() as (key, talker):
        outer = talker.opened()
        inner, _ = inner_of(talker)
        talker.ask("say", inner, SUBSCRIBE)
        talker.ask("send", outer, record(SECRET))

        assert bench.enclosure.await_event(key, lambda e: e.verdict is Verdict.DENY)
        assert bench.said() == b""


def test_spoken_flow_is_no_hiding_place(bench):
    """A connection that has said something of its own is not taken for one that hides another."""
    with bench.sandbox() as (_, talker):
        outer = talker.opened()
        talker.ask("say", outer, LINE)
        bench.await_said(LINE)
        inner, _ = inner_of(talker)
        talker.ask("say", inner, SUBSCRIBE)
        talker.ask("send", outer, record(LINE))

        assert bench.await_said(2 * LINE) == 2 * LINE


def test_call_of_an_ended_thread(bench):
    """A thread at the address of one that has ended is not taken for it."""
    maps = bench.enclosure.wall.maps()
    calls, connections = maps["aw_plain_calls"], maps["aw_plain_connections"]
    with bench.sandbox() as (key, talker):
        number = talker.ask("open_held", PERMITTED, PORT)
        talker.ask("shake", number)
        for task, value in calls.entries():
            call = PlainCall.from_buffer_copy(value)
            if call.process != talker.pid:
                continue
            place = PlainKey(sandbox=key, connection=call.connection, process=call.process)
            known = connections.lookup(bytes(place))
            # Of a process that was.
            call.process = place.process = talker.pid + 1
            calls.update(task, bytes(call))
            connections.update(bytes(place), known)
        talker.ask("send", number, talker.octets("take", number))
        bench.enclosure.wall.plain.sweep(lambda: {talker.pid})
        (hello,) = bench.hellos(key)

    assert hello.attempt.task.pid == talker.pid
    assert hello.library is None
