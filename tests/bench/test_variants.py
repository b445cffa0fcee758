# SPDX-License-Identifier: Apache-2.0
"""Each variant is in force for what is measured, and gone afterwards."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from agentwall.detect.signature import SignatureSet
from bench.course import (
    AGENTWALL,
    EMPTY,
    FEW_BY_NAME,
    FEW_SIGNATURES,
    INSPECTED,
    LINES,
    LOCAL,
    LOOKUP,
    OPERATIONS,
    PROFILED_LEGS,
    Leg,
)
from bench.ground import FAR_ADDRESS, LOCAL_ADDRESS, lay_ground, run
from bench.latency import sample
from bench.policies import write_policy
from bench.programs import measure_programs
from bench.searches import compile_sought, generate_signatures
from bench.toolchain import build
from bench.variants import Bare, EmptyPrograms, Nftables, prepare_all
from bench.walls import Agentwall, Beside

pytestmark = pytest.mark.kernel

_TCP, _, _, _UDP_CONNECT = OPERATIONS


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The compiled parts."""
    return build(tmp_path_factory.mktemp("bench"))


@pytest.fixture
def wall(tmp_path):
    """agentwall with the benchmark's own policy."""
    return Agentwall.from_file(write_policy(tmp_path / "policy"))


@pytest.fixture
def named(built, tmp_path):
    """agentwall with a policy that permits the local address by name only."""
    path = write_policy(tmp_path / "named", names=10, by_name=True)
    return Agentwall.from_file(path, resolving=built.probe)


def _attached(cgroup):
    # With nothing attached bpftool 7.1 prints no JSON at all.
    return json.loads(run("bpftool", "--json", "cgroup", "show", cgroup).strip() or "[]")


@pytest.mark.parametrize("kind", ["empty", "wall"])
def test_programs_are_attached_only_while_in_force(built, wall, kind):
    """Eight programs stand at the cgroup while the variant is in force, none before and after."""
    variant = {"empty": EmptyPrograms(built.empty_object), "wall": wall}[kind]
    with lay_ground() as ground, variant.prepare(ground) as place:
        before = _attached(place.cgroup)
        with place.in_force():
            during = _attached(place.cgroup)
        after = _attached(place.cgroup)

    assert (before, len(during), after) == ([], 8, [])


def test_neighbour_has_no_programs(wall):
    """The command beside a sandbox is not in it."""
    with lay_ground() as ground, Beside(wall).prepare(ground) as place, place.in_force():
        assert _attached(place.cgroup) == []


def test_bare_is_bare():
    """Nothing is attached to the cgroup that everything is compared with."""
    with lay_ground() as ground, Bare().prepare(ground) as place, place.in_force():
        assert _attached(place.cgroup) == []


def test_nftables_permits_only_its_set():
    """The yardstick is a firewall: what is not in its set is dropped."""
    with lay_ground() as ground, Nftables(elements=100).prepare(ground):
        run(*ground.inside("ip", "address", "add", "198.51.100.77/32", "dev", "lo"))
        run(*ground.inside("bash", "-c", f"echo > /dev/udp/{LOCAL_ADDRESS}/9"))

        with pytest.raises(RuntimeError, match="not permitted"):
            run(*ground.inside("bash", "-c", "echo > /dev/udp/198.51.100.77/9"))


def test_wall_runs_once_an_operation(built, wall, named):
    """The run statistics count the programs that the probe's operations pass."""
    variants = {EMPTY: EmptyPrograms(built.empty_object), AGENTWALL: wall, FEW_BY_NAME: named}
    legs = [
        replace(leg, variants=[name for name in leg.variants if name in variants])
        for leg in PROFILED_LEGS
    ]
    with prepare_all(variants) as places:
        costs = measure_programs(built.probe, places, legs, 1, lambda _: None)

    for name in variants:
        assert costs[_UDP_CONNECT.title, "cgroup_inet4_connect", name].runs == 1
        assert costs[_TCP.title, "cgroup_inet_sock_create", name].runs == 1
        assert costs[_TCP.title, "cgroup_inet4_connect", name].runs == 1
        assert costs[_TCP.title, "cgroup_inet_egress", name].runs >= 3
    for name in (EMPTY, FEW_BY_NAME):
        assert costs[LOOKUP.title, "cgroup_inet_egress", name].runs == 1
        assert costs[LOOKUP.title, "cgroup_inet_ingress", name].runs == 1


def test_flow_is_read_only_with_signatures(built, wall):
    """What is looked for in 64 KiB of JSON lines takes many times as long as judging them."""
    sought, _ = compile_sought(generate_signatures(10))
    variants = {AGENTWALL: wall, FEW_SIGNATURES: Agentwall(wall.policy, sought=sought)}
    legs = [Leg(LINES, LOCAL, list(variants))]
    with prepare_all(variants) as places:
        # The median of three: the processor may be taken away in the middle of a program.
        costs = measure_programs(built.probe, places, legs, 3, lambda _: None)

    took = {name: costs[LINES.title, "cgroup_inet_egress", name].ns for name in variants}
    assert took[FEW_SIGNATURES] > 20 * took[AGENTWALL]


def test_match_is_no_sample(built, tmp_path):
    """A figure for flows in which something was found would be another figure."""
    path = write_policy(tmp_path / "alerting")
    path.write_text(path.read_text() + "detect: {mining: alert}\n")
    (one,) = generate_signatures(1).signatures
    matching = replace(one, pattern='"method": "status.get"')
    sought, _ = compile_sought(SignatureSet(signatures=(matching,), indicators=(), digest=""))
    refused = pytest.raises(RuntimeError, match="expected nothing denied, matched or lost")
    with prepare_all({INSPECTED: Agentwall.from_file(path, sought=sought)}) as places:
        place = places[INSPECTED]
        with refused, place.in_force():
            sample(built.probe, LINES, LOCAL, place)


def test_name_is_learned_anew_for_every_sample(built, named):
    """What one sample resolved is gone before the next, which resolves it itself."""
    with prepare_all({FEW_BY_NAME: named}) as places:
        place = places[FEW_BY_NAME]
        for _ in range(2):
            with place.in_force():
                assert sample(built.probe, _UDP_CONNECT, LOCAL, place).ns > 0


def test_unresolved_name_is_no_sample(built, named):
    """By name means by name: without the question, the same destination is refused."""
    silent = Agentwall(named.policy)
    refused = pytest.raises(RuntimeError, match="connect: Operation not permitted")
    with prepare_all({FEW_BY_NAME: silent}) as places:
        place = places[FEW_BY_NAME]
        with refused, place.in_force():
            sample(built.probe, _TCP, LOCAL, place)


def test_refused_question_is_answered_and_no_sample(built, named):
    """The belt stands as in a run: it says that there is no such name."""
    command = [built.probe, "--address", FAR_ADDRESS, "--name", "refused.example.net", "dns", "32"]
    refused = pytest.raises(RuntimeError, match="dns: expected an address for refused")
    with prepare_all({FEW_BY_NAME: named}) as places:
        place = places[FEW_BY_NAME]
        with refused, place.in_force():
            run(*place.within(*command))


@pytest.fixture
def other_policy(tmp_path):
    """agentwall with a policy that does not permit the probe's destination."""
    path = write_policy(tmp_path / "other")
    path.write_text(path.read_text().replace(LOCAL_ADDRESS, "198.51.100.99"))
    return Agentwall.from_file(path)


def test_refused_probe_is_no_sample(built, other_policy):
    """A destination that the policy does not permit ends the measurement with an error."""
    refused = pytest.raises(RuntimeError, match="connect: Operation not permitted")
    with prepare_all({AGENTWALL: other_policy}) as places:
        place = places[AGENTWALL]
        with refused, place.in_force():
            sample(built.probe, _TCP, LOCAL, place)


def test_denials_are_no_sample(other_policy):
    """A command that shrugs off a refusal does not give a figure either."""
    send = 'echo 0 > "$1/cgroup.procs"; echo > /dev/udp/' + LOCAL_ADDRESS + "/9 || true"
    refused = pytest.raises(RuntimeError, match="expected nothing denied")
    with prepare_all({AGENTWALL: other_policy}) as places:
        place = places[AGENTWALL]
        with refused, place.in_force():
            run(*place.ground.inside("bash", "-c", send, "bash", place.cgroup))
