# SPDX-License-Identifier: Apache-2.0
"""Waiting for programs ends, and leaves nothing behind."""

from __future__ import annotations

import pytest
from rig.descriptors import descriptors

from agentwall.kernel.grace import wait_for_programs

pytestmark = pytest.mark.kernel


def test_wait():
    """This kernel takes the map by which it is made to wait, and no descriptor of it stays."""
    before = descriptors()
    for _ in range(3):
        wait_for_programs()

    assert descriptors() <= before
