# SPDX-License-Identifier: Apache-2.0
"""Look up, connect at once, thousands of times: no connect is ever ahead of what was learned."""

from __future__ import annotations

import itertools
import json
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from rig.ageing import end_addresses
from rig.answers import NXDOMAIN, A, Asked, Record, ScriptedServer, answer, scripted_server
from rig.cgroup import temp_cgroup
from rig.enclosure import Enclosure, describe, enclosure, parse_policy
from rig.lab import Lab, lab
from rig.listeners import Server, tcp_server
from rig.puppet import PATIENCE_S, SILENCE_S
from rig.resolv import asking

pytestmark = pytest.mark.kernel

CLIENTS = Path(__file__).parent / "clients"
RESOLVER = "198.51.100.53"
PORT = 7443
ADDRESSES = 150
THREADS = 8
NEVER = "203.0.113.250"
"""An address that no answer holds."""
HUB, MIRROR = "hub.example.com", "mirror.example.com"
TTL_S = 60
"""However late a thread comes to connect on a busy machine, what it was told still holds."""


def policy_for(*names: str) -> str:
    """Return a policy that permits *names* at PORT, what is learned being good for TTL_S."""
    rules = "\n".join(f"      - {{host: {name}, ports: [{PORT}]}}" for name in names)
    return f"""
    name: loops
    dns: {{servers: [{RESOLVER}], min_ttl: {TTL_S}}}
    allow:
{rules}
    """


def rotating() -> Iterator[int]:
    """Return 0 to ADDRESSES - 1, over and over."""
    return itertools.cycle(range(ADDRESSES))


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A lab with a wall, a resolver whose every answer is another address, and a server at all."""

    lab: Lab
    enclosure: Enclosure
    resolver: ScriptedServer
    server: Server


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    """The bench, built once."""
    turns = {HUB: ("203.0.113", rotating()), MIRROR: ("198.51.100", rotating())}
    lock = threading.Lock()

    def make(asked: Asked) -> bytes:
        if asked.name not in turns:
            return answer(asked, flags=NXDOMAIN)
        if asked.kind != A:
            return answer(asked)
        network, turn = turns[asked.name]
        with lock:
            host = 100 + next(turn)
        return answer(asked, [Record(asked.name, A, f"{network}.{host}", TTL_S)])

    with (
        lab() as made,
        enclosure(made.near) as wall,
        tcp_server(made.far, "0.0.0.0", PORT) as server,
        scripted_server(made.far, RESOLVER, make) as resolver,
    ):
        yield Bench(lab=made, enclosure=wall, resolver=resolver, server=server)


def run_loops(
    bench: Bench, directory: Path, cgroup: Path, loops: int, name: str, forbidden: str
) -> dict[str, object]:
    """Run clients/loops.py in *cgroup* and return what it printed."""
    command = (sys.executable, "-I", "-S", CLIENTS / "loops.py", str(loops), str(THREADS))
    done = bench.lab.near.run(
        *asking(directory, RESOLVER),
        *(*command, name, str(PORT), forbidden),
        cgroup=cgroup,
        timeout_s=600.0,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("loops", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_no_connect_is_ahead_of_its_answer(bench: Bench, tmp_path: Path, loops: int) -> None:
    """Each connect follows its answer at once, and none is refused; what was not learned is."""
    with (
        temp_cgroup() as cgroup,
        bench.enclosure.enclosed(cgroup, parse_policy(policy_for(HUB))) as key,
    ):
        result = run_loops(bench, tmp_path, cgroup, loops, HUB, NEVER)
        counters = bench.enclosure.counters(key)
        refused = {str(e.remote.address) for e in bench.enclosure.refusals(key) if e.remote}

    assert result["seen"] == {"connected": loops, "forbidden PermissionError": loops // 5}
    assert refused == {NEVER}
    assert counters.lost_names == 0
    assert NEVER not in {delivery.local[0] for delivery in bench.server.deliveries}


@pytest.mark.parametrize("loops", [200, pytest.param(4_000, marks=pytest.mark.slow)])
def test_sandboxes_side_by_side_learn_apart(bench: Bench, tmp_path: Path, loops: int) -> None:
    """Two sandboxes at once: each reaches what it learned, never what the other one did."""
    sides = ((HUB, "198.51.100.100"), (MIRROR, "203.0.113.100"))
    results: dict[str, dict[str, object]] = {}

    def run(name: str, forbidden: str, cgroup: Path) -> None:
        directory = tmp_path / name
        directory.mkdir()
        results[name] = run_loops(bench, directory, cgroup, loops, name, forbidden)

    with temp_cgroup() as one, temp_cgroup() as other:
        cgroups = (one, other)
        keys = [
            bench.enclosure.enclose(cgroup, parse_policy(policy_for(HUB, MIRROR)))
            for cgroup in cgroups
        ]
        threads = [
            threading.Thread(target=run, args=(*side, cgroup))
            for side, cgroup in zip(sides, cgroups, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        refused = [{str(e.remote.address) for e in bench.enclosure.refusals(k)} for k in keys]
        for key in keys:
            bench.enclosure.wall.detach(key)

    wanted = {"connected": loops, "forbidden PermissionError": loops // 5}
    assert {name: result["seen"] for name, result in results.items()} == dict.fromkeys(
        (HUB, MIRROR), wanted
    )
    assert refused == [{forbidden} for _, forbidden in sides]


@pytest.mark.parametrize("flows", [50, pytest.param(500, marks=pytest.mark.slow)])
def test_a_switch_cuts_what_is_gone_and_nothing_else(
    bench: Bench, tmp_path: Path, flows: int
) -> None:
    """Flows opened by two names: those of the name that stays live on, the others are cut.

    What was learned is over meanwhile; flows keep their names.
    """
    command = (sys.executable, "-I", "-S", CLIENTS / "flows.py", str(PORT), str(flows), HUB, MIRROR)
    bench.server.clear()
    with (
        temp_cgroup() as cgroup,
        bench.enclosure.enclosed(cgroup, parse_policy(policy_for(HUB, MIRROR))) as key,
        bench.lab.near.process(*asking(tmp_path, RESOLVER), *command, cgroup=cgroup) as client,
    ):
        assert client.stdin
        assert client.stdout

        def answered(**within_s: float) -> dict[str, int]:
            client.stdin.write(json.dumps({HUB: PATIENCE_S, MIRROR: PATIENCE_S} | within_s) + "\n")
            client.stdin.flush()
            return json.loads(client.stdout.readline())

        assert client.stdout.readline() == "open\n", client.stderr.read()
        before = answered()
        end_addresses(bench.enclosure.wall)
        for _ in range(20):
            bench.enclosure.bind(key, parse_policy(policy_for(HUB, MIRROR)))
        between = answered()
        assert [describe(e) for e in bench.enclosure.refusals(key)] == []
        bench.enclosure.bind(key, parse_policy(policy_for(HUB)))
        after = answered(**{MIRROR: SILENCE_S})
        cut = {str(e.remote.address) for e in bench.enclosure.refusals(key) if e.remote}
        # Before the client ends, and its kernel sends what was refused once more.
        mirrored = [d for d in bench.server.deliveries if d.local[0].startswith("198.51.100.")]
        heard = b"".join(delivery.data for delivery in mirrored)

    assert before == between == {HUB: flows, MIRROR: flows}
    assert after == {HUB: flows, MIRROR: 0}
    assert heard.count(b"round 0001") == flows
    assert b"round 0002" not in heard
    assert all(address.startswith("198.51.100.") for address in cut)
    assert cut
