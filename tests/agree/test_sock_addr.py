# SPDX-License-Identifier: Apache-2.0
"""The evaluator and the connect and sendmsg programs agree, asked by real sockets.

BPF_PROG_TEST_RUN cannot run sock_addr programs. The prober lives in a cgroup behind the wall and in
a network namespace without routes, so a permitted attempt fails too, but not with EPERM.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from agree.inside import behind_a_wall
from agree.strategies import CASES, FLOWS, MANY, policies, remotes
from hypothesis import given
from hypothesis import strategies as st

from agentwall.flow.verdict import Direction, Verdict
from agentwall.net.endpoint import destination
from agentwall.policy.compile import compile_policy
from agentwall.policy.evaluate import evaluate
from agentwall.policy.model import LoopbackScope

pytestmark = pytest.mark.kernel
KINDS = {"tcp": 6, "udp": 17, "udp-connect": 17}
BROADCAST = IPv4Address("255.255.255.255")
SCOPES = (LoopbackScope.FREE, LoopbackScope.CLOSED)


@pytest.fixture(scope="module")
def behind():
    with behind_a_wall() as made:
        yield made


def test_connect_and_sendmsg_agree(behind):
    """A real connect() or sendto() gets EPERM exactly where the evaluator denies."""
    kernel, prober = behind.kernel, behind.prober

    @MANY
    @given(data=st.data(), policy=policies(), scope=st.sampled_from(SCOPES))
    def check(data, policy, scope):
        kernel.use(compile_policy(policy), scope)
        behind.activate()
        for _ in range(FLOWS):
            kind = data.draw(st.sampled_from(tuple(KINDS)))
            remote = replace(data.draw(remotes(policy)), protocol=KINDS[kind])
            remote = replace(remote, port=remote.port or 443)
            found = prober.attempt(kind, remote.address, remote.port)
            kernel.verdicts[found] += 1

            assert found is expected(policy, kind, remote, scope)

    check()

    total = kernel.verdicts.total()
    assert total >= CASES
    assert min(kernel.verdicts[v] for v in (Verdict.ALLOW, Verdict.DENY)) >= total / 3


def expected(policy, kind, remote, scope):
    """Return the evaluator's word; UDP connect() to a host is refused only where every port is."""
    address = destination(remote.address)
    to_many = address.version == 4 and (address.is_multicast or address == BROADCAST)
    if kind != "udp-connect" or to_many:
        return evaluate(policy, direction=Direction.OUT, remote=remote, loopback=scope).verdict
    if address.is_loopback and scope is not LoopbackScope.CLOSED:
        return Verdict.ALLOW
    ranges = [r for rule in (*policy.allow, *policy.deny) for r in rule.ports]
    edges = {edge for r in ranges for edge in (r.first, r.last, r.last + 1)}
    some = any(
        evaluate(
            policy,
            direction=Direction.OUT,
            remote=replace(remote, protocol=edge >> 16, port=edge & 0xFFFF),
            loopback=LoopbackScope.CLOSED,
        ).verdict
        is Verdict.ALLOW
        for edge in edges
    )
    return Verdict.ALLOW if some else Verdict.DENY
