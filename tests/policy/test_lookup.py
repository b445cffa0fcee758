# SPDX-License-Identifier: Apache-2.0
"""The indexes of prefixes and of patterns against a plain search."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwall.errors import SourceLocation
from agentwall.net.domain import NameDepth, NamePattern, parse_pattern
from agentwall.policy.lookup import PatternIndex, PrefixIndex
from agentwall.policy.model import RulePattern, RulePrefix


def prefixes(*texts):
    return [
        RulePrefix(ip_network(text), SourceLocation("list", line, 1))
        for line, text in enumerate(texts, 1)
    ]


@pytest.mark.parametrize(
    ("address", "line"),
    [
        ("10.0.0.1", 2),
        ("10.0.0.9", 3),
        ("10.1.0.0", 1),
        ("11.0.0.0", None),
        ("2001:db8::1", 4),
        ("2001:db9::1", None),
    ],
)
def test_the_most_specific_prefix_is_found(address, line):
    """Of nested prefixes the longest one answers; families do not mix."""
    index = PrefixIndex(prefixes("10.0.0.0/8", "10.0.0.0/24", "10.0.0.9", "2001:db8::/32"))
    found = index.find(ip_address(address))

    assert (found.where.line if found else None) == line


def test_of_equal_prefixes_the_first_one_answers():
    """A prefix that stands twice is found on its first line."""
    index = PrefixIndex(prefixes("10.0.0.0/8", "10.0.0.0/8"))

    assert index.find(ip_address("10.1.1.1")).where.line == 1


def test_longer_prefixes_can_be_left_out():
    """With a limit the longest prefix of at most that many bits answers."""
    index = PrefixIndex(prefixes("10.0.0.0/8", "10.0.0.0/24"))

    assert index.find(ip_address("10.0.0.1"), longest=23).where.line == 1


@given(
    st.lists(st.tuples(st.integers(0, 0xFFFFFFFF), st.integers(0, 32))), st.integers(0, 0xFFFFFFFF)
)
def test_as_a_plain_search(given_prefixes, number):
    """Any list of prefixes and any address: as if each prefix were looked at."""
    texts = [f"{ip_address(value)}/{length}" for value, length in given_prefixes]
    made = prefixes(*(str(ip_network(text, strict=False)) for text in texts))
    address = ip_address(number)
    holding = [each for each in made if address in each.network]
    found = PrefixIndex(made).find(address)

    assert found == max(holding, key=lambda each: each.network.prefixlen, default=None)


def patterns(*found: NamePattern):
    return [
        RulePattern(pattern, SourceLocation("list", line, 1))
        for line, pattern in enumerate(found, 1)
    ]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("a.b.example", 4),
        ("c.b.example", 3),
        ("d.c.b.example", 2),
        ("b.example", 1),
        ("e.example", 1),
        ("example", None),
        ("other", None),
    ],
)
def test_the_most_specific_pattern_is_found(name, line):
    """The longest name answers, and a star of one label goes before one of any number."""
    texts = ("**.example", "**.b.example", "*.b.example", "a.b.example", "**.b.example")
    found = PatternIndex(patterns(*map(parse_pattern, texts))).find(name)

    assert (found.where.line if found else None) == line


NAMES = st.lists(st.sampled_from("ab"), min_size=1, max_size=4).map(".".join)


@given(st.lists(st.builds(NamePattern, NAMES, st.sampled_from(NameDepth))), NAMES)
def test_patterns_as_a_plain_search(given_patterns, name):
    """Any list of patterns and any name: as if each pattern were looked at."""
    made = patterns(*given_patterns)
    holding = [each for each in made if each.pattern.matches(name)]
    found = PatternIndex(made).find(name)

    assert found == max(
        holding,
        key=lambda each: (len(each.pattern.name), each.pattern.depth is NameDepth.LABEL),
        default=None,
    )
