# SPDX-License-Identifier: Apache-2.0
"""The measured policies hold what their titles say, and permit what the probe does."""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_address

import pytest

from agentwall.flow.verdict import Direction, Verdict
from agentwall.net.endpoint import Endpoint
from agentwall.policy.evaluate import evaluate
from agentwall.policy.load import load_policy
from agentwall.policy.model import LoopbackScope
from bench.ground import FAR_ADDRESS, LOCAL_ADDRESS
from bench.policies import PERMITTED_NAME, other_addresses, write_policy

TCP, UDP = 6, 17
PORT = 40_000


def _load(directory, **wanted):
    return load_policy(write_policy(directory / "policy", **wanted), search_path=())


def _judge(policy, address, protocol, names=()):
    remote = Endpoint(ip_address(address), PORT, protocol)
    scope = LoopbackScope.CLOSED
    outward = Direction.OUT
    return evaluate(policy, direction=outward, remote=remote, loopback=scope, names=names).verdict


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize(("addresses", "names"), [(10, 10), (2, 1), (500, 300)])
def test_as_many_entries_as_asked_for(tmp_path, addresses, names, by_name):
    """Each count is what was asked for, the probe's own destinations included."""
    policy = _load(tmp_path, addresses=addresses, names=names, by_name=by_name)

    prefixes = {prefix for rule in policy.allow for prefix in rule.prefixes}
    patterns = {pattern for rule in policy.allow for pattern in rule.patterns}
    assert (len(prefixes), len(patterns)) == (addresses, names)


def test_without_names_there_is_no_dns(tmp_path):
    """Policies of addresses alone are those of a sandbox without names."""
    policy = _load(tmp_path)

    assert policy.dns is None
    assert not any(rule.patterns for rule in policy.allow)


@pytest.mark.parametrize("protocol", [TCP, UDP])
@pytest.mark.parametrize("address", [LOCAL_ADDRESS, FAR_ADDRESS])
def test_by_address_permits_every_port(tmp_path, address, protocol):
    """The probe's listener has whatever port the kernel chose."""
    policy = _load(tmp_path, names=10)

    assert _judge(policy, address, protocol) is Verdict.ALLOW


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_by_name_permits_the_name_alone(tmp_path, protocol):
    """Without its name the local address is refused, so a sample shows that it was learned."""
    policy = _load(tmp_path, names=10, by_name=True)

    assert _judge(policy, LOCAL_ADDRESS, protocol) is Verdict.DENY
    assert _judge(policy, LOCAL_ADDRESS, protocol, [PERMITTED_NAME]) is Verdict.ALLOW


def test_other_addresses_are_different():
    """None is given twice, so as many entries arrive in the kernel as are counted."""
    found = Counter(other_addresses(200_000))

    assert len(found) == 200_000
    assert all(address.startswith("44.") for address in found)
