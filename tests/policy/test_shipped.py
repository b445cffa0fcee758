# SPDX-License-Identifier: Apache-2.0
"""Every shipped policy loads, has no warnings, and passes its own tests."""

from __future__ import annotations

import pytest
from rig.tree import ROOT

from agentwall.flow.verdict import Direction, Verdict
from agentwall.policy.compile import compile_policy, find
from agentwall.policy.evaluate import evaluate, loopback_scope
from agentwall.policy.extends import shipped_policies
from agentwall.policy.lint import lint_policy
from agentwall.policy.load import load_policy

POLICIES = sorted(shipped_policies().rglob("*.yaml"))
NAMES = [str(path.relative_to(shipped_policies())) for path in POLICIES]


def test_which_policies_are_shipped():
    """The default, the base and an example for each situation are there."""
    assert NAMES == [
        "base/rl-training.yaml",
        "default-deny.yaml",
        "examples/inference-servers.yaml",
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
        decision = evaluate(
            policy,
            direction=Direction.OUT,
            remote=row.remote,
            loopback=loopback_scope(policy, own_netns=False),
        )
        found = find(tables, Direction.OUT, row.remote, row.remote.port)

        assert decision.verdict is row.expect, str(row.where)
        assert (found is not None and found.allow) == (row.expect is Verdict.ALLOW)


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
