# SPDX-License-Identifier: Apache-2.0
"""Which refusals end a flow."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rig.sights import ATTEMPT

from agentwall.engine.cutting import is_cut
from agentwall.flow.verdict import Direction, Hook, ReasonCode, Verdict
from agentwall.net.endpoint import L4Protocol

REFUSED = replace(ATTEMPT, verdict=Verdict.DENY, code=ReasonCode.NO_RULE, rule=None)


@pytest.mark.parametrize(
    ("changes", "ends"),
    [
        ({}, True),
        ({"code": ReasonCode.RULE}, True),
        ({"code": ReasonCode.SERVER_NAME}, True),
        ({"code": ReasonCode.SIGNATURE, "direction": Direction.IN}, True),
        ({"code": ReasonCode.UNREADABLE, "hook": Hook.INGRESS}, True),
        ({"hook": Hook.CONNECT4}, False),
        ({"direction": Direction.IN}, False),
        ({"protocol": L4Protocol.UDP}, False),
        ({"code": ReasonCode.QUESTION}, False),
        ({"code": ReasonCode.FORGED}, False),
        ({"verdict": Verdict.WOULD_DENY}, False),
        ({"verdict": Verdict.ALLOW}, False),
    ],
)
def test_what_ends_a_flow(changes, ends):
    """A flow that was begun and may go on no more, and nothing else."""
    assert is_cut(replace(REFUSED, **changes)) is ends
