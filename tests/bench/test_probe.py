# SPDX-License-Identifier: Apache-2.0
"""The probe does what it says it timed: the kernel's own counters agree with it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bench.ground import FAR_ADDRESS, LOCAL_ADDRESS, lay_ground, make_cgroup, run
from bench.policies import PERMITTED_NAME
from bench.resolver import name_server
from bench.toolchain import build

pytestmark = pytest.mark.kernel

_COUNTERS = {
    "tcp": "TcpActiveOpens",
    "udp-sendto": "UdpOutDatagrams",
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The compiled parts."""
    return build(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def ground():
    """The benchmark's own namespaces."""
    with lay_ground() as laid:
        yield laid


def _count(ground, counter):
    for line in run(*ground.inside("nstat", "-asz", counter)).splitlines():
        if line.startswith(counter):
            return int(line.split()[1])
    raise LookupError(counter)


@pytest.mark.parametrize("operation", sorted(_COUNTERS))
@pytest.mark.parametrize("address", [LOCAL_ADDRESS, FAR_ADDRESS])
def test_probe_counts_operations(built, ground, operation, address):
    """As many connections or datagrams leave as the probe says, on both roads."""
    options = ["--address", address]
    if address == FAR_ADDRESS:
        options += ["--listener-netns", f"/run/netns/{ground.far}"]
    before = _count(ground, _COUNTERS[operation])

    ns, operations = run(*ground.inside(built.probe, *options, operation, "64")).split()

    assert float(ns) > 0
    assert int(operations) >= 64
    assert _count(ground, _COUNTERS[operation]) - before == int(operations)


def test_stream_arrives_whole(built, ground):
    """Every chunk of the stream reaches the other end over one connection."""
    before = _count(ground, "TcpActiveOpens")
    options = ["--address", FAR_ADDRESS, "--listener-netns", f"/run/netns/{ground.far}"]

    ns, operations = run(*ground.inside(built.probe, *options, "tcp-stream", "64")).split()

    assert float(ns) > 0
    assert int(operations) >= 64
    assert _count(ground, "TcpActiveOpens") - before == 1
    assert _count(ground, "IpExtOutOctets") >= int(operations) * 65536


@pytest.mark.parametrize(
    ("operation", "least"), [("tcp-http", 600), ("tcp-tls", 600), ("tcp-lines", 65_536)]
)
def test_new_flows_say_something(built, ground, operation, least):
    """Each operation is a connection of its own, over which all of its bytes go."""
    counters = ("TcpActiveOpens", "IpExtOutOctets")
    before = [_count(ground, counter) for counter in counters]

    ns, operations = run(*ground.inside(built.probe, operation, "64")).split()

    opened, octets = (
        _count(ground, counter) - then for counter, then in zip(counters, before, strict=True)
    )
    assert float(ns) > 0
    assert opened == int(operations)
    assert octets >= int(operations) * least


def test_udp_connect_sends_nothing(built, ground):
    """The third operation is connect() alone."""
    before = _count(ground, "UdpOutDatagrams")

    ns, operations = run(
        *ground.inside(built.probe, "--address", LOCAL_ADDRESS, "udp-connect", "64")
    ).split()

    assert float(ns) > 0
    assert int(operations) >= 64
    assert _count(ground, "UdpOutDatagrams") == before


def test_lookups_are_answered(built, ground):
    """Each operation is one question over UDP and one answer of the far side's server."""
    options = ["--address", FAR_ADDRESS, "--name", PERMITTED_NAME]
    counters = ("UdpOutDatagrams", "UdpInDatagrams")
    with name_server(ground):
        before = [_count(ground, counter) for counter in counters]
        ns, operations = run(*ground.inside(built.probe, *options, "dns", "64")).split()
        after = [_count(ground, counter) for counter in counters]

    assert float(ns) > 0
    assert int(operations) >= 64
    assert [now - then for now, then in zip(after, before, strict=True)] == [int(operations)] * 2


def test_unknown_name_is_no_lookup(built, ground):
    """An answer without an address ends the measurement."""
    options = ["--address", FAR_ADDRESS, "--name", "unknown.example.com"]
    refused = pytest.raises(RuntimeError, match="dns: expected an address for unknown")
    with name_server(ground), refused:
        run(*ground.inside(built.probe, *options, "dns", "64"))


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (
            ["ping", "64"],
            "expected tcp, tcp-stream, tcp-http, tcp-tls, tcp-lines, udp-sendto, udp-connect or "
            "dns, got ping",
        ),
        (["tcp", "31"], "rounds: expected at least 32, got 31"),
        (["--address", "example", "tcp", "64"], "address: expected a numeric address"),
        (["--name", "a..b", "dns", "64"], "name: expected a domain name, got a..b"),
        (["tcp"], "usage:"),
    ],
)
def test_probe_refuses_bad_arguments(built, arguments, problem):
    """A request that cannot be measured is an error, with the reason."""
    done = subprocess.run([built.probe, *arguments], capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert problem in done.stderr
    assert done.stdout == ""


def test_ground_leaves_nothing():
    """Namespaces and cgroups are gone after use."""
    with lay_ground() as laid, make_cgroup() as cgroup:
        places = [Path("/run/netns") / laid.near, Path("/run/netns") / laid.far, cgroup]
        assert all(place.exists() for place in places)

    assert not any(place.exists() for place in places)
