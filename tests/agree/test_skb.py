# SPDX-License-Identifier: Apache-2.0
"""The evaluator and the packet programs agree, for random policies and flows."""

from __future__ import annotations

from dataclasses import replace

import pytest
from agree.judge import SANDBOX, Kernel, reference
from agree.strategies import CASES, ENOUGH, FLOWS, MANY, inbound_ports, policies, remotes
from hypothesis import given, settings
from hypothesis import strategies as st

from agentwall.flow.verdict import Direction, Verdict
from agentwall.kernel.wall import Wall
from agentwall.net.endpoint import canonical
from agentwall.policy.compile import compile_policy
from agentwall.policy.evaluate import evaluate
from agentwall.policy.model import LoopbackScope

pytestmark = pytest.mark.kernel


@pytest.fixture
def wall():
    with Wall.load(test_sandbox=SANDBOX) as loaded:
        yield loaded


def test_egress_agrees(wall):
    """Verdict, deciding rule and reason of 2 400 packets are the evaluator's."""
    kernel = Kernel(wall)

    @MANY
    @given(data=st.data(), policy=policies(), loopback=st.sampled_from(LoopbackScope))
    def check(data, policy, loopback):
        kernel.use(compile_policy(policy), loopback)
        for _ in range(FLOWS):
            remote = data.draw(remotes(policy))

            assert kernel.send(remote) == reference(policy, remote, loopback)

    check()

    total = kernel.verdicts.total()
    assert total >= CASES
    assert kernel.verdicts[Verdict.ALLOW] >= total / 3
    assert kernel.verdicts[Verdict.DENY] >= total / 3


def test_ingress_agrees(wall):
    """A datagram comes in where an inbound rule admits it, or a rule lets one go to its sender."""
    kernel = Kernel(wall)

    @MANY
    @given(data=st.data(), policy=policies(), loopback=st.sampled_from(LoopbackScope))
    def check(data, policy, loopback):
        kernel.use(compile_policy(policy), loopback)
        for _ in range(FLOWS):
            remote = replace(data.draw(remotes(policy)), protocol=17)
            if canonical(remote.address).is_unspecified:
                continue  # nobody that was asked: tests/kernel/test_loopback.py
            port = data.draw(inbound_ports(policy))
            inward = evaluate(
                policy,
                direction=Direction.IN,
                remote=remote,
                local_port=port,
                loopback=loopback,
            )
            answer = evaluate(policy, direction=Direction.OUT, remote=remote, loopback=loopback)
            welcome = Verdict.ALLOW in (inward.verdict, answer.verdict)

            assert (kernel.receive(remote, port) is Verdict.ALLOW) == welcome

    check()

    assert min(kernel.verdicts.values()) >= kernel.verdicts.total() / 6


def test_mutated_table_is_noticed(wall):
    """The check can fail: with one verdict of the tables turned round, judges disagree."""
    kernel = Kernel(wall)
    disagreements = 0

    @settings(MANY, max_examples=ENOUGH)
    @given(data=st.data(), policy=policies())
    def check(data, policy):
        nonlocal disagreements
        flows = [data.draw(remotes(policy)) for _ in range(FLOWS)]
        if disagreements:
            return
        kernel.use(_turn_one_round(compile_policy(policy)), LoopbackScope.FREE)
        for remote in flows:
            disagreements += kernel.send(remote) != reference(policy, remote, LoopbackScope.FREE)

    check()

    assert disagreements > 0


def _turn_one_round(tables):
    """Turn the verdicts round of the interval set that most prefixes share."""
    used = [entry.interval_set for entry in tables.outbound]
    used = [found for found in used if tables.interval_sets[found]]
    common = max(set(used), key=used.count)
    sets = list(tables.interval_sets)
    sets[common] = tuple(replace(found, allow=not found.allow) for found in sets[common])
    return replace(tables, interval_sets=tuple(sets))
