# SPDX-License-Identifier: Apache-2.0
"""Layouts of bytes are compared by their members, written down, and translated by name."""

from __future__ import annotations

import ctypes
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwall.errors import KernelError
from agentwall.kernel import abi
from agentwall.kernel.layout import (
    Layout,
    Member,
    from_json,
    number_in,
    of_ctypes,
    to_json,
    translate,
)

U8, U16, U32, U64 = (Layout(size) for size in (1, 2, 4, 8))


class _Part(ctypes.Structure):
    _fields_ = (("low", ctypes.c_uint16), ("high", ctypes.c_uint16))


class _Old(ctypes.Structure):
    _fields_ = (
        ("time", ctypes.c_uint64),
        ("parts", _Part * 2),
        ("rule", ctypes.c_uint32),
        ("gone", ctypes.c_uint32),
        ("name", ctypes.c_uint8 * 4),
        ("_pad", ctypes.c_uint8 * 4),
    )


class _New(ctypes.Structure):
    _fields_ = (
        ("rule", ctypes.c_uint64),
        ("name", ctypes.c_uint8 * 8),
        ("added", ctypes.c_uint32),
        ("parts", _Part * 2),
        ("_pad", ctypes.c_uint8 * 4),
        ("time", ctypes.c_uint64),
    )


def members(*kinds: Layout) -> Layout:
    found, at = [], 0
    for index, kind in enumerate(kinds):
        found.append(Member(f"m{index}", 8 * at, kind))
        at += kind.size
    return Layout(at, members=tuple(found))


NUMBERS = st.sampled_from([U8, U16, U32, U64])
LAYOUTS = st.recursive(
    NUMBERS,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=4).map(lambda kinds: members(*kinds))
        | st.tuples(inner, st.integers(1, 3)).map(
            lambda pair: Layout(pair[0].size * pair[1], element=pair[0])
        )
    ),
    max_leaves=8,
)


def test_by_name():
    """Members of the same name are carried over wherever they lie; new ones are zero."""
    old = _Old(time=5, rule=7, gone=9)
    old.parts[1].high = 3
    old.name[:] = b"abcd"
    raw = translate(bytes(old), of_ctypes(_Old), of_ctypes(_New))
    new = _New.from_buffer_copy(raw)

    assert (new.time, new.rule, new.added) == (5, 7, 0)
    assert [(part.low, part.high) for part in new.parts] == [(0, 0), (0, 3)]
    assert bytes(new.name) == b"abcd" + bytes(4)


@given(LAYOUTS, st.data())
def test_nothing_changed(layout, data):
    """Between equal layouts every byte is carried over."""
    raw = data.draw(st.binary(min_size=layout.size, max_size=layout.size))

    assert translate(raw, layout, layout) == raw


@given(st.dictionaries(st.text("abc", min_size=1), LAYOUTS, max_size=3))
def test_written_down(layouts):
    """What is written down is read as it was."""
    assert from_json(to_json(layouts)) == layouts


def test_what_cannot_be_carried_over():
    """A number that has no room, another kind of member, or bytes of another size are errors."""
    with pytest.raises(ValueError, match="expected at most 2 bytes, got 65536"):
        translate(struct.pack("=I", 65536), U32, U16)
    with pytest.raises(ValueError, match="of another kind"):
        translate(bytes(4), members(U32), members(members(U32)))
    with pytest.raises(ValueError, match="expected 4 bytes, got 3"):
        translate(bytes(3), U32, U32)
    with pytest.raises(ValueError, match="m0: a bit field"):
        translate(b"\0", Layout(1, members=(Member("m0", 3, U8),)), members(U8))


@pytest.mark.parametrize("text", ["", "[]", "{", '{"x": 1}', '{"x": []}', '{"x": [4, ["a"]]}'])
def test_not_layouts(text):
    """What is no written layout is an error, and no crash."""
    with pytest.raises(ValueError, match=r"."):
        from_json(text)


def test_numbers():
    """One number can be read out of a struct; one that is not there is an error."""
    raw = bytes(abi.Counters(denied=5, matches=6))

    assert number_in(raw, of_ctypes(abi.Counters), "matches") == 6
    with pytest.raises(KernelError, match="expected a member other, got none"):
        number_in(raw, of_ctypes(abi.Counters), "other")
