# SPDX-License-Identifier: Apache-2.0
"""What counts as a scan."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from agentwall.flow.verdict import Direction
from agentwall.policy.learned_evidence import Target
from agentwall.policy.learned_scans import ANYWHERE, Trial, find_scans

LIMIT = 4


def trial(
    host: int = 1,
    port: int = 22,
    *,
    name: str | None = None,
    sandbox: str = "a",
    protocol: int = 6,
    direction: Direction = Direction.OUT,
) -> Trial:
    address = ip_address(f"10.20.0.{host}")
    return sandbox, Target(direction, name, address, protocol, port)


@pytest.mark.parametrize(
    ("trials", "what"),
    [
        (
            [trial(host) for host in (3, 1, 2, 10)],
            "tcp/22 of 4 addresses, 10.20.0.1 to 10.20.0.10",
        ),
        (
            [trial(host, 0, protocol=1) for host in range(1, 6)],
            "icmp of 5 addresses, 10.20.0.1 to 10.20.0.5",
        ),
        (
            [trial(1, port) for port in (80, 22, 443, 8080)],
            "4 tcp ports, 22 to 8080, of 10.20.0.1",
        ),
        (
            [trial(port, port, name="hub.example.com") for port in range(1, 5)],
            "4 tcp ports, 1 to 4, of hub.example.com",
        ),
        (
            [trial(1, port, direction=Direction.IN) for port in range(1, 5)],
            "4 tcp ports, 1 to 4, of the sandbox, by 10.20.0.1",
        ),
    ],
)
def test_scans(trials, what):
    """Many addresses at one port, or many ports of one host, told with their span."""
    (found,) = find_scans(trials, LIMIT)

    assert found.what == what
    assert set(found.trials) == set(trials)


@pytest.mark.parametrize(
    "trials",
    [
        [trial(host) for host in range(1, LIMIT)],
        [trial(host, host) for host in range(1, 9)],
        [trial(host, name="cdn.example.com") for host in range(1, 9)],
        [trial(host, sandbox=str(host)) for host in range(1, 9)],
        [trial(host, protocol=6 + 11 * (host % 2)) for host in range(1, 2 * LIMIT - 1)],
        [trial(host, 8000, direction=Direction.IN) for host in range(1, 9)],
        [trial(1, 0, protocol=number) for number in range(100, 109)],
    ],
)
def test_no_scans(trials):
    """Few, each with a port of its own, of one name, of many sandboxes, or callers of a service."""
    assert find_scans(trials, LIMIT) == []


def far(number: int) -> Trial:
    """Return a trial in a network of its own."""
    address = ip_address(f"100.{number}.0.1")
    return "a", Target(Direction.OUT, None, address, 6, 443)


def test_many_networks():
    """Addresses of many networks are those of the world's servers, up to a number."""
    trials = [far(number) for number in range(1, LIMIT * ANYWHERE + 1)]

    assert find_scans(trials[1:], LIMIT) == []
    assert [len(scan.trials) for scan in find_scans(trials, LIMIT)] == [len(trials)]
    network = [trial(host) for host in range(1, LIMIT + 1)]
    assert [set(scan.trials) for scan in find_scans([far(1), *network], LIMIT)] == [set(network)]


def test_both_ways():
    """A grid of addresses and ports is a scan at each port, and nothing is in two scans."""
    trials = [trial(host, port) for host in range(1, 6) for port in range(1, 6)]

    found = find_scans(trials, LIMIT)

    assert len(found) == 5
    assert sorted(t[1].order for scan in found for t in scan.trials) == sorted(
        t[1].order for t in trials
    )
