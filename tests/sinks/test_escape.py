# SPDX-License-Identifier: Apache-2.0
"""Escaping: nothing a sandbox chose acts on a terminal."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwall.sinks.escape import printable, shorten, without_surrogates


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("curl", "curl"),
        ("naïve 中文 ß", "naïve 中文 ß"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\nb\rc\td\0", "a\\x0ab\\x0dc\\x09d\\x00"),
        ("\x7f\x9b31m", "\\x7f\\x9b31m"),
        ("a\u202egpj.exe", "a\\u202egpj.exe"),
        ("\u2066x\u2069\u200b\ufeff", "\\u2066x\\u2069\\u200b\\ufeff"),
        ("\u2028\u00a0", "\\u2028\\xa0"),
        ("z\u0336\u20dd", "z\\u0336\\u20dd"),
        ("\udcff\ud800", "\\udcff\\ud800"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_what_cannot_be_seen_is_spelled(text, shown):
    """Controls, ANSI, reading direction, invisible and combining characters are spelled out."""
    assert printable(text) == shown


@given(st.text(st.characters()))
def test_nothing_that_acts_is_left(text):
    """Whatever goes in, one line of visible characters comes out, and again the same."""
    shown = printable(text)

    categories = {unicodedata.category(character) for character in shown if character != " "}
    assert not categories & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs", "Mn", "Me"}
    assert printable(shown) == shown


def test_surrogates_become_bytes():
    """What Python keeps for bytes that are not UTF-8 is written as those bytes."""
    text = b"ok\xff".decode("utf-8", "surrogateescape")

    assert without_surrogates(text + "\ud800") == "ok\\xff\\ud800"


def test_shorten():
    """Text up to the limit is kept; longer text ends in dots and has the limit's length."""
    assert shorten("abcdef", 6) == "abcdef"
    assert shorten("abcdefg", 6) == "abc..."
