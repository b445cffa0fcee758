# SPDX-License-Identifier: Apache-2.0
"""Which refusals end a flow."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rig.sights import ATTEMPT, KILL

from agentwall.engine.cutting import is_cut, kill_of
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
        ({"code": ReasonCode.SIGNATURE, "hook": Hook.PLAIN}, True),
        ({"code": ReasonCode.SIGNATURE, "hook": Hook.PLAIN, "remote": None}, True),
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


@pytest.mark.parametrize(
    ("changes", "is_known"),
    [
        ({}, True),
        ({"hook": Hook.PLAIN}, True),
        ({"hook": Hook.PLAIN, "remote": None}, False),
        ({"hook": Hook.PLAIN, "cookie": 0}, False),
        ({"local": None}, False),
        ({"protocol": L4Protocol.ICMP}, False),
    ],
)
def test_what_can_be_ended(changes, is_known):
    """A flow whose ends and socket are known, and no other."""
    assert list(kill_of(replace(REFUSED, **changes))) == ([KILL] if is_known else [])
