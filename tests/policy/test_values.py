# SPDX-License-Identifier: Apache-2.0
"""The values of policy files on their own; in their places tests/policy/test_load.py has them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from agentwall.net.domain import NameDepth, NamePattern
from agentwall.policy import values
from agentwall.policy.model import Response

KINDS = {
    name: TypeAdapter(getattr(values, name))
    for name in (
        *("AllowPorts", "DenyPorts", "Cidr", "Proxy", "Host", "Suffix", "Server", "Seconds"),
        *("Addresses", "Destination", "Refusal", "Version", "Reaction", "Alerting", "Excepted"),
        *("Targets", "PortCount", "ScanSeconds", "Questions", "Labels", "Depth"),
    )
}


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("Host", "*.Example.com", (NamePattern("example.com", NameDepth.LABEL),)),
        ("Suffix", "Example.com.", "example.com"),
        ("Seconds", 0, 0),
        ("Seconds", 86400, 86400),
        ("Addresses", 65536, 65536),
        ("Version", 1, 1),
        ("Refusal", "EACCES", "EACCES"),
        ("Reaction", "block", Response.BLOCK),
        ("Reaction", "off", Response.OFF),
        ("Reaction", False, Response.OFF),  # a plain off in YAML
        ("Alerting", "alert", Response.ALERT),
        ("Excepted", "tunnel", "tunnel"),
        ("Excepted", "mining/ethereum-stratum-2", "mining/ethereum-stratum-2"),
        ("Excepted", "beacon", "beacon"),
        ("Depth", 256, 256),
        ("Depth", 1 << 20, 1 << 20),
    ],
)
def test_values(kind, text, value):
    """A value comes out parsed."""
    assert KINDS[kind].validate_python(text) == value


YAML = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-1, 100_000),
    st.text(max_size=40),
    st.lists(st.text(max_size=3), max_size=2),
    st.dictionaries(st.text(max_size=3), st.none(), max_size=2),
)


@given(st.sampled_from(sorted(KINDS)), YAML)
def test_any_value(kind, value):
    """Whatever YAML gives is taken, or refused in words that say what was expected."""
    try:
        KINDS[kind].validate_python(value)
    except ValidationError as err:
        (error,) = err.errors()

        assert str(error["ctx"]["error"]).startswith("expected ")


@pytest.mark.parametrize("value", [True, "1", None])
@pytest.mark.parametrize("kind", ["Seconds", "Addresses", "Version", "Targets", "Depth"])
def test_numbers_are_numbers(kind, value):
    """What only looks like a number is not one."""
    with pytest.raises(ValidationError):
        KINDS[kind].validate_python(value)
