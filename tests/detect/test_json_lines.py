# SPDX-License-Identifier: Apache-2.0
"""Objects are found where lines begin, whatever surrounds them; cut off, as far as whole."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwall.detect.json_lines import MAX_DEPTH, begins_with_object, read_objects


def values(data: bytes) -> list[dict[str, object]]:
    """What the objects of *data* hold."""
    return [found.value for found in read_objects(data)]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"a":1}\n{"b":2}\n', [{"a": 1}, {"b": 2}]),
        (b'{"a":1}{"b":2} \t{"c":3}', [{"a": 1}, {"b": 2}, {"c": 3}]),
        (b'\xef\xbb\xbf\r\n\x00 {"a":1}', [{"a": 1}]),
        (b'{\n "a" :\n  {"b": [1, {"c": "}"}]}\n}\n', [{"a": {"b": [1, {"c": "}"}]}}]),
        (rb'{"m\u0065thod":"\"\\{"}', [{"method": '"\\{'}]),
        (b'text {"a":1}\n{"b":2}\n', [{"b": 2}]),
        (b'[{"a":1}]\n{"b":2}', [{"b": 2}]),
        (b'{"a":1}} {"b":2}\n{"c":3}', [{"a": 1}, {"c": 3}]),
        (b'{"a":[}\n{"c":3}', [{"c": 3}]),
        (b'{"a":"x\n{"c":3}', [{"c": 3}]),
        (b'{oops}\n{"c":3}', [{"c": 3}]),
        (b'{"a":"x\x01y"}', [{"a": "x\x01y"}]),
        (b"", []),
        (b"null\n1\n", []),
    ],
)
def test_objects(data, expected):
    """Objects that begin a line or follow one are read; quoted, nested and broken ones are not."""
    assert values(data) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"a":1,"b":"x', {"a": 1}),
        (b'{"method":"x","params":["a","b', {"method": "x", "params": ["a"]}),
        (b'{"method":"x"', {"method": "x"}),
        (b'{"a":{"b":{"c":tru', {"a": {"b": {}}}),
        (b'{"a":[1,2,3', {"a": [1, 2]}),
        (b'{"a', {}),
    ],
)
def test_cut_off(data, expected):
    """Of an object that the data cuts off, what was whole is read."""
    (found,) = read_objects(data)

    assert (found.value, found.is_whole) == (expected, False)


def test_doubled_keys():
    """Parsers differ in which of two equal keys counts: both readings come."""
    assert values(b'{"a":{"x":1,"x":2},"b":3,"b":4}') == [
        {"a": {"x": 1}, "b": 3},
        {"a": {"x": 2}, "b": 4},
    ]


def test_depth_and_numbers_are_bounded():
    """What is nested too deep is skipped, huge numbers are none, the next line is read."""
    deep = b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1)
    just = b'{"a":' * MAX_DEPTH + b"1" + b"}" * MAX_DEPTH

    assert values(deep + b'\n{"b":' + b"9" * 5000 + b"}") == [{"b": 0}]
    assert len(values(just)) == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)


@given(st.lists(st.dictionaries(st.text(max_size=4), JSON, max_size=4), max_size=4), st.booleans())
def test_what_was_written_is_read(messages, ascii_only):
    """Lines that json writes come back, also when written over many lines."""
    for indent in (None, 1):
        written = [json.dumps(m, ensure_ascii=ascii_only, indent=indent) for m in messages]

        assert values("\n".join(written).encode("utf-8", "surrogatepass")) == messages


@given(st.binary(max_size=200))
def test_any_bytes(data):
    """Any bytes are read, and only what begins like an object gives one at once."""
    found = list(read_objects(data))

    assert not found or b"{" in data
    assert (
        begins_with_object(b" \r\n" + data) == begins_with_object(b"\0" + data) or b"\xef" in data
    )
