# SPDX-License-Identifier: Apache-2.0
"""Connections of a TLS library that go on in another process, on another flow, or once more."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from rig.inspection import SUBSCRIBE
from rig.lab import PERMITTED
from rig.spoken import HELLO, PORT, Ground, ground

from agentwall.flow.verdict import Hook, ReasonCode
from agentwall.kernel import plain
from agentwall.probes import compiling

WHY_NOT = compiling.why_not() or plain.why_not()
pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT)),
]

LINE = b'{"jsonrpc": "2.0", "method": "ping"}\n'
HALVES = SUBSCRIBE[: len(SUBSCRIBE) // 2], SUBSCRIBE[len(SUBSCRIBE) // 2 :]


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Iterator[Ground]:
    """A wall that reads, for all tests here."""
    with ground(tmp_path_factory.mktemp("elsewhere")) as made:
        yield made


def await_refusal(bench, key) -> None:
    """Wait until a packet was refused for what was said."""
    assert bench.enclosure.await_event(
        key, lambda e: e.hook is Hook.EGRESS and e.code is ReasonCode.SIGNATURE
    )


@pytest.mark.parametrize("is_child", [False, True], ids=["parent", "child"])
def test_parent_and_child_take_turns(bench, is_child):
    """Whichever of them says it, neither gets anything out on their flow any more."""
    with bench.sandbox() as (key, talker):
        number = talker.opened()
        talker.ask("say_in_child", number, LINE)
        talker.ask("say_in_child" if is_child else "say", number, SUBSCRIBE)
        await_refusal(bench, key)
        talker.ask("say", number, LINE)
        talker.ask("say_in_child", number, LINE)

        assert bench.await_said(LINE) == LINE


def test_hello_that_no_library_made(bench):
    """A flow goes down with its connection, which a hello on another flow was taken for."""
    with bench.sandbox() as (key, talker):
        number = talker.opened()
        other = talker.ask("open_held", PERMITTED, PORT)
        talker.ask("send", other, HELLO)
        talker.ask("say", number, SUBSCRIBE)
        await_refusal(bench, key)

        assert bench.said() == b""


def test_session_that_moves(bench):
    """What a dead connection says does not leave on a flow that had no handshake: SSL_set_fd(3)."""
    with bench.sandbox() as (key, talker):
        number = talker.ask("open_held", PERMITTED, PORT)
        talker.ask("shake", number)
        talker.ask("send", number, talker.octets("take", number))
        other = talker.ask("open_held", PERMITTED, PORT)
        talker.ask("say", number, LINE)
        talker.ask("send", other, talker.octets("take", number))
        talker.ask("say", number, SUBSCRIBE)
        talker.ask("send", other, talker.octets("take", number))
        await_refusal(bench, key)

        assert bench.await_said(LINE) == LINE


def test_call_that_is_made_again(bench):
    """What a library did not take yet is handed over again, and is read once."""
    with bench.sandbox() as (key, talker):
        number = talker.ask("open_held", PERMITTED, PORT)
        talker.ask("shake", number)
        talker.ask("send", number, talker.octets("take", number))
        for _ in range(3):
            talker.ask("say", number, HALVES[0])
            records = talker.octets("take", number)
        talker.ask("send", number, records)
        talker.ask("say", number, HALVES[1])
        (event,) = bench.matches(key)

        assert event.match.left_bytes == len(HALVES[0])
        assert bench.await_said(HALVES[0]) == HALVES[0]


def test_the_same_said_twice(bench):
    """What has left counts each time, though it is the same."""
    with bench.sandbox() as (key, talker):
        number = talker.opened()
        for text in (LINE, LINE, SUBSCRIBE):
            talker.ask("say", number, text)
        (event,) = bench.matches(key)

        assert event.match.left_bytes == 2 * len(LINE)
        assert bench.await_said(LINE * 2) == LINE * 2
