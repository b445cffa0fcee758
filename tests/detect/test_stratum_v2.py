# SPDX-License-Identifier: Apache-2.0
"""Stratum V2 is suspected when sizes, order and randomness all fit, and not otherwise."""

from __future__ import annotations

import hashlib

import pytest
from rig.dialogues import conversation

from agentwall.detect.conversation import Message
from agentwall.detect.stratum_v2 import find_stratum_v2
from agentwall.flow.finding import Confidence

RANDOM = b"".join(hashlib.sha256(bytes([i])).digest() for i in range(16))
FITS = ((64, True), (234, False), (142, True), (80, False))


def found(sizes: tuple[tuple[int, bool], ...], client: bytes = RANDOM, **more: object) -> bool:
    """Whether messages of these sizes are suspected."""
    messages = tuple(Message(0, size, side) for size, side in sizes)
    talk = conversation(client, RANDOM[::-1], messages=messages, **more)
    return find_stratum_v2(talk) is not None


@pytest.mark.parametrize(
    "sizes",
    [
        FITS,
        FITS[:3],
        ((60, True), (4, True), (200, False), (34, False), (38, True)),
        (*FITS[:2], (22, True), (120, True)),
    ],
)
def test_fits(sizes):
    """Also in pieces, the handshake and the frame after it are recognised."""
    assert found(sizes)


@pytest.mark.parametrize(
    "sizes",
    [
        (),
        FITS[:2],
        ((64, True), (233, False), (142, True)),
        ((65, True), (234, False), (142, True)),
        ((64, True), (234, False), (37, True)),
        ((64, True), (234, False), (37, True), (9, False), (90, True)),
        ((234, False), (64, True), (142, False)),
        ((64, False), (234, True), (142, False)),
    ],
)
def test_does_not_fit(sizes):
    """One size or the order wrong, and it is something else."""
    assert not found(sizes)


def test_text_does_not_fit():
    """What is not random, or was not seen from its beginning, is no handshake."""
    assert not found(FITS, b"x" * 64)
    assert not found(FITS, is_midstream=True)


def test_finding():
    """It is never more than a suspicion, and says on what grounds."""
    messages = tuple(Message(0, size, side) for size, side in FITS)
    finding = find_stratum_v2(conversation(RANDOM, RANDOM, messages=messages))

    assert finding is not None
    assert (finding.dialect, finding.confidence) == ("stratum-v2", Confidence.LOW)
    assert finding.evidence == {"sizes": [64, 234, 142], "usual_port": False}
