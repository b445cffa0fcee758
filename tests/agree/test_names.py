# SPDX-License-Identifier: Apache-2.0
"""The evaluator and the programs agree on addresses that were learned under names."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from agree.inside import behind_a_wall
from agree.judge import HOUR_NS, SANDBOX, Kernel, Opinion, reference
from agree.packets import packet_to
from agree.strategies import CASES, ENOUGH, EXAMPLES, FLOWS, MANY
from agree.strategies_of_names import (
    learned_addresses,
    named_flows,
    named_policies,
    named_remotes,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from agentwall.flow.verdict import Direction, ReasonCode, Verdict
from agentwall.kernel import names
from agentwall.kernel.learned import KNOWN
from agentwall.kernel.wall import Wall
from agentwall.net.endpoint import Endpoint, destination
from agentwall.policy.compile import compile_policy, find_entry
from agentwall.policy.evaluate import evaluate
from agentwall.policy.model import LoopbackScope
from agentwall.policy.question import AskReason, judge_question

pytestmark = pytest.mark.kernel

SCOPES = (LoopbackScope.FREE, LoopbackScope.CLOSED)
KINDS = {"tcp": 6, "udp": 17, "udp-connect": 17}
TRIES = EXAMPLES // 3


@pytest.fixture
def wall():
    with Wall.load(test_sandbox=SANDBOX) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def behind():
    with behind_a_wall() as made:
        yield made


def by_name(policy, remote, scope, learned) -> bool:
    """Say whether a rule on names decided."""
    with_names = reference(policy, remote, scope, learned)
    return with_names.rule not in (None, reference(policy, remote, scope).rule)


def sent(kernel, remote, learned, said) -> Opinion:
    """Return what egress says of a packet, without a name where *said* has none.

    The event has one there as well, if the remote has any that is not over.
    """
    found = kernel.send(remote, said=b"")
    live = [binding.name for binding in learned if binding.live]
    if said.name is not None:
        return found
    assert found.name in (live or [None])
    return replace(found, name=None)


def test_egress_agrees(wall):
    """Verdict, rule, reason and name of 2 400 packets are the evaluator's, many due to a name."""
    kernel = Kernel(wall)
    decided: Counter[Verdict] = Counter()

    @MANY
    @given(data=st.data(), policy=named_policies(), scope=st.sampled_from(SCOPES))
    def check(data, policy, scope):
        kernel.forget_names()
        kernel.use(compile_policy(policy), scope, policy.dns)
        for _ in range(FLOWS):
            remote, learned = data.draw(named_flows(policy))
            kernel.learn(remote.address, learned)
            said = reference(policy, remote, scope, learned)
            decided[said.verdict] += by_name(policy, remote, scope, learned)

            assert sent(kernel, remote, learned, said) == said

    check()

    total = kernel.verdicts.total()
    assert total >= CASES
    assert min(kernel.verdicts[v] for v in (Verdict.ALLOW, Verdict.DENY)) >= total / 3
    assert decided[Verdict.ALLOW] >= total / 8
    assert decided[Verdict.DENY] >= total / 25


def test_mutated_table_is_noticed(wall):
    """The check can fail: with what is said of names turned round, judges disagree."""
    kernel = Kernel(wall)
    disagreements = 0

    @settings(MANY, max_examples=ENOUGH)
    @given(data=st.data(), policy=named_policies())
    def check(data, policy):
        nonlocal disagreements
        flows = [data.draw(named_flows(policy)) for _ in range(FLOWS)]
        if disagreements:
            return
        kernel.forget_names()
        kernel.use(turn_one_name_round(compile_policy(policy)), LoopbackScope.FREE, policy.dns)
        for remote, learned in flows:
            kernel.learn(remote.address, learned)
            said = reference(policy, remote, LoopbackScope.FREE, learned)
            disagreements += kernel.send(remote, said=b"").verdict is not said.verdict

    check()

    assert disagreements > 0


def turn_one_name_round(tables):
    """Turn the verdicts round of the interval set that most names share."""
    used = [found for entry in tables.names for found in (entry.exact, entry.label, entry.below)]
    common = max(set(used) - {0}, key=used.count)
    sets = list(tables.interval_sets)
    sets[common] = tuple(replace(found, allow=not found.allow) for found in sets[common])
    return replace(tables, interval_sets=tuple(sets))


def test_connect_and_sendmsg_agree(behind):
    """A real connect() or sendto() gets EPERM exactly where the evaluator denies."""
    kernel, prober = behind.kernel, behind.prober
    decided = 0

    @settings(MANY, max_examples=TRIES)
    @given(data=st.data(), policy=named_policies(), scope=st.sampled_from(SCOPES))
    def check(data, policy, scope):
        nonlocal decided
        tables = compile_policy(policy)
        kernel.forget_names()
        kernel.use(tables, scope, policy.dns)
        behind.activate()
        for _ in range(FLOWS):
            kind = data.draw(st.sampled_from(tuple(KINDS)))
            remote, learned = data.draw(named_flows(policy))
            remote = replace(remote, protocol=KINDS[kind], port=remote.port or 443)
            kernel.learn(remote.address, learned)
            found = prober.attempt(kind, remote.address, remote.port)
            kernel.verdicts[found] += 1
            decided += kind != "udp-connect" and by_name(policy, remote, scope, learned)

            assert found is expected(policy, tables, kind, remote, scope, learned)

    check()

    total = kernel.verdicts.total()
    assert total >= TRIES * FLOWS
    assert min(kernel.verdicts[v] for v in (Verdict.ALLOW, Verdict.DENY)) >= total / 3
    assert decided >= total / 12


def expected(policy, tables, kind, remote, scope, learned) -> Verdict:
    """Return the evaluator's word.

    UDP connect() sends nothing and is refused only where neither the address nor one of its names
    has a port that is permitted; what one of the two denies of the other is for egress to say. An
    IPv4 address of many hosts is judged there as it is by its address.
    """
    address = destination(remote.address)
    is_many = address.version == 4 and (address.is_multicast or int(address) == 0xFFFFFFFF)
    if kind == "udp-connect" and not is_many:
        if address.is_loopback and scope is not LoopbackScope.CLOSED:
            return Verdict.ALLOW
        some = find_entry(tables, Direction.OUT, remote)
        ranges = [r for rule in tables.rules for r in rule.ports]
        edges = {edge for r in ranges for edge in (r.first, r.last + 1)}
        permitted = any(
            evaluate(
                policy,
                direction=Direction.OUT,
                remote=Endpoint(remote.address, edge & 0xFFFF, edge >> 16),
                loopback=LoopbackScope.CLOSED,
            ).verdict
            is Verdict.ALLOW
            for edge in edges
        )
        opened = not some.closed and any(
            judge_question(policy, binding.name).why is AskReason.RULE
            for binding in learned
            if binding.live
        )
        return Verdict.ALLOW if permitted or opened else Verdict.DENY
    if kind == "udp-connect":
        learned = ()
    said = reference(policy, remote, scope, learned)
    if said.code == ReasonCode.RESOLVER.value and kind == "udp" and address.is_loopback:
        return Verdict.DENY  # it reaches egress, and is no question
    return said.verdict


def test_policy_switch(wall, monkeypatch):
    """Names learned before are judged by the policy in force, in whatever slot and slice it is.

    Generations take turns in two slots, and each has the intervals of the one before last.
    """
    monkeypatch.setattr(names, "MAX_SLOT", 2)
    kernel = Kernel(wall)
    changed = total = 0

    @settings(MANY, max_examples=TRIES)
    @given(data=st.data(), pair=st.tuples(named_policies(), named_policies()))
    def check(data, pair):
        nonlocal changed, total
        first, second = pair
        kernel.forget_names()
        learned = data.draw(learned_addresses(first, second))
        flows = [
            replace(data.draw(named_remotes(policy)), address=address)
            for address in learned
            for policy in pair * 3
        ]
        flows = [flow for flow in flows if flow.protocol not in (1, 58)]
        for address, found in learned.items():
            kernel.learn(address, found)
        for policy in (first, second, first):
            kernel.use(compile_policy(policy), LoopbackScope.CLOSED, policy.dns)
            for flow in flows:
                said = reference(policy, flow, LoopbackScope.CLOSED, learned[flow.address])
                other = second if policy is first else first
                before = reference(other, flow, LoopbackScope.CLOSED, learned[flow.address])
                changed += said.verdict is not before.verdict
                total += 1

                assert sent(kernel, flow, learned[flow.address], said) == said

    check()

    assert total >= TRIES * FLOWS
    assert changed >= total / 10


def test_leaked_set_is_noticed(wall):
    """The check can fail: were what the last policy said kept for the next, judges disagree."""
    kernel = Kernel(wall)
    known = wall.maps()["aw_known"]
    disagreements = 0

    @settings(MANY, max_examples=2 * ENOUGH)
    @given(data=st.data(), pair=st.tuples(named_policies(), named_policies()))
    def check(data, pair):
        nonlocal disagreements
        learned = data.draw(learned_addresses(*pair))
        flows = [
            replace(data.draw(named_remotes(policy)), address=address)
            for address in learned
            for policy in pair
        ]
        flows = [flow for flow in flows if flow.protocol not in (1, 58)]
        if disagreements:
            return
        kernel.forget_names()
        for address, found in learned.items():
            kernel.learn(address, found)
        for policy in pair:
            kernel.use(compile_policy(policy), LoopbackScope.CLOSED, policy.dns)
            for key, value in known.entries():
                _, *rest = KNOWN.unpack(value)
                if rest[0] != bytes(8):
                    known.update(key, KNOWN.pack(kernel.generation, *rest))
            for flow in flows:
                said = reference(policy, flow, LoopbackScope.CLOSED, learned[flow.address])
                # The rule that is kept may be one that this policy does not have.
                found = kernel.send_raw(packet_to(flow, said=b""))
                disagreements += found.verdict is not said.verdict

    check()

    assert disagreements > 0


def test_expire_under_a_policy(wall):
    """What is removed as over says nothing any more, and what is left goes on as before."""
    kernel = Kernel(wall)

    @settings(MANY, max_examples=TRIES // 2)
    @given(data=st.data(), policy=named_policies())
    def check(data, policy):
        kernel.forget_names()
        kernel.use(compile_policy(policy), LoopbackScope.CLOSED, policy.dns)
        learned = data.draw(learned_addresses(policy))
        flows = [replace(data.draw(named_remotes(policy)), address=address) for address in learned]
        flows = [flow for flow in flows if flow.protocol not in (1, 58)]
        for address, found in learned.items():
            kernel.learn(address, found)
        for flow in flows:
            said = reference(policy, flow, LoopbackScope.CLOSED, learned[flow.address])
            assert sent(kernel, flow, learned[flow.address], said) == said
        wall.expire(2 * HOUR_NS * 10**6)
        for flow in flows:
            assert kernel.send(flow, said=b"") == reference(policy, flow, LoopbackScope.CLOSED)

    check()
