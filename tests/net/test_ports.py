# SPDX-License-Identifier: Apache-2.0
"""Port entries: what they cover, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwall.net.ports import (
    ANY,
    EVERYTHING,
    LAST_SELECTOR,
    PortRange,
    describe,
    parse_ports,
    protocol_name,
    selector,
    whole_protocol,
)


@pytest.mark.parametrize(
    ("text", "covered", "not_covered"),
    [
        ("443", [(6, 443)], [(17, 443), (6, 442), (6, 444), (1, 0)]),
        ("8000-8010", [(6, 8000), (6, 8010)], [(6, 7999), (6, 8011), (17, 8000)]),
        ("tcp/22", [(6, 22)], [(17, 22)]),
        ("udp/53", [(17, 53)], [(6, 53)]),
        ("udp/5000-5001", [(17, 5000), (17, 5001)], [(17, 5002), (6, 5000)]),
        ("tcp/*", [(6, 0), (6, 65535)], [(17, 1), (7, 0)]),
        ("udp/*", [(17, 0), (17, 65535)], [(6, 1), (18, 0)]),
        ("icmp", [(1, 0), (58, 0)], [(6, 1), (17, 1), (2, 0)]),
        ("ip/132", [(132, 0), (132, 65535)], [(131, 65535), (133, 0), (6, 132)]),
        ("any", [(6, 1), (17, 1), (1, 0), (58, 0)], [(132, 0), (0, 0), (255, 0)]),
    ],
)
def test_parse_ports(text, covered, not_covered):
    """An entry covers what it says, up to its edges, and no other protocol."""
    ranges = parse_ports(text)

    assert all(any(r.holds(*place) for r in ranges) for place in covered)
    assert not any(r.holds(*place) for r in ranges for place in not_covered)


@pytest.mark.parametrize(
    "text",
    ["0", "65536", "70000", "5-3", "1-70000", "0-5", "", "-1", "1-", "*", "tcp", "tcp/", "tcp/any",
     "sctp/1", "ip/256", "ip/", "icmp/8", "443,80", " 443", "443\n", "4e2", "0x1bb",
     "\N{ARABIC-INDIC DIGIT FOUR}"],
)  # fmt: skip
def test_refused_ports(text):
    """What is no port entry is refused with what was expected."""
    with pytest.raises(ValueError, match=r"^expected .*, got"):
        parse_ports(text)


@given(st.text(max_size=20))
def test_any_text(text):
    """Any text is a list of ranges on the number line or a ValueError."""
    try:
        ranges = parse_ports(text)
    except ValueError:
        return

    assert all(0 <= r.first <= r.last <= LAST_SELECTOR for r in ranges)


@pytest.mark.parametrize(
    ("ranges", "text"),
    [
        (EVERYTHING, "everything"),
        (ANY, "any"),
        (parse_ports("icmp"), "icmp"),
        (parse_ports("443") + parse_ports("udp/5-7"), "tcp/443, udp/5-7"),
        (parse_ports("tcp/*") + parse_ports("icmp"), "tcp/*, icmp"),
        (parse_ports("ip/132"), "ip/132"),
    ],
)
def test_describe(ranges, text):
    """Ranges read as the policy language writes them."""
    assert describe(ranges) == text


def test_number_line():
    """Protocols follow each other without gap or overlap."""
    assert whole_protocol(6) == PortRange(0x60000, 0x6FFFF)
    assert whole_protocol(5).last + 1 == whole_protocol(6).first == selector(6, 0)
    assert (PortRange(0, whole_protocol(255).last),) == EVERYTHING


@pytest.mark.parametrize(
    ("number", "name"), [(6, "tcp"), (17, "udp"), (1, "icmp"), (58, "icmp6"), (132, "ip/132")]
)
def test_protocol_name(number, name):
    """Known protocols have names; the others are numbers."""
    assert protocol_name(number) == name
