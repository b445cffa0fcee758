# SPDX-License-Identifier: Apache-2.0
"""Evidence: bounded, and in words."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rig.strategies_of_records import JSON_VALUES, TEXT

from agentwall.sinks.evidence import clip, describe_evidence, describe_excerpt


@pytest.mark.parametrize(
    ("evidence", "words"),
    [
        (
            {"addresses": 13, "private": 12, "refused": 13, "seconds": 2.5},
            "13 addresses, 12 of them",
        ),
        ({"ports": 1}, "1 port"),
        ({"refused": 0, "midstream": False, "agent": None, "pool": ""}, ""),
        ({"midstream": True}, "midstream"),
        ({"methods": ["login", "submit", "job", "x", "y"]}, "methods login submit job and 2 more"),
        ({"limit": {"count": 12}, "examples": ["10.0.0.1:22"], "excerpt": "{}"}, ""),
        ({"agent": "a\x1b[2Jb"}, "agent a\\x1b[2Jb"),
        ({"k\u202e": 1}, "k\\u202e 1"),
    ],
)
def test_words(evidence, words):
    """Numbers with their meaning, texts with their key, nothing that says nothing."""
    found = describe_evidence(evidence)

    assert found.startswith(words) if words else found == ""


@pytest.mark.parametrize(
    ("text", "shown"),
    [('{"id": 1}', '{"id": 1}'), ("..x...", ""), ("", ""), (7, ""), ("abc\n\x1b", "abc\\x0a\\x1b")],
)
def test_excerpt(text, shown):
    """What was said is shown where it is text; bytes that are none say nothing."""
    assert describe_excerpt({"excerpt": text}) == shown


@given(st.dictionaries(TEXT, JSON_VALUES, max_size=6))
def test_small_evidence_is_kept(evidence):
    """What a report has room for comes through as it is, but for numbers nobody measured."""
    found = clip(evidence)

    assert found.keys() == evidence.keys()
    assert len(json.dumps(found)) < 100_000


def test_large_evidence_is_cut():
    """However wide, deep or long: what is kept is bounded."""
    deep: object = "x"
    for _ in range(50):
        deep = {"k": deep}
    found = clip({"long": "y" * 10_000, "wide": list(range(1000)), "deep": deep, "n": 10**400})

    assert len(json.dumps(found)) < 2000
    assert found["wide"] == list(range(16))
    assert str(found["long"]).endswith("...")


def test_many_keys_are_cut():
    """Of a thousand keys the first stay."""
    assert len(clip({str(number): number for number in range(1000)})) == 32


def test_what_a_hello_offered():
    """It is spelt as people know it; what is said elsewhere is left out."""
    evidence = {
        "inside": "tls",
        "sni": "a.example",
        "alpn": ["h2", "http/1.1"],
        "ja4": "t13d",
        "bytes_left_of": "text",
    }

    assert describe_evidence(evidence) == "SNI a.example, ALPN h2 http/1.1, JA4 t13d"
