# SPDX-License-Identifier: Apache-2.0
"""Real clients of real DNS servers: what they look up they reach, however the answer comes."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from rig.answers import CNAME, NXDOMAIN, TRUNCATED, A, Asked, Record, answer, scripted_server
from rig.cgroup import temp_cgroup
from rig.dns import UNKNOWN_IS_NXDOMAIN, NameServer, find_unbound, name_server, unbound
from rig.enclosure import Enclosure, describe, enclosure, parse_policy
from rig.lab import OUTSIDE, PERMITTED, PERMITTED6, Lab, lab
from rig.listeners import http_echo, tcp_server
from rig.resolv import asking

pytestmark = pytest.mark.kernel

DNSMASQ, UNBOUND, SCRIPTED = "198.51.100.53", "198.51.100.54", "198.51.100.55"
PORT = 8080
HUB, ALIAS, HALF = "hub.example.com", "alias.example.com", "half.example.com"
LONG, WIDE = "long.example.com", "wide.example.com"
PATIENT = "timeout:20"
SEARCH = "svc.cluster.example cluster.example"
CHAIN = 14
"""CNAMEs behind LONG: with the name itself and the last one 16, as many as are followed."""
WIDTH = 30
"""Addresses of WIDE: more than fit into 512 octets, fewer than are taken of one answer."""
POLICY = f"""
    name: clients
    dns:
      servers: [{DNSMASQ}, {UNBOUND}, {SCRIPTED}]
      search: [svc.cluster.example, cluster.example]
    allow:
      - {{host: "*.example.com", ports: [{PORT}]}}
"""
LOOKUP = """
import json, socket, sys
found = socket.getaddrinfo(sys.argv[1], int(sys.argv[2]), type=socket.SOCK_STREAM)
reached = []
for family, kind, protocol, _, address in found:
    with socket.socket(family, kind, protocol) as sock:
        sock.settimeout(60)
        sock.connect(address)
        reached.append(address[0])
print(json.dumps(sorted(reached)))
"""
WIDE_ADDRESSES = [f"203.0.113.{100 + i}" for i in range(WIDTH)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A lab with a wall and three resolvers."""

    lab: Lab
    enclosure: Enclosure
    resolvers: dict[str, NameServer]

    def run(
        self, directory: Path, server: str, *command: str, **resolv: str
    ) -> tuple[str, list[str]]:
        """Run *command* behind the wall; return its stdout and what was refused."""
        with temp_cgroup() as cgroup, self.enclosure.enclosed(cgroup, parse_policy(POLICY)) as key:
            prefix = asking(directory, server, **resolv)
            done = self.lab.near.run(*prefix, *command, cgroup=cgroup)
            refusals = [describe(event) for event in self.enclosure.refusals(key)]
        assert done.returncode == 0, (done.stderr, refusals)
        return done.stdout, refusals

    def look_up(self, directory: Path, server: str, name: str, **resolv: str) -> list[str]:
        """Look *name* up by glibc and connect to all of its addresses; nothing is refused."""
        python = (sys.executable, "-I", "-S", "-c", LOOKUP, name, str(PORT))
        out, refusals = self.run(directory, server, *python, **resolv)
        assert refusals == []
        return json.loads(out)


def _script(asked: Asked) -> bytes:
    if asked.name == WIDE:
        if not asked.is_stream:
            return answer(asked, flags=TRUNCATED)
        found = WIDE_ADDRESSES if asked.kind == A else []
        return answer(asked, [Record(WIDE, A, address) for address in found])
    if asked.name == LONG:
        names = [LONG, *(f"hop{i}.elsewhere.example" for i in range(CHAIN + 1))]
        chain = [Record(a, CNAME, b) for a, b in itertools.pairwise(names)]
        last = [Record(names[-1], A, PERMITTED)] if asked.kind == A else []
        return answer(asked, [*chain, *last])
    return answer(asked, flags=NXDOMAIN)


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    """The bench, built once."""
    both, half = f"{PERMITTED},{PERMITTED6}", f"{PERMITTED},2001:db8:dead::1"
    names = {HUB: both, HALF: half, WIDE: WIDE_ADDRESSES[0]}
    records = [f"{HUB}. A {PERMITTED}", f"{HUB}. AAAA {PERMITTED6}", f"{ALIAS}. CNAME {HUB}."]
    records += [f"{HALF}. A {PERMITTED}", *(f"{WIDE}. A {address}" for address in WIDE_ADDRESSES)]
    with ExitStack() as stack:
        made = stack.enter_context(lab())
        wall = stack.enter_context(enclosure(made.near))
        for address in (PERMITTED, PERMITTED6, OUTSIDE, *WIDE_ADDRESSES):
            server = tcp_server(made.far, address, PORT, session=lambda: http_echo)
            stack.enter_context(server)
        aliases = {ALIAS: HUB}
        options = UNKNOWN_IS_NXDOMAIN
        masq = name_server(made, DNSMASQ, names, aliases=aliases, options=options)
        resolvers = {DNSMASQ: stack.enter_context(masq)}
        stack.enter_context(scripted_server(made.far, SCRIPTED, _script))
        if find_unbound():
            resolvers[UNBOUND] = stack.enter_context(unbound(made, UNBOUND, records))
        yield Bench(lab=made, enclosure=wall, resolvers=resolvers)


@pytest.fixture(params=[DNSMASQ, UNBOUND], ids=["dnsmasq", "unbound"])
def server(bench: Bench, request: pytest.FixtureRequest) -> str:
    """The address of a real DNS server that is there."""
    if request.param not in bench.resolvers:
        pytest.skip("unbound: not installed")
    bench.resolvers[request.param].forget()
    return request.param


BOTH = sorted([PERMITTED, PERMITTED6])


@pytest.mark.parametrize("options", [f"{PATIENT}{more}" for more in ("", " edns0", " use-vc")])
@pytest.mark.parametrize("name", [HUB, ALIAS, HUB.upper()])
def test_every_address_is_reached(
    bench: Bench, tmp_path: Path, server: str, name: str, options: str
) -> None:
    """A and AAAA, over UDP and TCP, with EDNS, behind a CNAME and in another spelling."""
    assert bench.look_up(tmp_path, server, name, options=options) == BOTH


@pytest.mark.parametrize("name", [HUB, ALIAS])
def test_a_search_list_with_many_dots(bench: Bench, tmp_path: Path, server: str, name: str) -> None:
    """ndots:5, as in a cluster: every suffix is asked first, and none of that is refused."""
    found = bench.look_up(tmp_path, server, name, search=SEARCH, options=f"ndots:5 {PATIENT}")

    assert found == BOTH
    asked = [asked for _, asked, _ in bench.resolvers[server].questions()]
    assert {f"{name}.svc.cluster.example", f"{name}.cluster.example", name} <= set(asked)


@pytest.mark.parametrize("name", [HUB, ALIAS, HALF])
def test_curl_races_two_families(bench: Bench, tmp_path: Path, server: str, name: str) -> None:
    """Happy eyeballs: the address that answers is reached, also when the other one is dead."""
    url = f"http://{name}:{PORT}/"
    curl = ("curl", "--silent", "--show-error", "--max-time", "60", url)
    with temp_cgroup() as cgroup, bench.enclosure.enclosed(cgroup, parse_policy(POLICY)) as key:
        done = bench.lab.near.run(*asking(tmp_path, server), *curl, cgroup=cgroup)
        refusals = [describe(event) for event in bench.enclosure.refusals(key)]

    assert f"Host: {name}:{PORT}" in done.stdout, done.stderr
    assert refusals == []


def test_what_is_cut_short_comes_over_tcp(bench: Bench, tmp_path: Path) -> None:
    """The answer over UDP says TC; over TCP it holds many addresses, and each is reached."""
    assert bench.look_up(tmp_path, SCRIPTED, WIDE) == sorted(WIDE_ADDRESSES)


@pytest.mark.parametrize("options", [PATIENT, f"{PATIENT} edns0"])
def test_a_big_answer_of_a_real_server(bench: Bench, tmp_path: Path, options: str) -> None:
    """It comes over TCP without EDNS, and in one datagram with it."""
    if UNBOUND not in bench.resolvers:
        pytest.skip("unbound: not installed")

    found = bench.look_up(tmp_path, UNBOUND, WIDE, options=options)

    assert found == sorted(WIDE_ADDRESSES)


def test_a_long_chain(bench: Bench, tmp_path: Path) -> None:
    """As many CNAMEs as are followed, to names that no rule permits."""
    assert bench.look_up(tmp_path, SCRIPTED, LONG) == [PERMITTED]
