# SPDX-License-Identifier: Apache-2.0
"""Phases: what they load to, what a policy is in one of them, and who knows about that."""

from __future__ import annotations

import pytest

from agentwall.errors import PolicyError
from agentwall.flow.verdict import Direction, Mode, Verdict
from agentwall.net.destination import parse_target
from agentwall.policy.compile import compile_policy
from agentwall.policy.evaluate import evaluate
from agentwall.policy.lint import lint_policy
from agentwall.policy.lint_detect import dialect_warnings
from agentwall.policy.load import load_policy
from agentwall.policy.model import LoopbackScope
from agentwall.policy.phases import PhaseError, every_rule, in_each_phase, in_phase

PHASED = """\
mode: enforce
allow:
  - {cidr: 10.20.0.7, ports: [8000]}
deny:
  - cidr: 10.20.0.9
phases:
  setup:
    mode: audit
    allow:
      - {cidr: 10.30.0.0/24, ports: [443]}
  agent:
    deny:
      - cidr: 10.20.0.7
  after-care: {}
tests:
  - {to: "10.30.0.1:443", expect: allow}
"""


def _load(directory, text, name="p"):
    path = directory / f"{name}.yaml"
    path.write_text(f"version: 1\n{text}\n")
    return load_policy(path, search_path=())


def _problems(directory, text) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        _load(directory, text)
    prefix = f"{directory / 'p.yaml'}:"
    return [str(error).removeprefix(prefix) for error in caught.value.errors]


def _says(policy, target) -> Verdict:
    remote = parse_target(target)
    found = evaluate(policy, direction=Direction.OUT, remote=remote, loopback=LoopbackScope.CLOSED)
    return found.verdict


def test_what_they_load_to(tmp_path):
    """Phases keep the order of the file, and their rules say where they stand."""
    policy = _load(tmp_path, PHASED)
    setup, agent, after = policy.phases

    assert [phase.name for phase in policy.phases] == ["setup", "agent", "after-care"]
    assert (setup.mode, agent.mode, after.mode) == (Mode.AUDIT, None, None)
    assert [rule.id for rule in setup.allow + agent.deny] == [
        "p:phases.setup.allow[0]",
        "p:phases.agent.deny[0]",
    ]
    assert str(setup.allow[0].where) == f"{tmp_path / 'p.yaml'}:11:9"
    assert str(agent.where) == f"{tmp_path / 'p.yaml'}:12:3"
    assert (policy.phase, len(policy.allow), len(policy.deny)) == (None, 1, 1)


def test_in_phase(tmp_path):
    """A phase adds its rules to the policy's, and its mode takes the place of the policy's."""
    policy = _load(tmp_path, PHASED)
    setup, agent = in_phase(policy), in_phase(policy, "agent")

    assert (setup.phase, setup.mode, agent.phase, agent.mode) == (
        "setup",
        Mode.AUDIT,
        "agent",
        Mode.ENFORCE,
    )
    assert [_says(setup, to) for to in ("10.20.0.7:8000", "10.30.0.1:443")] == [Verdict.ALLOW] * 2
    assert [_says(agent, to) for to in ("10.20.0.7:8000", "10.30.0.1:443")] == [Verdict.DENY] * 2
    assert in_phase(setup, "setup") is setup
    assert in_phase(setup) is setup
    assert in_phase(policy, "after-care").allow == policy.allow
    assert [each.phase for each in in_each_phase(policy)] == ["setup", "agent", "after-care"]
    assert in_each_phase(agent) == (agent,)


def test_tables_are_those_of_the_phase(tmp_path):
    """What is compiled holds the rules of the phase, behind those of the policy, and no others."""
    policy = _load(tmp_path, PHASED)
    tables = compile_policy(in_phase(policy, "agent"))

    assert [rule.id for rule in tables.rules] == [
        "p:deny[0]",
        "p:phases.agent.deny[0]",
        "p:allow[0]",
    ]


def test_without_phases(tmp_path):
    """A policy without phases is what it is, and knows no name."""
    policy = _load(tmp_path, "phases: {}")

    assert in_phase(policy) is policy
    assert in_each_phase(policy) == (policy,)
    with pytest.raises(PhaseError, match="phase of p: expected none: the policy has no phases, g"):
        in_phase(policy, "agent")


def test_unknown_phases(tmp_path):
    """Who asks for a phase that is not there hears which are; nobody leaves one for another."""
    policy = _load(tmp_path, PHASED)

    with pytest.raises(PhaseError, match=r"expected one of setup, agent, after-care, got 'x.x1b'"):
        in_phase(policy, "x\x1b")
    with pytest.raises(ValueError, match="p: in phase setup already"):
        in_phase(in_phase(policy), "agent")


def test_every_rule(tmp_path):
    """Each rule of each phase is there, once."""
    policy = _load(tmp_path, PHASED)
    ids = ["p:allow[0]", "p:deny[0]", "p:phases.setup.allow[0]", "p:phases.agent.deny[0]"]

    assert [rule.id for rule in every_rule(policy)] == ids
    assert sorted(rule.id for rule in every_rule(in_phase(policy))) == sorted(ids)


def test_under_extends(tmp_path):
    """Phases are merged by name: bases first, lists joined, the mode of who says one last."""
    base = "phases: {setup: {mode: audit, allow: [{cidr: 1.1.1.1, ports: [1]}]}, agent: {}}"
    _load(tmp_path, base, "base")
    own = (
        "phases: {wind-down: {}, agent: {mode: observe}, "
        "setup: {deny: [{cidr: 2.2.2.2}], allow: [{cidr: 3.3.3.3, ports: [3]}]}}"
    )
    policy = _load(tmp_path, f"extends: [base]\n{own}")
    setup, agent, _ = policy.phases

    assert [phase.name for phase in policy.phases] == ["setup", "agent", "wind-down"]
    assert (setup.mode, agent.mode) == (Mode.AUDIT, Mode.OBSERVE)
    assert [rule.id for rule in setup.allow + setup.deny] == [
        "base:phases.setup.allow[0]",
        "p:phases.setup.allow[0]",
        "p:phases.setup.deny[0]",
    ]
    assert setup.where.path == str(tmp_path / "p.yaml")


def test_lists(tmp_path):
    """Rules of phases may have lists, whose lines errors and rules name."""
    (tmp_path / "l.txt").write_text("10.1.0.0/16\n10.2.0.0/16\n")
    rule = "{cidr_file: l.txt, ports: [443]}"
    policy = _load(tmp_path, f"phases: {{a: {{allow: [{rule}]}}}}\nallow: [{rule}]")
    (found,) = policy.phases[0].allow

    assert [prefix.where.line for prefix in found.prefixes] == [1, 2]
    assert policy.allow[0].prefixes == found.prefixes
    (tmp_path / "l.txt").unlink()
    assert [
        problem.split(": ")[1]
        for problem in _problems(tmp_path, f"phases: {{allow: {{allow: [{rule}]}}}}")
    ] == ["phases.allow.allow[0].cidr_file"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("phases: []", "2:9: phases: expected a map, got a list"),
        ("phases:", "2:8: phases: expected a map, got nothing"),
        ("phases: {a: }", "2:13: phases.a: expected a map, got nothing"),
        ("phases: {a: {}, B: {}}", "2:17: phases.B: expected lower case letters, digits and dash"),
        ("phases: {a-: {}}", "2:10: phases.'a-': expected lower case letters, digits and dashes"),
        ("phases: {a: {mod: audit}}", "2:14: phases.a.mod: unknown key; did you mean mode?"),
        ("phases: {allow: {qqq: 1}}", "2:18: phases.allow.qqq: unknown key; expected one of mode"),
        ("phases: {mode: {qqq: 1}}", "2:17: phases.mode.qqq: unknown key; expected one of mode, "),
        (
            "phases: {mode: {allow: [{cidr: any, prts: [1], ports: [1]}]}}",
            "2:37: phases.mode.allow[0].prts: unknown key; did you mean ports?",
        ),
        (
            "phases: {a: {deny: [{cidr: any, except: [mining]}]}}",
            "2:33: phases.a.deny[0].except: expected it beside an allow or inbound rule",
        ),
        ("phases: {a: {inbound: []}}", "2:14: phases.a.inbound: unknown key; expected one of mod"),
        ("phases: {a: {mode: }}", "2:20: phases.a.mode: expected observe, audit or enforce, got "),
        ("phases: {a: {mode: block}}", "2:20: phases.a.mode: expected observe, audit or enforce,"),
        (
            "phases: {a: {allow: [{cidr: any}]}}",
            "2:22: phases.a.allow[0].ports: expected a list of ports",
        ),
        (
            "phases: {a: {allow: [{host: a.example}]}}",
            "2:22: phases.a.allow[0]: expected dns.servers in this policy",
        ),
        (
            "allow: [{cidr: any, ports: [ip/1, ip/2, ip/3, ip/4, ip/5, ip/6, ip/7]}]\n"
            "phases: {a: {allow: [{cidr: any, ports: [ip/8, ip/9, ip/10]}]}}",
            "expected at most 8 protocols beside TCP and UDP",
        ),
    ],
)
def test_bad_phases(tmp_path, text, problem):
    """Each kind of bad phase is one error with its line and column."""
    found = _problems(tmp_path, text)

    assert len(found) == 1
    assert problem in found[0]


def test_bound(tmp_path):
    """There is an end to phases."""
    many = ", ".join(f"a{n}: {{}}" for n in range(17))

    assert "phases: expected at most 16 entries" in _problems(tmp_path, f"phases: {{{many}}}")[0]


def test_phases_are_linted(tmp_path):
    """A phase's rules are warned about once; what only another phase undoes is not."""
    text = (PHASED + "dns: {servers: [10.20.0.2]}\n" + "detect: {dns_exfil: freeze}\n").replace(
        "after-care: {}", "after-care: {allow: [{cidr: 10.0.0.0/8, ports: [1]}]}"
    )
    found = lint_policy(_load(tmp_path, text))
    said = [(warning.what, warning.text) for warning in found]

    assert ("p:phases.after-care.allow[0]", "opens the whole reserved block 10.0.0.0/8") in said
    assert sum("freeze only alerts" in text for _, text in said) == 1
    assert not [what for what, text in said if "allows nothing" in text]
    assert len(set(said)) == len(said)


def test_a_phase_alone_is_linted(tmp_path):
    """In the phase itself its deny undoes an allow, and that is said."""
    policy = in_phase(_load(tmp_path, PHASED), "agent")
    said = [str(warning) for warning in lint_policy(policy)]

    assert any("allows nothing: p:phases.agent.deny[0] denies all of it" in text for text in said)


def test_dialects_of_phases(tmp_path):
    """An exception in a phase is looked up like any other."""
    rule = "{cidr: 1.1.1.1, ports: [22], except: [tunnel/sshh]}"
    policy = _load(tmp_path, f"phases: {{a: {{}}, b: {{allow: [{rule}]}}}}")

    assert [warning.what for warning in dialect_warnings(policy, {"tunnel/ssh"})] == [
        "p:phases.b.allow[0]"
    ]
