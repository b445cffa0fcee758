# SPDX-License-Identifier: Apache-2.0
"""What a signature is called in policies, and whether it may block."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rig.patterns import signature

from agentwall.detect.signature import Maturity, Signature
from agentwall.flow.finding import Confidence, DetectionClass


@pytest.fixture
def certain() -> Signature:
    """A stable signature of high confidence that makes a finding."""
    return replace(
        signature("^abc"),
        cls=DetectionClass.TUNNEL,
        dialect="example",
        confidence=Confidence.HIGH,
        maturity=Maturity.STABLE,
        hand_over=False,
    )


def test_group(certain):
    """A policy excepts it by class and dialect, whatever its own name is."""
    assert certain.group == "tunnel/example"
    assert replace(certain, id="tunnel/other").group == certain.group


@pytest.mark.parametrize("confidence", list(Confidence))
@pytest.mark.parametrize("maturity", list(Maturity))
@pytest.mark.parametrize("hand_over", [False, True])
def test_blocks(certain, confidence, maturity, hand_over):
    """It may block if it is stable, not of low confidence, and makes a finding itself."""
    one = replace(certain, confidence=confidence, maturity=maturity, hand_over=hand_over)

    assert one.blocks == (
        maturity is Maturity.STABLE and confidence is not Confidence.LOW and not hand_over
    )
