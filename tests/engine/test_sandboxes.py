# SPDX-License-Identifier: Apache-2.0
"""What the engine keeps of a sandbox: labels and modes by time, policies by generation."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rig.enclosure import parse_policy
from rig.records import SANDBOX, SECOND, START_NS, endpoint, flow
from rig.sights import ACCEPTS, ATTEMPT, KEY, POLICY, SIGNATURES, TABLES, excerpt

from agentwall.detect.signature_load import load_signatures
from agentwall.engine.detections import IndicatorIndexes
from agentwall.engine.engine import Engine
from agentwall.engine.events import (
    ModeOverridden,
    RulesApplied,
    SandboxStarted,
    SignaturesApplied,
)
from agentwall.engine.sandboxes import KEPT_LABELS, KnownSandbox
from agentwall.flow.finding import DetectionClass
from agentwall.flow.origin import Origin, Runtime
from agentwall.flow.record import PolicyInForce, Sandbox, SandboxKey
from agentwall.flow.verdict import Hook, Mode
from agentwall.policy.compile import compile_policy
from agentwall.policy.model import DETECT_DEFAULTS, Detect, Response, ScanLimits

ORIGIN = Origin(runtime=Runtime.DOCKER, container="ab" * 32)
OFF = Detect(responses={**DETECT_DEFAULTS, DetectionClass.SCAN: Response.OFF})
MANAGED = replace(SANDBOX, origin=ORIGIN)


def known_of(sandbox: Sandbox = MANAGED) -> KnownSandbox:
    return KnownSandbox(sandbox, 0, Mode.ENFORCE)


def applied(generation: int, **changes: object) -> RulesApplied:
    policy = replace(POLICY, **changes)  # type: ignore[arg-type]
    return RulesApplied(
        key=KEY, mono_ns=generation, generation=generation, policy=policy, tables=TABLES
    )


def switched(mono_ns: int, mode: Mode, until_ns: int | None) -> ModeOverridden:
    return ModeOverridden(
        key=KEY, mono_ns=mono_ns, mode=mode, until_mono_ns=until_ns, reason="r", by="b"
    )


def test_labels_by_time():
    """What was seen before a sandbox was labelled keeps the labels of its time."""
    known = known_of()
    known.label({"step": "8"}, 100)
    known.label({"step": "9"}, 200)

    steps = {at: known.named(at).labels["step"] for at in (0, 99, 100, 199, 200, 10**9)}
    assert steps == {0: "7", 99: "7", 100: "8", 199: "8", 200: "9", 10**9: "9"}
    assert known.named(0).origin is ORIGIN


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=30, unique=True), st.integers(0, 1001))
def test_labels_by_time_in_general(times, at):
    """The last sets are told apart by time; before the oldest that is kept, it stands for all."""
    known = known_of()
    times.sort()
    for mono_ns in times:
        known.label({"since": str(mono_ns)}, mono_ns)

    kept = [0, *times][-KEPT_LABELS:]
    expected = max((mono_ns for mono_ns in kept if mono_ns <= at), default=kept[0])
    assert known.named(at).labels.get("since", "0") == str(expected)


def test_labels_are_copied():
    """Whoever labels may change the mapping afterwards."""
    known = known_of()
    labels = {"step": "8"}
    known.label(labels, 1)
    labels["step"] = "9"

    assert known.named(1).labels == {"step": "8"}


def test_one_value_for_a_burst():
    """Equal answers are one object, and an old one is made once for many late events."""
    known = known_of()
    known.label({"step": "8"}, 100)

    assert known.named(100) is known.named(500)
    assert known.named(50) is known.named(60)


def test_the_policy_of_a_generation():
    """A record names the policy, phase and commit of the generation it speaks of, or none."""
    known = known_of()
    known.apply(applied(1, phase="setup", commit="c1"))
    known.apply(applied(2, phase="agent", commit="c1"))

    assert known.named(9, 1).policy == PolicyInForce(name="p", phase="setup", commit="c1")
    assert known.named(9, 2).policy == PolicyInForce(name="p", phase="agent", commit="c1")
    assert known.named(9).policy is known.named(9, 2).policy
    assert known.named(9, 77).policy is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"hook": Hook.PLAIN}, 1),
        ({"hook": Hook.PLAIN, "remote": endpoint("192.0.2.1", 443)}, 0),
        ({"hook": Hook.PLAIN, "remote": endpoint("198.51.100.1", 443)}, None),
        ({"hook": Hook.PLAIN, "rule": 0}, 0),
        ({"hook": Hook.PLAIN, "cookie": 0}, None),
        ({"hook": Hook.PLAIN, "remote": None}, None),
        ({"hook": Hook.EGRESS}, None),
    ],
)
def test_the_rule_to_be(changes, expected):
    """What is said inside TLS before its flow is judged anew counts by the rule that is to come."""
    policy = parse_policy(
        "name: p\nallow:\n"
        "  - {cidr: 192.0.2.0/24, ports: [any]}\n"
        "  - {cidr: 203.0.113.0/24, ports: [any], except: [mining]}\n"
    )
    tables = compile_policy(policy)
    known = known_of()
    known.apply(replace(applied(3), policy=policy, tables=tables))
    found = known.rule(replace(ATTEMPT, **{"rule": None, **changes}))

    assert found == (None if expected is None else policy.allow[expected])


def test_the_rule_to_be_is_asked_for_where_it_matters():
    """Where every rule has everything read it makes no difference which one it is."""
    policy = parse_policy("name: p\nallow:\n  - {cidr: 203.0.113.0/24, ports: [any]}\n")
    known = known_of()
    known.apply(replace(applied(3), policy=policy, tables=compile_policy(policy)))

    assert known.rule(replace(ATTEMPT, rule=None, hook=Hook.PLAIN)) is None


def test_generations_are_bounded():
    """Rules are kept for few generations, names for more, nothing for ever."""
    known = known_of()
    for generation in range(100):
        known.apply(applied(generation, phase=str(generation)))

    assert len(known.generations) == 4
    assert known.named(0, 68).policy == PolicyInForce(name="p", phase="68")
    assert known.named(0, 67).policy is None


def test_run_names_no_policy():
    """A sandbox with neither origin nor policy is `run`'s: its start names the policy."""
    known = known_of(SANDBOX)
    known.apply(applied(1, phase="setup"))

    assert known.named(9, 1) is SANDBOX


def test_before_any_rules_the_start_counts():
    """A policy that the start names holds until rules are applied."""
    first = PolicyInForce(name="default-deny")
    known = known_of(replace(SANDBOX, policy=first))

    assert known.named(9, 5).policy is first


def test_an_origin_that_comes_late():
    """What the runtime answers is in all that is told from then on."""
    known = known_of()
    known.label({}, 10)
    known.named(5)
    known.identify(replace(ORIGIN, name="web"))

    assert known.named(5).origin.name == known.named(20).origin.name == "web"


@pytest.mark.parametrize(
    ("at", "mode"),
    [
        (0, Mode.ENFORCE),
        (10, Mode.AUDIT),
        (19, Mode.AUDIT),
        (20, Mode.ENFORCE),
        (30, Mode.OBSERVE),
        (35, Mode.ENFORCE),
    ],
)
def test_modes_by_time(at, mode):
    """A switched mode holds from its time until it ends, by itself or because somebody says so."""
    known = known_of()
    known.apply(applied(1))
    known.override(switched(10, Mode.AUDIT, 20))
    known.override(switched(30, Mode.OBSERVE, 10**9))
    known.override(switched(35, Mode.ENFORCE, None))

    assert known.mode_at(at, POLICY) is known.mode_at(at) is mode


def test_lists_are_indexed_once():
    """Sandboxes with equal lists share an index; other lists get their own."""
    indexes = IndicatorIndexes()
    others = load_signatures([])
    first = indexes.of(SIGNATURES.indicators)

    assert indexes.of(tuple(SIGNATURES.indicators)) is first
    assert indexes.of(others.indicators) is not first
    assert indexes.of(SIGNATURES.indicators) is first


def test_memory_of_a_thousand_sandboxes():
    """An idle sandbox costs the engine at most 6 kB, its labels, origin and rules included."""
    engine = Engine()
    number = 1000
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for index in range(1, number + 1):
        for event in _birth(SandboxKey(index)):
            list(engine.handle(event))
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    each = (after - before) / number
    assert each <= 6000


def _birth(key: SandboxKey):
    labels = {"run": f"run-{key}", "episode": str(key), "step": "7", "phase": "agent"}
    origin = Origin(runtime=Runtime.DOCKER, container=f"{key:064x}", name=f"n{key}", image="i")
    sandbox = Sandbox(
        id=f"docker-{key}", cgroup=f"/system.slice/docker-{key:064x}.scope", labels=labels
    )
    yield SandboxStarted(
        key=key,
        sandbox=replace(sandbox, origin=origin),
        mono_ns=5,
        clock_offset_ns=10**18,
        mode=Mode.ENFORCE,
        coverage="full",
    )
    yield replace(applied(3, phase="agent"), key=key)
    yield SignaturesApplied(key=key, signatures=SIGNATURES, table=1, accepts=ACCEPTS)


def test_what_watches_is_made_when_needed():
    """Behaviour and excerpts take room only once there is something to watch or read."""
    known = known_of()
    known.apply(applied(3))

    assert not known.has_behaved
    assert known.forgotten == 0
    known.watch.apply(SANDBOX.id, POLICY.detect)
    known.detections.excerpts.add(excerpt(b"x", 0))
    assert known.has_behaved
    assert known.forgotten == 0


def test_behaviour_keeps_the_thresholds_of_the_newest_rules():
    """A watch that is made late takes the policy's thresholds, and follows when they change."""
    known = known_of()
    known.apply(applied(3, detect=Detect(scan=ScanLimits(targets=2))))
    first = [found for index in range(4) for found in known.watch.see(_tried(index))]
    known.apply(applied(4, detect=OFF))
    second = [found for index in range(4, 50) for found in known.watch.see(_tried(index))]

    assert [found.finding.cls for found in first] == [DetectionClass.SCAN]
    assert second == []


def _tried(index: int):
    return flow(
        remote=endpoint(f"10.0.0.{index}", 22), time_ns=START_NS + index * SECOND, sandbox=MANAGED
    )
