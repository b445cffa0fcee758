# SPDX-License-Identifier: Apache-2.0
"""What the daemon answers is read whatever it is, and safe to print."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwall.sinks import status_fields as fields

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=300),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("read", "value", "found"),
    [
        (fields.text, "a\x1bb", "a\\x1bb"),
        (fields.text, 7, "7"),
        (fields.text, True, ""),
        (fields.text, ["a"], ""),
        (fields.text, "x" * 300, "x" * 197 + "..."),
        (fields.number, 7, 7),
        (fields.number, "7", 0),
        (fields.flag, True, True),
        (fields.flag, 1, False),
        (fields.part, {"a": 1}, {"a": 1}),
        (fields.part, [], {}),
        (fields.parts, [{"a": 1}, 7], [{"a": 1}]),
        (fields.parts, {"a": 1}, []),
        (fields.texts, ["a\n", 7], ["a\\x0a"]),
        (fields.texts, "ab", []),
        (fields.moment, "2026-11-29T08:00:00.5Z", "2026-11-29 08:00:00"),
        (fields.moment, "yesterday", ""),
        (fields.moment, None, ""),
        (fields.duration, 11_100.5, "3 h 05 min"),
        (fields.duration, True, ""),
        (fields.labels, {"b": "2\x1b", "a": "1"}, "a=1 b=2\\x1b"),
        (fields.labels, {"a": "x" * 100}, "a=" + "x" * 37 + "..."),
        (fields.counts, {"a": 1, "b": 0, "c\n": 2}, [("a", 1), ("c\\x0a", 2)]),
    ],
)
def test_read(read, value, found):
    """Each kind of value, and others in its place."""
    assert read({"labels": value}, "labels") == found


READERS = [
    *(fields.text, fields.number, fields.flag, fields.part, fields.parts, fields.texts),
    *(fields.moment, fields.duration, fields.labels, fields.counts),
]


@given(st.sampled_from(READERS), JSON)
def test_anything(read, value):
    """Nothing that an answer may hold ends the command, or breaks a line."""
    found = read({"x": value}, "x")

    assert not isinstance(found, str) or found.isprintable()
