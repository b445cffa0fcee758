# SPDX-License-Identifier: Apache-2.0
"""Looking up a dual-stack name makes probes of its addresses, and they are no denials."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from rig.cgroup import temp_cgroup
from rig.dns import NameServer, name_server
from rig.enclosure import Enclosure, describe, enclosure, parse_policy
from rig.ground import OTHER_PORT, PORT
from rig.lab import OUTSIDE6, PERMITTED, PERMITTED6, Lab, lab
from rig.listeners import http_echo, tcp_server
from rig.namespace import Namespace

pytestmark = pytest.mark.kernel

RESOLVER = "198.51.100.53"
BOTH = "both.example"
"""A name whose addresses are permitted, IPv4 and IPv6."""
HALF = "half.example"
"""A name whose IPv4 address is permitted and whose IPv6 address is not."""
POLICY = parse_policy(
    f"""
    name: lookups
    allow:
      - {{cidr: {RESOLVER}, ports: [udp/53]}}
      - {{cidr: {PERMITTED}, ports: [{PORT}]}}
      - {{cidr: "{PERMITTED6}", ports: [{PORT}]}}
    """
)
PYTHON_LOOKUP = """
import json, socket, sys
found = socket.getaddrinfo(sys.argv[1], int(sys.argv[2]), type=socket.SOCK_STREAM)
print(json.dumps(sorted(info[4][0] for info in found)))
"""
IN_OWN_MOUNTS = 'mount --bind "$0" /etc/resolv.conf && mount --bind "$1" /etc/nsswitch.conf && '
"""nscd's socket, the first road of glibc, is hidden too where there is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A lab with a resolver, a wall, and the cgroup of one test."""

    near: Namespace
    enclosure: Enclosure
    resolver: NameServer
    cgroup: Path


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[Lab, Enclosure, NameServer]]:
    """The lab, the wall and the servers, built once."""
    if not (shutil.which("dnsmasq") or Path("/usr/sbin/dnsmasq").exists()):
        pytest.skip("dnsmasq: not installed")
    names = {BOTH: f"{PERMITTED},{PERMITTED6}", HALF: f"{PERMITTED},{OUTSIDE6}"}
    with (
        enclosure() as wall,
        lab() as made,
        tcp_server(made.far, PERMITTED, PORT, session=lambda: http_echo),
        tcp_server(made.far, PERMITTED6, PORT, session=lambda: http_echo),
        name_server(made, RESOLVER, names) as resolver,
    ):
        yield made, wall, resolver


@pytest.fixture
def bench(shared: tuple[Lab, Enclosure, NameServer]) -> Iterator[Bench]:
    """A new cgroup, and a resolver that was asked nothing yet."""
    made, wall, resolver = shared
    resolver.forget()
    with temp_cgroup() as cgroup:
        yield Bench(near=made.near, enclosure=wall, resolver=resolver, cgroup=cgroup)


@pytest.fixture
def lookups(tmp_path: Path) -> list[str | Path]:
    """A command prefix whose resolver is ours alone."""
    resolv, nsswitch = tmp_path / "resolv.conf", tmp_path / "nsswitch.conf"
    resolv.write_text(f"nameserver {RESOLVER}\noptions timeout:20 attempts:1\n")
    nsswitch.write_text("hosts: dns\n")
    hide = "if [ -e /run/nscd ]; then mount -t tmpfs none /run/nscd; fi && "
    script = f'{hide}{IN_OWN_MOUNTS}shift && exec "$@"'
    return ["unshare", "--mount", "sh", "-ec", script, resolv, nsswitch]


@pytest.mark.parametrize(
    ("name", "address6", "probes"), [(BOTH, PERMITTED6, 0), (HALF, OUTSIDE6, 1)]
)
def test_python_getaddrinfo_yields_no_denial(
    bench: Bench,
    lookups: list[str | Path],
    name: str,
    address6: str,
    probes: int,
) -> None:
    """Both addresses come back, and the one that is not permitted is a probe, not a denial."""
    python = (sys.executable, "-I", "-S", "-c", PYTHON_LOOKUP, name, str(OTHER_PORT))
    with bench.enclosure.enclosed(bench.cgroup, POLICY) as key:
        done = bench.near.run(*lookups, *python, cgroup=bench.cgroup)
        refusals = [describe(event) for event in bench.enclosure.refusals(key)]
        counters = bench.enclosure.counters(key)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == sorted([PERMITTED, address6])
    assert {kind for kind, asked, _ in bench.resolver.questions() if asked == name} == {"A", "AAAA"}
    assert refusals == []
    assert counters.denied == 0
    assert counters.probes == probes


@pytest.mark.parametrize("arguments", [(BOTH,), (BOTH, "-4"), (BOTH, "-6"), (HALF, "-4")])
def test_curl_yields_no_denial(
    bench: Bench, lookups: list[str | Path], arguments: tuple[str, ...]
) -> None:
    """curl looks up the name, connects to the permitted endpoint, and nothing was denied."""
    name, *options = arguments
    url = f"http://{name}:{PORT}/"
    curl = ("curl", "--silent", "--show-error", "--max-time", "60", *options, url)
    with bench.enclosure.enclosed(bench.cgroup, POLICY) as key:
        done = bench.near.run(*lookups, *curl, cgroup=bench.cgroup)
        refusals = [describe(event) for event in bench.enclosure.refusals(key)]
        counters = bench.enclosure.counters(key)

    assert f"Host: {name}:{PORT}" in done.stdout, done.stderr
    assert bench.resolver.questions()
    assert refusals == []
    assert counters.denied == 0
