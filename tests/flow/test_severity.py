# SPDX-License-Identifier: Apache-2.0
"""Severities are ordered and spelled as users write them."""

from __future__ import annotations

from agentwall.flow.severity import Severity


def test_order():
    """They rise from info to critical, so that a threshold is one comparison."""
    assert [each.label for each in sorted(Severity)] == [
        *("info", "low", "medium", "high", "critical"),
    ]
    assert Severity.CRITICAL > Severity.HIGH >= Severity.HIGH


def test_labels_lead_back():
    """What is written in a file or an option leads to the same severity."""
    assert [Severity[each.label.upper()] for each in Severity] == list(Severity)
