# SPDX-License-Identifier: Apache-2.0
"""What the values of a policy say of themselves."""

from __future__ import annotations

import errno

from agentwall.errors import SourceLocation
from agentwall.policy.model import REFUSALS, Rule, Section


def test_a_rule_is_named_by_policy_section_and_place():
    """The id is what events, denials and explain print."""
    rule = Rule(
        policy="rl-rollout",
        section=Section.INBOUND,
        index=2,
        prefixes=(),
        ports=(),
        where=SourceLocation("p.yaml", 9, 3),
    )

    assert rule.id == "rl-rollout:inbound[2]"


def test_refusals_are_errnos():
    """Every value of refuse_with is an errno of its name."""
    assert {name: getattr(errno, name) for name in REFUSALS} == REFUSALS
    assert set(REFUSALS) >= {"EPERM", "ECONNREFUSED"}
