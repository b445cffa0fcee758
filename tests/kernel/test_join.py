# SPDX-License-Identifier: Apache-2.0
"""Which flow carries which connection of a TLS library, and what becomes of it when one is dead."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from rig.cgroup import temp_cgroup
from rig.enclosure import parse_policy
from rig.inspection import SUBSCRIBE
from rig.lab import OUTSIDE, PERMITTED
from rig.spoken import HELLO, POLICY, PORT, Ground, Talker, ground, record

from agentwall.flow.tls import HelloSeen, TlsLibrary
from agentwall.flow.verdict import Hook, ReasonCode, Verdict
from agentwall.kernel import abi_scan, plain
from agentwall.probes import compiling

WHY_NOT = compiling.why_not() or plain.why_not()
pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT)),
]

LINE = b'{"jsonrpc": "2.0", "method": "ping"}\n'
BUDGET = 16
"""AW_HELLO_BUDGET."""
TELLING = """
name: telling
allow:
  - {cidr: %s, ports: [1-65535], except: [%s]}
"""


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Iterator[Ground]:
    """A wall that reads, for all tests here."""
    with ground(tmp_path_factory.mktemp("join")) as made:
        yield made


def flush(talker: Talker, number: int) -> None:
    """Send the records that wait."""
    talker.ask("send", number, talker.octets("take", number))


def test_two_connections_of_one_thread(bench):
    """Each connection of a thread is judged by its own flow's rule, however they alternate."""
    with bench.sandbox() as (key, talker):
        excepted, other = talker.opened(OUTSIDE), talker.opened()
        for number in (excepted, other, excepted):
            talker.ask("say", number, LINE)
        talker.ask("say", excepted, SUBSCRIBE)
        talker.ask("say", other, SUBSCRIBE)
        talker.ask("say", excepted, LINE)
        passed = LINE + LINE + SUBSCRIBE + LINE

        assert bench.await_said(passed, OUTSIDE) == passed
        assert bench.await_said(LINE) == LINE
        assert [str(event.remote.address) for event in bench.matches(key)] == [PERMITTED]


def test_two_threads(bench):
    """Threads of one process have connections of their own, and may hand them to each other."""
    with bench.sandbox() as (key, talker):
        excepted = talker.opened(OUTSIDE, thread=1)
        other = talker.opened(thread=2)
        talker.ask("say", excepted, SUBSCRIBE, thread=2)
        talker.ask("say", other, LINE, thread=1)
        talker.ask("say", other, SUBSCRIBE, thread=1)

        assert bench.await_said(SUBSCRIBE, OUTSIDE) == SUBSCRIBE
        assert bench.await_said(LINE) == LINE
        assert [str(event.remote.address) for event in bench.matches(key)] == [PERMITTED]


def test_records_that_leave_after_other_calls(bench):
    """Where hellos leave out of turn a flow is joined with its own connection after all."""
    with bench.sandbox() as (key, talker):
        numbers = [talker.ask("open_held", address, PORT) for address in (OUTSIDE, PERMITTED)]
        for number in numbers:
            talker.ask("shake", number)
        for number in numbers:
            flush(talker, number)
        for number in numbers:
            talker.ask("say", number, LINE)
            flush(talker, number)
        for number in numbers:
            talker.ask("say", number, SUBSCRIBE)
            flush(talker, number)

        assert bench.await_said(LINE + SUBSCRIBE, OUTSIDE) == LINE + SUBSCRIBE
        assert bench.await_said(LINE) == LINE
        assert [str(event.remote.address) for event in bench.matches(key)] == [PERMITTED]


def test_match_before_the_flow_is_known(bench):
    """A match whose flow is not known yet is an alert without one; then none of it leaves."""
    with bench.sandbox() as (key, talker):
        number = talker.ask("open_held", PERMITTED, PORT)
        talker.ask("shake", number)
        talker.ask("say", number, SUBSCRIBE)
        (event,) = bench.matches(key)
        flush(talker, number)
        refused = bench.enclosure.await_event(
            key, lambda e: e.hook is Hook.EGRESS and e.code is ReasonCode.SIGNATURE
        )

        assert (event.verdict, event.remote, event.cookie, event.rule) == (
            Verdict.ALLOW,
            None,
            0,
            None,
        )
        assert str(refused.remote.address) == PERMITTED
        assert refused.verdict is Verdict.DENY
        assert bench.servers[PERMITTED].received == b""


def test_match_before_an_exception_is_known(bench):
    """What the flow's rule excepts passes, though it was found before the flow was known."""
    with bench.sandbox() as (key, talker):
        number = talker.ask("open_held", OUTSIDE, PORT)
        talker.ask("shake", number)
        # As of a connection that was there before the probe.
        talker.octets("take", number)
        talker.ask("say", number, SUBSCRIBE)
        flush(talker, number)
        talker.ask("say", number, SUBSCRIBE)
        flush(talker, number)

        assert bench.await_said(SUBSCRIBE * 2, OUTSIDE) == SUBSCRIBE * 2
        assert [event.remote for event in bench.matches(key)] == [None]


def test_freed_while_records_wait(bench):
    """A flow stays dead when the library frees its connection before the records have left."""
    with bench.sandbox() as (key, talker):
        number = talker.ask("open_held", PERMITTED, PORT)
        talker.ask("shake", number)
        flush(talker, number)
        talker.ask("say", number, SUBSCRIBE)
        records = talker.octets("take", number)
        talker.ask("free", number)
        again = talker.ask("open_held", OUTSIDE, PORT)
        talker.ask("shake", again)
        talker.ask("send", number, records)
        talker.ask("send", number, record(b"more"))
        refused = bench.enclosure.await_event(
            key, lambda e: e.hook is Hook.EGRESS and e.code is ReasonCode.SIGNATURE
        )

        assert talker.ask("place", again) == talker.ask("place", number)
        assert refused is not None
        assert bench.said() == b""


@pytest.mark.parametrize("is_shaken", [True, False], ids=["shaken", "by writing"])
def test_another_at_the_same_place(bench, is_shaken):
    """A connection made where a dead one was freed is another: it is read, and its text passes."""
    with bench.sandbox() as (key, talker):
        first = talker.opened()
        talker.ask("say", first, SUBSCRIBE)
        talker.ask("free", first)
        second = talker.ask("open", PERMITTED, PORT)
        if is_shaken:
            talker.ask("shake", second)
        talker.ask("say", second, LINE)
        talker.ask("say", second, SUBSCRIBE)
        events = bench.matches(key)

        assert talker.ask("place", first) == talker.ask("place", second)
        assert bench.await_said(LINE) == LINE
        assert [event.match.left_bytes for event in events] == [0, len(LINE)]
        assert events[0].cookie != events[1].cookie


@pytest.mark.parametrize("before", [LINE, SUBSCRIBE], ids=["alive", "dead"])
def test_session_in_the_place_of_another(bench, before):
    """A connection that shakes hands anew, on another flow, begins anew: SSL_clear(3)."""
    with bench.sandbox() as (key, talker):
        number = talker.opened()
        talker.ask("say", number, before)
        talker.ask("renew", number, OUTSIDE, PORT)
        talker.ask("shake", number)
        talker.ask("say", number, SUBSCRIBE)
        arrived = bench.await_said(SUBSCRIBE, OUTSIDE)
        talker.ask("renew", number, PERMITTED, PORT)
        talker.ask("shake", number)
        talker.ask("say", number, SUBSCRIBE)
        last = bench.matches(key)[-1]
        wanted = LINE if before == LINE else b""

        assert arrived == SUBSCRIBE
        assert str(last.remote.address) == PERMITTED
        assert (last.match.left_bytes, last.match.position) == (0, last.match.position)
        assert bench.await_said(wanted) == wanted


def test_child_goes_on(bench):
    """A child that goes on with its parent's connection is read, and its flow cut off."""
    with bench.sandbox() as (key, talker):
        number = talker.opened()
        talker.ask("say", number, LINE)
        parent, child = talker.pid, talker.ask("fork")
        talker.ask("say", number, SUBSCRIBE)
        talker.ask("say", number, b"more")
        (event,) = bench.matches(key)

        assert event.task.pid == child != parent
        assert bench.await_said(LINE) == LINE


def test_child_behind_an_exception(bench):
    """A child's flow has the rule of its parent's from its first record on."""
    with bench.sandbox() as (key, talker):
        number = talker.opened(OUTSIDE)
        talker.ask("fork")
        talker.ask("say", number, LINE)
        talker.ask("say", number, SUBSCRIBE)

        assert bench.await_said(LINE + SUBSCRIBE, OUTSIDE) == LINE + SUBSCRIBE
        assert bench.matches(key) == []


def test_policy_switch(bench):
    """After a switch the old rule's exception holds until a packet was judged by the new rules."""
    with temp_cgroup() as cgroup, bench.enclosure.enclosed(cgroup, parse_policy(POLICY)) as key:
        for server in bench.servers.values():
            server.clear()
        with bench.talker(cgroup) as talker:
            number = talker.opened(OUTSIDE)
            talker.ask("say", number, LINE)
            old = bench.enclosure.bind(key, parse_policy(TELLING % (OUTSIDE, "mining")))
            bench.enclosure.wall.forget(old - 1)
            talker.ask("say", number, SUBSCRIBE)
            kept = bench.await_said(LINE + SUBSCRIBE, OUTSIDE)
            bench.enclosure.bind(key, parse_policy(TELLING % (OUTSIDE, "tunnel")))
            bench.enclosure.wall.forget(old)
            talker.ask("say", number, LINE)
            talker.ask("say", number, SUBSCRIBE)
            (event,) = bench.matches(key)

            assert kept == LINE + SUBSCRIBE
            assert event.generation == old + 1
            assert event.match.left_bytes == len(kept + LINE)
            assert bench.await_said(kept + LINE, OUTSIDE) == kept + LINE


def test_said_between_a_switch_and_the_next_packet(bench):
    """It is told as of the new rules, of which none is known to permit the flow yet."""
    with temp_cgroup() as cgroup, bench.enclosure.enclosed(cgroup, parse_policy(POLICY)) as key:
        bench.servers[PERMITTED].clear()
        with bench.talker(cgroup) as talker:
            number = talker.opened()
            talker.ask("say", number, LINE)
            new = bench.enclosure.bind(key, parse_policy(TELLING % (PERMITTED, "tunnel")))
            bench.enclosure.wall.forget(new - 1)
            talker.ask("say", number, SUBSCRIBE)
            (event,) = bench.matches(key)

            assert (event.generation, event.rule) == (new, None)
            assert event.verdict is Verdict.DENY
            assert bench.await_said(LINE) == LINE


def test_hello(bench):
    """A flow's ClientHello is told once, with the library where the flow is joined."""
    with bench.sandbox() as (key, talker):
        number = talker.opened()
        talker.ask("say", number, LINE)
        talker.ask("shake", number)
        (hello,) = bench.hellos(key)

        assert hello.data[5:] == HELLO[5:]
        assert hello.data[:3] == b"\x16\x03\x03"
        assert hello.library is TlsLibrary.OPENSSL
        assert (hello.attempt.hook, hello.attempt.verdict) == (Hook.EGRESS, Verdict.ALLOW)
        assert (str(hello.attempt.remote.address), hello.attempt.remote.port) == (PERMITTED, PORT)
        assert (hello.attempt.sandbox, hello.attempt.task.pid) == (key, talker.pid)


def test_long_hello(bench):
    """Of a hello that is longer than the event has room for the first part is told."""
    with bench.sandbox() as (key, talker):
        talker.ask("hello", HELLO[5:] + bytes(3000))
        talker.opened()
        (hello,) = bench.hellos(key)

        assert len(hello.data) == abi_scan.HELLO_BYTES
        assert hello.data[5:].startswith(HELLO[5:])


def test_hello_past_the_library(bench):
    """Who speaks TLS without the library is told of, and not joined."""
    with bench.sandbox() as (key, talker):
        before = bench.counts().joined
        number = talker.ask("open_held", PERMITTED, PORT)
        talker.ask("send", number, HELLO)
        (hello,) = bench.hellos(key)

        assert (hello.library, hello.data) == (None, HELLO)
        assert bench.counts().joined == before


@pytest.mark.parametrize(
    "octets",
    [
        b"GET / HTTP/1.1\r\n",
        HELLO[:5],
        b"\x16\x03\x03\x00\x2a\x02" + bytes(41),
        b"\x16\x04" + HELLO,
    ],
    ids=["http", "short", "server hello", "version"],
)
def test_what_is_no_hello(bench, octets):
    """What does not begin with a whole head of a ClientHello is none."""
    with bench.sandbox() as (key, talker):
        number = talker.ask("open_held", PERMITTED, PORT)
        talker.ask("send", number, octets)
        bench.servers[PERMITTED].wait(len(octets))

        assert bench.hellos(key) == []


def test_budget_of_hellos(bench):
    """So many hellos of one sandbox are told at a time, others count as lost; another is heard."""
    count = 5 * BUDGET
    with bench.sandbox() as (key, talker):
        numbers = [talker.ask("open_held", PERMITTED, PORT) for _ in range(count)]
        talker.ask("send_all", numbers, HELLO)
        told = bench.hellos(key)
        lost = bench.enclosure.counters(key).lost_hellos
        with bench.sandbox() as (other_key, other):
            other.opened()
            others = bench.hellos(other_key)

        assert len(told) + lost == count
        assert len(told) >= BUDGET
        assert all(isinstance(each, HelloSeen) for each in others)
        assert len(others) == 1
