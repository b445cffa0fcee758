# SPDX-License-Identifier: Apache-2.0
"""Kernel times and UTC."""

from __future__ import annotations

import time

from agentwall.daemon.clock import boot_ns, offset_ns


def test_boot_time_only_grows():
    """Two looks, one after the other."""
    first = boot_ns()

    assert 0 < first <= boot_ns()


def test_the_offset_leads_to_utc():
    """What the kernel says plus the offset is the time of day."""
    boot_before, utc_before = boot_ns(), time.time_ns()
    found = offset_ns()
    utc_after, boot_after = time.time_ns(), boot_ns()

    # Whatever came between two looks at a clock.
    assert utc_before - boot_after <= found <= utc_after - boot_before
