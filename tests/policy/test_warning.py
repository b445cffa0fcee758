# SPDX-License-Identifier: Apache-2.0
"""What a warning looks like, and when ports cover others."""

from __future__ import annotations

import pytest

from agentwall.errors import SourceLocation
from agentwall.net.ports import parse_ports
from agentwall.policy.warning import LintWarning, and_more, covers


def test_text():
    """A warning begins with its place, as an error does."""
    warning = LintWarning(SourceLocation("p.yaml", 2, 9), "p:allow[0]", "allows nothing")

    assert str(warning) == "p.yaml:2:9: p:allow[0]: warning: allows nothing"


@pytest.mark.parametrize(
    ("wide", "narrow", "expected"),
    [
        ("any", "443", True),
        ("1-9", "2-8", True),
        ("443", "443", True),
        ("443", "443-444", False),
        ("tcp/*", "udp/53", False),
        ("443", "any", False),
    ],
)
def test_covers(wide, narrow, expected):
    """Ports cover others when each of these lies inside one of them."""
    assert covers(parse_ports(wide), parse_ports(narrow)) is expected


@pytest.mark.parametrize(("count", "text"), [(1, ""), (2, ", and 1 more"), (9, ", and 8 more")])
def test_and_more(count, text):
    """Only what is left out is counted."""
    assert and_more(count) == text
