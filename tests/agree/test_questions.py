# SPDX-License-Identifier: Apache-2.0
"""The evaluator and the programs agree on which names may be asked for.

The questions are real datagrams to real servers, in a namespace that has them on its loopback:
prog_test_run has no socket that was made in a sandbox, and DNS is for such sockets only.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import ip_network
from random import Random

import pytest
from agree.dns_messages import AAAA, HTTPS, TXT, A, Writer, edns, mixed_case
from agree.inside import behind_a_wall
from agree.strategies import CASES, ENOUGH, FLOWS, HERE, MANY
from agree.strategies_of_names import named_policies, questions
from hypothesis import given, settings
from hypothesis import strategies as st
from rig.listeners import sink, udp_server
from rig.process import wait_until

from agentwall.flow.record import Question
from agentwall.flow.verdict import Mode, ReasonCode, Verdict
from agentwall.net.domain import NameDepth, NamePattern
from agentwall.net.ports import parse_ports
from agentwall.policy.compile import compile_policy
from agentwall.policy.model import (
    AskScope,
    DnsSettings,
    Loopback,
    LoopbackScope,
    OnError,
    Policy,
    Rule,
    RulePattern,
    RulePrefix,
    Section,
)
from agentwall.policy.question import AskReason, judge_question

pytestmark = pytest.mark.kernel

SERVERS = ("127.0.0.53", "198.51.100.53", "2001:db8:53::53")
TYPES = (A, A, AAAA, TXT, HTTPS)
MOST_CASES = 2_400
"""As many as there are where the kernel is not emulated."""


@pytest.fixture(scope="module")
def behind():
    with behind_a_wall() as made:
        for address in SERVERS[1:]:
            # Else one of IPv6 is usable only when the kernel's workqueue has had its turn.
            made.namespace.ip("address", "add", address, "dev", "lo", "nodad")
        yield made


@pytest.fixture(scope="module")
def servers(behind):
    """What hears the questions that passed, by address."""
    with ExitStack() as stack:
        yield {
            address: stack.enter_context(
                udp_server(behind.namespace, address, 53, session=lambda: sink)
            )
            for address in SERVERS
        }


def message(random: Random, name: str, kind: int) -> bytes:
    """Return a plain question, in letters of any case."""
    writer = Writer(random)
    writer.question([mixed_case(random, label.encode()) for label in name.split(".")], kind)
    additional = random.random() < 0.5
    if additional:
        writer.data += edns(random)
    return writer.finish(0x0100, (1, 0, 0, int(additional)))


def policies_asked():
    """Return policies that deny by name only: the servers can always be asked."""
    return named_policies(servers=tuple((address,) for address in SERVERS)).map(
        lambda policy: replace(
            policy, deny=tuple(rule for rule in policy.deny if not rule.prefixes)
        )
    )


class Asking:
    """Asks behind the wall, and takes down what came of it."""

    def __init__(self, behind, servers) -> None:
        self._behind = behind
        self._servers = servers
        self._passed: Counter[str] = Counter()
        self.answers: Counter[AskReason] = Counter()

    def use(self, policy, tables) -> None:
        """Have *policy* hold, as *tables*."""
        self._behind.kernel.use(tables, LoopbackScope.CLOSED, policy.dns)
        self._behind.activate()
        self._behind.wall.attempts()

    def ask(self, address: str, asked: bytes) -> tuple[Verdict, list]:
        """Send a question; return whether it could be sent, and the denials reported."""
        found = self._behind.prober.attempt("udp", address, 53, asked)
        self._passed[address] += found is Verdict.ALLOW
        events = self._behind.wall.attempts()
        return found, [event for event in events if event.verdict is Verdict.DENY]

    def expect_arrived(self) -> None:
        """Wait until as many questions as passed were heard, and expect no other."""
        for address, server in self._servers.items():
            count = self._passed[address]
            wait_until(
                lambda server=server, count=count: server.connections >= count,
                what=f"{count} questions to {address}",
            )
            assert server.connections == count


def test_questions_agree(behind, servers):
    """Of 2 400 questions those pass that the evaluator permits, and no others are heard."""
    asking = Asking(behind, servers)

    @MANY
    @given(data=st.data(), policy=policies_asked(), random=st.integers(0, 2**32).map(Random))
    def check(data, policy, random):
        asking.use(policy, compile_policy(policy))
        address = str(policy.dns.servers[0].network[0])
        for _ in range(FLOWS):
            name, kind = data.draw(questions(policy)), data.draw(st.sampled_from(TYPES))
            decision = judge_question(policy, name)
            found, denials = asking.ask(address, message(random, name, kind))
            asking.answers[decision.why] += 1

            assert (name, found) == (name, decision.verdict)
            if found is Verdict.DENY:
                (event,) = denials
                assert event.code is ReasonCode.QUESTION
                assert event.question == Question(name=name, type=kind)

    check()
    asking.expect_arrived()

    total = asking.answers.total()
    assert total >= CASES
    refused = asking.answers[AskReason.NO_RULE] + asking.answers[AskReason.DENIED]
    assert total / 10 <= refused <= 9 * total / 10
    assert asking.answers[AskReason.NO_SERVERS] == 0
    # Of so few as are asked on emulated kernels none may get the rarest: see test_each_answer().
    if CASES >= MOST_CASES:
        wanted = set(AskReason) - {AskReason.NO_SERVERS}
        assert min(asking.answers[why] for why in wanted) >= total // 400


@pytest.mark.parametrize("count", range(1, 9))
def test_nested_suffixes(behind, servers, count):
    """A permitted name may be asked for under each of as many suffixes as a policy may list."""
    labels = "abcdefgh"[:count]
    search = tuple(".".join(reversed(labels[:size])) for size in range(count, 0, -1))
    name = f"x.{search[0]}"
    shorts = [name.removesuffix("." + suffix) for suffix in search]
    asking = Asking(behind, servers)
    for short in shorts:
        policy = policy_for(short, search)
        asking.use(policy, compile_policy(policy))

        assert judge_question(policy, name).why is AskReason.SUFFIX
        assert asking.ask(SERVERS[0], message(Random(1), name, A))[0] is Verdict.ALLOW


@pytest.mark.parametrize(
    ("why", "name"),
    [
        (AskReason.RULE, "hub.a.test"),
        (AskReason.ANY, "other.test"),
        (AskReason.SEARCH, "hub.b.test"),
        (AskReason.SUFFIX, "hub.a.test.b.test"),
        (AskReason.DENIED, "evil.test"),
        (AskReason.NO_RULE, "other.test"),
    ],
)
def test_each_answer(behind, servers, why, name):
    """For each reason that the evaluator has, the question passes where it says so."""
    policy = policy_for("hub.a.test", ("a.test", "b.test"))
    evil = RulePattern(NamePattern("evil.test", NameDepth.EXACT), HERE)
    deny = replace(policy.allow[0], section=Section.DENY, patterns=(evil,))
    scope = AskScope.ANY if why is AskReason.ANY else AskScope.ALLOWED_ONLY
    policy = replace(policy, deny=(deny,), dns=replace(policy.dns, names=scope))
    decision, asking = judge_question(policy, name), Asking(behind, servers)
    asking.use(policy, compile_policy(policy))
    found, _ = asking.ask(SERVERS[0], message(Random(1), name, A))

    assert (decision.why, found) == (why, decision.verdict)


def policy_for(host: str, search: tuple[str, ...]) -> Policy:
    """Return a policy that allows one name."""
    rule = Rule(
        policy="nested",
        section=Section.ALLOW,
        index=0,
        patterns=(RulePattern(NamePattern(host, NameDepth.EXACT), HERE),),
        ports=parse_ports("443"),
        where=HERE,
    )
    server = RulePrefix(ip_network(SERVERS[0]), HERE)
    return Policy(
        name="nested",
        mode=Mode.ENFORCE,
        on_error=OnError.FAIL_CLOSED,
        refuse_with="EPERM",
        loopback=Loopback.DENY,
        allow=(rule,),
        deny=(),
        inbound=(),
        dns=DnsSettings(servers=(server,), search=search, where=HERE),
        tests=(),
        files=(),
        digest="",
    )


def test_mutated_table_is_noticed(behind, servers):
    """The check can fail: with one suffix or set of the tables wrong, judges disagree."""
    asking = Asking(behind, servers)
    wrong: Counter[str] = Counter()

    @settings(MANY, max_examples=ENOUGH)
    @given(data=st.data(), policy=policies_asked(), random=st.integers(0, 2**32).map(Random))
    def check(data, policy, random):
        address = str(policy.dns.servers[0].network[0])
        for what, tables in mutations(compile_policy(policy)).items():
            asking.use(policy, tables)
            for _ in range(FLOWS):
                name = data.draw(questions(policy))
                found, _ = asking.ask(address, message(random, name, A))
                wrong[what] += found is not judge_question(policy, name).verdict

    check()

    assert set(wrong) == {"sets", "asks", "search"}
    assert all(wrong.values())


def mutations(tables):
    """Return tables that are wrong, by what is wrong about them."""
    turned = tuple(
        tuple(replace(found, allow=not found.allow) for found in intervals)
        for intervals in tables.interval_sets
    )
    asks = tuple(replace(entry, asks=(False, False, False)) for entry in tables.names)
    return {
        "sets": replace(tables, interval_sets=turned),
        "asks": replace(tables, names=asks),
        "search": replace(tables, search=tables.search[1:]),
    }
