# SPDX-License-Identifier: Apache-2.0
"""DNS record types as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwall.sinks.rrtypes import parse_type, type_name


@given(st.integers(0, 0xFFFF))
def test_types_survive(number):
    """Every type comes back from its text."""
    assert parse_type(type_name(number)) == number


@pytest.mark.parametrize(
    ("number", "text"), [(1, "A"), (28, "AAAA"), (65, "HTTPS"), (255, "ANY"), (3, "TYPE3")]
)
def test_names(number, text):
    """What people know by a name has it; the rest is spelled as RFC 3597 does."""
    assert type_name(number) == text


@pytest.mark.parametrize("text", ["", "a", "TYPE", "TYPE65536", "TYPE01", "TYPE-1", "TYPE1 "])
def test_no_types(text):
    """Anything else is refused."""
    with pytest.raises(ValueError, match="expected a DNS record type"):
        parse_type(text)
