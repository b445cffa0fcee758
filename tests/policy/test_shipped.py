# SPDX-License-Identifier: Apache-2.0
"""Every shipped policy loads, has no warnings, and passes its own tests."""

from __future__ import annotations

import pytest
from rig.tree import ROOT

from agentwall.flow.verdict import Direction, Verdict
from agentwall.net.endpoint import NamedEndpoint
from agentwall.net.ports import selector
from agentwall.policy.compile import compile_policy, find
from agentwall.policy.evaluate import Decision, evaluate, evaluate_name, loopback_scope
from agentwall.policy.extends import shipped_policies
from agentwall.policy.lint import lint_policy
from agentwall.policy.load import load_policy
from agentwall.policy.model import Policy, PolicyTest
from agentwall.policy.names import find_name
from agentwall.policy.question import judge_question
from agentwall.policy.tables import Interval, RuleTables

# What lies in signatures/ is another kind of file.
POLICIES = sorted(
    path for path in shipped_policies().rglob("*.yaml") if path.parent.name != "signatures"
)
NAMES = [str(path.relative_to(shipped_policies())) for path in POLICIES]


def test_which_policies_are_shipped():
    """The default, the base and an example for each situation are there."""
    assert NAMES == [
        "base/rl-training.yaml",
        "default-deny.yaml",
        "examples/git-over-ssh.yaml",
        "examples/inference-servers.yaml",
        "examples/names.yaml",
        "examples/nothing-at-all.yaml",
        "examples/package-mirror.yaml",
        "examples/rl-rollout.yaml",
    ]


@pytest.mark.parametrize("path", POLICIES, ids=NAMES)
def test_shipped_policy(path):
    """It loads without warnings, and evaluator and tables give what its rows expect."""
    policy = load_policy(path)
    tables = compile_policy(policy)

    assert policy.name == path.stem
    assert lint_policy(policy) == ()
    assert policy.tests
    for row in policy.tests:
        found = _found(tables, row)

        assert _evaluated(policy, row).verdict is row.expect, str(row.where)
        assert (found is not None and found.allow) == (row.expect is Verdict.ALLOW)


def _evaluated(policy: Policy, row: PolicyTest) -> Decision:
    remote = row.remote
    if isinstance(remote, NamedEndpoint):
        return evaluate_name(policy, remote.name, remote.protocol, remote.port)
    scope = loopback_scope(policy, own_netns=False)
    return evaluate(policy, direction=Direction.OUT, remote=remote, loopback=scope)


def _found(tables: RuleTables, row: PolicyTest) -> Interval | None:
    remote = row.remote
    if isinstance(remote, NamedEndpoint):
        place = selector(remote.protocol, remote.port)
        intervals = find_name(tables, remote.name).intervals
        return next((i for i in intervals if i.first <= place <= i.last), None)
    return find(tables, Direction.OUT, remote, remote.port)


@pytest.mark.parametrize("path", POLICIES, ids=NAMES)
def test_names_that_are_allowed_may_be_asked_for(path):
    """Whoever may reach a name may also ask the declared servers for it."""
    policy = load_policy(path)
    for row in policy.tests:
        if isinstance(row.remote, NamedEndpoint) and row.expect is Verdict.ALLOW:
            assert judge_question(policy, row.remote.name).verdict is Verdict.ALLOW


@pytest.mark.parametrize("path", POLICIES, ids=NAMES)
def test_schema_line(path):
    """The first line points editors at the schema, from where the file stands."""
    first = path.read_text().splitlines()[0]
    schema = first.removeprefix("# yaml-language-server: $schema=")

    assert (path.parent / schema).resolve() == ROOT / "docs" / "policy.schema.json"


def test_default_deny_is_commented_throughout():
    """In default-deny.yaml every line of YAML has a comment above it."""
    lines = (shipped_policies() / "default-deny.yaml").read_text().splitlines()
    blocks = [block.splitlines() for block in "\n".join(lines).split("\n\n")]

    assert len(blocks) > 8
    assert all(block[0].startswith("#") for block in blocks)
