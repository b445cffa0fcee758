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
        ({"kernel_filesystems": ("bpf on /b",)}, "kernel file systems: bpf on /b"),
        ({"sockets_outside": ("tcp to 192.0.2.1:9",)}, "sockets made elsewhere: tcp to 192."),
        ({"unknown": ("2 more processes",)}, "not known: 2 more processes"),
        (
            {
                "filters_families": False,
                "unseen_families": ("RDS", "vsock"),
                "family_filter": "no seccomp filter",
            },
            "socket families: RDS, vsock that no hook sees; no seccomp filter",
        ),
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


@pytest.mark.parametrize(
    ("has_belt", "level"), [(True, CoverageLevel.NETWORK_ONLY), (False, CoverageLevel.NONE)]
)
def test_own_stack(has_belt, level):
    """What has a network stack of its own is judged where its packets leave, or not at all."""
    coverage = assess_coverage(replace(CLOSED, own_stack=("gVisor",), has_belt=has_belt))

    assert coverage.level is level
    assert [str(road) for road in coverage.roads] == ["a network stack of its own: gVisor"]


@pytest.mark.parametrize(("unknown", "is_final"), [((), True), (("2 processes",), False)])
def test_final(unknown, is_final):
    """Where something could not be looked at, that is worth another look."""
    coverage = assess_coverage(replace(CLOSED, unknown=unknown, has_own_pidns=False))

    assert coverage.is_final is is_final
