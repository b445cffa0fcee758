# SPDX-License-Identifier: Apache-2.0
"""Fields of JSON objects: of the right type, or named with what is wrong."""

from __future__ import annotations

import pytest

from agentwall.flow.verdict import Verdict
from agentwall.sinks.json_fields import (
    EventFormatError,
    brief,
    choice_of,
    flag_of,
    number_of,
    object_of,
    optional_number,
    optional_text,
    text_of,
    texts_of,
)

DOCUMENT = {
    "text": "a",
    "number": 7,
    "flag": False,
    "texts": ["a"],
    "object": {},
    "verdict": "deny",
}


def test_right_types():
    """What is of its type is returned as it is; what may be missing is None."""
    assert text_of(DOCUMENT, "text") == optional_text(DOCUMENT, "text") == "a"
    assert number_of(DOCUMENT, "number") == optional_number(DOCUMENT, "number") == 7
    assert flag_of(DOCUMENT, "flag") is False
    assert texts_of(DOCUMENT, "texts") == ("a",)
    assert object_of(DOCUMENT, "object") == {}
    assert choice_of(DOCUMENT, "verdict", Verdict) is Verdict.DENY
    assert optional_text(DOCUMENT, "none") is optional_number(DOCUMENT, "none") is None


@pytest.mark.parametrize(
    ("read", "key", "problem"),
    [
        (text_of, "number", "number: expected text, got 7"),
        (number_of, "flag", "flag: expected a whole number of 64 bits, got False"),
        (flag_of, "number", "number: expected true or false, got 7"),
        (flag_of, "none", "none: expected true or false, got nothing"),
        (texts_of, "text", "text: expected a list of text, got 'a'"),
        (object_of, "texts", "texts: expected an object, got a list"),
    ],
)
def test_wrong_types(read, key, problem):
    """What is not raises, with the key, what was expected and what was found."""
    with pytest.raises(EventFormatError) as caught:
        read(DOCUMENT, key)

    assert str(caught.value) == problem


def test_long_values_are_cut():
    """A problem is one short line, however long the value is."""
    assert len(brief("x" * 10_000)) <= 62
    assert len(brief(10**50)) <= 60
