# SPDX-License-Identifier: Apache-2.0
"""Coverage: a pure function of facts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agentwall.host.coverage import CoverageLevel, Facts, assess_coverage

CLOSED = Facts(
    is_attached=True,
    missing_hooks=(),
    has_own_netns=True,
    has_own_pidns=True,
    kept_capabilities=(),
    kept_descriptors=(),
    host_sockets=(),
    filters_families=True,
    has_vsock=True,
    can_type_for_others=False,
)


def test_full():
    """With nothing open the coverage is full, and vsock is not open behind the filter."""
    coverage = assess_coverage(CLOSED)

    assert (coverage.level, coverage.roads) == (CoverageLevel.FULL, ())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"missing_hooks": ("aw_egress",)}, "hooks not in force: aw_egress"),
        ({"has_own_netns": False}, "the host's network namespace"),
        ({"kept_capabilities": ("NET_RAW",)}, "capabilities kept: NET_RAW"),
        ({"kept_descriptors": ("3 (inet socket)",)}, "descriptors kept: 3 (inet socket)"),
        ({"host_sockets": ("/run/docker.sock",)}, "unix sockets of host services: /run/docker"),
        ({"filters_families": False}, "socket families: vsock and others"),
        ({"filters_families": False, "has_vsock": False}, "socket families: RDS, SMC and others"),
        ({"has_own_pidns": False}, "processes of the same user"),
        (
            {"kept_deputies": ("/run/nscd/socket (nscd)",)},
            "sockets kept: /run/nscd/socket (nscd)",
        ),
        ({"can_type_for_others": True}, "the terminal"),
    ],
)
def test_partial(change, words):
    """Each open road alone makes it partial, and is named."""
    coverage = assess_coverage(replace(CLOSED, **change))

    assert coverage.level is CoverageLevel.PARTIAL
    [road] = coverage.roads
    assert str(road).startswith(words)


def test_none():
    """Without a hook there is no coverage, whatever else is closed."""
    assert assess_coverage(replace(CLOSED, is_attached=False)).level is CoverageLevel.NONE


@pytest.mark.parametrize(
    ("kept", "servers", "is_open"),
    [
        ((), ("127.0.0.53",), False),
        (("NET_RAW",), (), False),
        (("BPF",), ("127.0.0.53",), False),
        (("NET_RAW",), ("127.0.0.53",), True),
        (("NET_ADMIN",), ("127.0.0.53", "::1"), True),
    ],
)
def test_forged_answers(kept, servers, is_open):
    """A server on loopback can be played by who may send in its place, and then names are open."""
    facts = replace(CLOSED, kept_capabilities=kept, loopback_resolvers=servers)

    found = [str(road) for road in assess_coverage(facts).roads if road.code == "names"]

    expected = f"names: could forge answers of a DNS server on loopback: {', '.join(servers)}"
    assert found == ([expected] if is_open else [])
