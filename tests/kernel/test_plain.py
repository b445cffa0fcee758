# SPDX-License-Identifier: Apache-2.0
"""What a process hands to its TLS library is found wherever it is cut, and none of it gets out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from rig.cgroup import temp_cgroup
from rig.enclosure import describe, parse_policy
from rig.inspection import NOTIFY, SUBSCRIBE, UPGRADE, WEAK, matched
from rig.lab import OUTSIDE, PERMITTED
from rig.spoken import ADDRESSES, ASKING, CALLING, POLICY, PORT, Ground, ground

from agentwall.daemon.inside_state import TlsUse
from agentwall.flow.record import Excerpt
from agentwall.flow.verdict import Direction, Hook, ReasonCode, Verdict
from agentwall.kernel import plain
from agentwall.probes import compiling

WHY_NOT = compiling.why_not() or plain.why_not()
pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT)),
]

LINE = b'{"jsonrpc": "2.0", "method": "ping"}\n'
END_OF_METHOD = SUBSCRIBE.index(b'be"') + 3


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Iterator[Ground]:
    """A wall that reads, for all tests here."""
    with ground(tmp_path_factory.mktemp("plain")) as made:
        yield made


@pytest.mark.parametrize("call", ["say", "say_ex"])
@pytest.mark.parametrize("address", ADDRESSES)
def test_cut_before_any_text(bench, address, call):
    """A match is cut off with none of the text sent, and the event says whose flow it was."""
    with bench.sandbox() as (key, talker):
        number = talker.opened(address)
        talker.ask(call, number, SUBSCRIBE)
        talker.ask("say", number, b"more")
        event = bench.enclosure.await_event(key, lambda e: e.match is not None)
        (hello,) = bench.hellos(key)

        assert event is not None
        assert (event.hook, event.verdict, event.code) == (
            Hook.PLAIN,
            Verdict.DENY,
            ReasonCode.SIGNATURE,
        )
        assert matched(event.match) == ("mining/subscribe",)
        assert (event.match.left_bytes, event.match.position) == (0, END_OF_METHOD)
        assert event.match.text == SUBSCRIBE[:END_OF_METHOD]
        assert event.match.from_client
        assert (event.remote, event.local) == (hello.attempt.remote, hello.attempt.local)
        assert str(event.remote.address) == address
        assert (event.direction, event.rule) == (Direction.OUT, ADDRESSES.index(address))
        assert event.cookie == hello.attempt.cookie
        assert event.task.pid == talker.pid
        assert bench.said(address) == b""
        assert len(bench.matches(key)) == 1


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("size", [1, 7, 10])
def test_pieces(bench, address, size):
    """Written in pieces, less than one message arrives, and the whole of it is in the event."""
    left = (END_OF_METHOD - 1) // size * size
    with bench.sandbox() as (key, talker):
        number = talker.opened(address)
        talker.ask("say", number, SUBSCRIBE[:left], size)
        # What waits to be sent when a match comes does not leave any more.
        arrived = bench.await_said(SUBSCRIBE[:left], address)
        talker.ask("say", number, SUBSCRIBE[left:], size)
        event = bench.enclosure.await_event(key, lambda e: e.match is not None)

        assert arrived == SUBSCRIBE[:left]
        assert event.match.left_bytes == left
        assert event.match.text == SUBSCRIBE[:END_OF_METHOD]
        assert bench.said(address) == arrived


def test_what_the_peer_says(bench):
    """Text that the library has decrypted is read before the process can answer it."""
    with bench.sandbox() as (key, talker):
        number = talker.opened()
        talker.ask("say", number, CALLING)
        heard = talker.octets("hear", number)
        talker.ask("say", number, b"submitted")
        event = bench.enclosure.await_event(key, lambda e: e.match is not None)

        assert heard == NOTIFY
        assert matched(event.match) == ("mining/notify",)
        assert not event.match.from_client
        assert NOTIFY.startswith(event.match.text)
        assert bench.said() == CALLING


@pytest.mark.parametrize("before", [3000, 60_000])
def test_after_other_lines(bench, before):
    """What is no mining goes out, however much of it; the line behind it does not."""
    said = LINE * (before // len(LINE))
    with bench.sandbox() as (key, talker):
        number = talker.opened()
        talker.ask("say", number, said, 9000)
        arrived = bench.await_said(said)
        talker.ask("say", number, SUBSCRIBE)
        event = bench.enclosure.await_event(key, lambda e: e.match is not None)

        assert arrived == bench.said() == said
        assert event.match.left_bytes == len(said)
        assert event.match.position == len(said) + END_OF_METHOD


def test_in_the_midst_of_one_call(bench):
    """Nothing of a call with a match in it leaves, whatever stands before the match."""
    with bench.sandbox() as (key, talker):
        talker.ask("say", talker.opened(), LINE * 1000 + SUBSCRIBE)
        event = bench.enclosure.await_event(key, lambda e: e.match is not None)

        assert event.match.left_bytes == 0
        assert event.match.position == len(LINE * 1000) + END_OF_METHOD
        assert event.match.text.endswith(SUBSCRIBE[:END_OF_METHOD])
        assert bench.said() == b""


def test_beyond_the_depth(bench):
    """What is said deeper than the policy looks is not read, as in clear text."""
    said = LINE * (70_000 // len(LINE)) + SUBSCRIBE
    with bench.sandbox() as (key, talker):
        talker.ask("say", talker.opened(), said, 7000)
        arrived = bench.await_said(said)

        assert arrived == said
        assert bench.matches(key) == []


@pytest.mark.parametrize(
    ("mode", "verdict"),
    [("audit", Verdict.WOULD_DENY), ("observe", Verdict.ALLOW)],
)
def test_modes_that_let_through(bench, mode, verdict):
    """Audit and observe report what they find, and everything arrives."""
    with bench.sandbox(f"mode: {mode}\n{clean(POLICY)}") as (key, talker):
        talker.ask("say", talker.opened(), SUBSCRIBE, 20)
        arrived = bench.await_said(SUBSCRIBE)

        assert arrived == SUBSCRIBE
        assert [event.verdict for event in bench.matches(key)] == [verdict]


def clean(text: str) -> str:
    """Return a policy without the indentation that it has in a test."""
    return "\n".join(line.removeprefix("    ") for line in text.strip("\n").splitlines())


def test_weak_signature_only_alerts(bench):
    """What is not sure is reported, and passes."""
    with bench.sandbox() as (key, talker):
        talker.ask("say", talker.opened(), WEAK + b"on")
        arrived = bench.await_said(WEAK + b"on")

        assert arrived == WEAK + b"on"
        assert [(e.verdict, matched(e.match)) for e in bench.matches(key)] == [
            (Verdict.ALLOW, ("tunnel/weak",))
        ]


def test_exception_of_the_rule(bench):
    """Behind a rule that excepts mining it passes inside TLS as well; behind others it does not."""
    with bench.sandbox() as (key, talker):
        talker.ask("say", talker.opened(OUTSIDE), SUBSCRIBE)
        arrived = bench.await_said(SUBSCRIBE, OUTSIDE)
        talker.ask("say", talker.opened(), SUBSCRIBE)
        events = bench.matches(key)

        assert arrived == SUBSCRIBE
        assert [str(event.remote.address) for event in events] == [PERMITTED]
        assert bench.said() == b""


@pytest.mark.parametrize("inspect", ["none", "wire"])
def test_rules_that_are_not_read_behind(bench, inspect):
    """Behind a rule with inspect none or wire nothing inside TLS is read; behind others it is."""
    policy = f"""
        name: partly
        allow:
          - {{cidr: {PERMITTED}, ports: [1-65535]}}
          - {{cidr: {OUTSIDE}, ports: [1-65535], inspect: {inspect}}}
    """
    with bench.sandbox(policy) as (key, talker):
        number = talker.opened(OUTSIDE)
        before = bench.counts().octets
        talker.ask("say", number, SUBSCRIBE)
        arrived, read = bench.await_said(SUBSCRIBE, OUTSIDE), bench.counts().octets - before
        talker.ask("say", talker.opened(), SUBSCRIBE)
        events = bench.matches(key)

        assert (arrived, read) == (SUBSCRIBE, 0)
        assert [str(event.remote.address) for event in events] == [PERMITTED]
        assert bench.said() == b""


def test_unjoined_text_where_a_rule_is_not_read_behind(bench):
    """Where some rule is not read behind, text of a flow that is not known is not read at all."""
    policy = POLICY + "      - {cidr: 192.0.2.99, ports: [1], inspect: wire}\n"
    with bench.sandbox(policy) as (key, talker):
        number = talker.ask("open_held", PERMITTED, PORT)
        before = bench.counts().octets
        talker.ask("say", number, LINE)
        read = bench.counts().octets - before
        talker.ask("send", number, talker.octets("take", number))
        talker.ask("say", number, SUBSCRIBE)

        assert read == 0
        assert len(bench.matches(key)) == 1


def test_hand_over(bench):
    """What decoders are to see is handed over, of both sides, but not what is cut off."""
    with bench.sandbox() as (key, talker):
        number = talker.opened()
        talker.ask("say", number, UPGRADE)
        talker.ask("say", number, ASKING)
        talker.octets("hear", number)
        talker.ask("say", number, CALLING)
        talker.octets("hear", number)
        found = [each for each in bench.heard(key) if isinstance(each, Excerpt)]

        assert [(each.from_client, each.position, each.data) for each in found] == [
            (True, 0, UPGRADE),
            (True, len(UPGRADE), ASKING),
            (False, 0, b"\n"),
            (True, len(UPGRADE + ASKING), CALLING),
        ]
        assert {each.attempt.hook for each in found} == {Hook.PLAIN}
        assert str(found[0].attempt.remote.address) == PERMITTED
        assert len(bench.matches(key)) == 1


def test_loopback_is_not_read(bench):
    """What stays on this host is not read, as in clear text."""
    with bench.sandbox() as (key, talker):
        port = talker.ask("listen")
        number = talker.ask("open", "127.0.0.1", port)
        talker.ask("shake", number)
        before = bench.counts().octets
        talker.ask("say", number, SUBSCRIBE)

        assert bench.counts().octets == before
        assert bench.matches(key) == []


def test_text_that_cannot_be_read(bench):
    """Text in memory that is not there yet passes, and is counted."""
    with bench.sandbox() as (key, talker):
        number = talker.opened()
        before = bench.counts().unreadable
        talker.ask("say_untouched", number, SUBSCRIBE)
        arrived = bench.await_said(SUBSCRIBE)

        assert arrived == SUBSCRIBE
        assert bench.counts().unreadable == before + 1
        assert bench.matches(key) == []


def test_processes_elsewhere(bench):
    """Of one library's users only the sandbox's are read, each under its own policy."""
    with bench.sandbox() as (key, talker), temp_cgroup() as cgroup:
        policy = parse_policy(f"name: other\nallow:\n  - {{cidr: {PERMITTED}, ports: [1-65535]}}")
        with (
            bench.enclosure.enclosed(cgroup, policy) as other_key,
            bench.talker(cgroup) as other,
            bench.talker(None) as free,
        ):
            mine, others = talker.opened(), other.opened()
            before = bench.counts()
            free.ask("say", free.opened(), SUBSCRIBE)
            arrived, after = bench.await_said(SUBSCRIBE), bench.counts()
            talker.ask("say", mine, SUBSCRIBE)
            other.ask("say", others, LINE)

            assert arrived == SUBSCRIBE
            assert (after.calls, after.octets) == (before.calls, before.octets)
            assert after.foreign > before.foreign
            # In the order in which they are accepted.
            said = bench.await_said(LINE + SUBSCRIBE)
            assert said in (LINE + SUBSCRIBE, SUBSCRIBE + LINE)
            assert len(bench.matches(key)) == 1
            assert bench.matches(other_key) == []


def test_counters(bench):
    """Calls, connections, joined ones and octets are counted."""
    with bench.sandbox() as (key, talker):
        before = bench.counts()
        number = talker.opened()
        talker.ask("say", number, LINE, 10)
        talker.ask("free", number)
        after = bench.counts()

        calls = 1 + -(-len(LINE) // 10) + 1
        assert after.calls - before.calls == calls
        assert (after.connections - before.connections, after.joined - before.joined) == (1, 1)
        assert after.octets - before.octets == len(LINE)
        assert (after.lost, after.doubled) == (before.lost, before.doubled)
        assert [describe(event) for event in bench.matches(key)] == []


def test_not_to_be_read(bench, monkeypatch):
    """Where the daemon is told not to read inside TLS, nothing is, and no hello is told."""
    monkeypatch.setattr(bench.enclosure.inspector, "use", TlsUse.OFF)
    with bench.sandbox() as (key, talker):
        before = bench.counts().octets
        talker.ask("say", talker.opened(), SUBSCRIBE)

        assert bench.await_said(SUBSCRIBE) == SUBSCRIBE
        assert bench.counts().octets == before
        assert (bench.heard(key), bench.matches(key)) == ([], [])
