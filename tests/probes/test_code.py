# SPDX-License-Identifier: Apache-2.0
"""Code is read as it was written, and nothing else is taken for code."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentwall.probes.code import INSTRUCTION, MAPS, MAX_INSTRUCTIONS, Code, map_loads

EXIT = INSTRUCTION.pack(0x95, 0, 0, 0)
HALF = bytes(INSTRUCTION.size)
NAMES = ("aw_say", "aw_hear")


def take(place: int, source: int = 1) -> bytes:
    """Return an instruction that takes the map at *place*."""
    return INSTRUCTION.pack(0x18, 1 | source << 4, 0, place) + HALF


CODE = Code(
    programs={"aw_say": take(1) + take(7, source=0) + EXIT, "aw_hear": EXIT + take(0) + EXIT},
    maps=MAPS[:2],
    has_cookies=True,
    bcc="0.26.0",
    seconds=0.5,
    peak_kib=1024,
)


def read(head: dict[str, Any], tables: bytes) -> Code:
    return Code.decode(json.loads(json.dumps(head)), tables, NAMES)


def test_round_trip():
    """What was written is read, through JSON."""
    assert read(*CODE.encode()) == CODE


def test_maps_taken():
    """Instructions that take maps are found, and not what looks like one within another."""
    within = INSTRUCTION.pack(0x18, 0, 0, 5) + INSTRUCTION.pack(0x18, 0x10, 0, 6)

    assert list(map_loads(within + take(1) + EXIT + take(0))) == [(16, 1), (40, 0)]


@pytest.mark.parametrize(
    "changed",
    [
        {"maps": ["aw_plain_calls", "aw_sandboxes"]},
        {"maps": ["aw_plain_calls"]},
        {"maps": 5},
        {"maps": [["aw_plain_calls"], []]},
        {"programs": ["aw_say"]},
        {"programs": ["aw_hear", "aw_say"]},
        {"sizes": [40, 31]},
        {"sizes": [40, 32, 8]},
        {"sizes": [72, 0]},
        {"sizes": [8, 64]},
        {"sizes": [-40, 32]},
        {"sizes": ["40", "32"]},
        {"sizes": [40.0, 32.0]},
        {"cookies": 1},
        {"bcc": "0.26\x1b[2J"},
        {"bcc": "9" * 33},
        {"bcc": None},
        {"seconds": "soon"},
        {"peak_kib": []},
    ],
)
def test_refused_head(changed):
    """What does not fit together is refused."""
    head, tables = CODE.encode()

    with pytest.raises((ValueError, TypeError)):
        read(head | changed, tables)


@pytest.mark.parametrize("missing", CODE.encode()[0])
def test_missing(missing):
    """Nothing has a default."""
    head, tables = CODE.encode()
    del head[missing]

    with pytest.raises(KeyError):
        read(head, tables)


@pytest.mark.parametrize(
    "instructions",
    [
        EXIT[:7],
        EXIT + take(0)[:8],
        take(2),
        take(-1),
        take(0, source=2),
        EXIT * (MAX_INSTRUCTIONS + 1),
        b"",
    ],
)
def test_refused_instructions(instructions):
    """Instructions are whole and not too many, and take maps that are there."""
    head, tables = CODE.encode()
    head["sizes"] = [len(instructions), len(CODE.programs["aw_hear"])]

    with pytest.raises(ValueError, match=r"aw_say|instruction|map"):
        read(head, instructions + tables[len(CODE.programs["aw_say"]) :])


def test_more_than_the_programs():
    """What follows the last program is refused."""
    head, tables = CODE.encode()

    with pytest.raises(ValueError, match="more than the programs"):
        read(head, tables + EXIT)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(list(CODE.encode()[0])), JSON), st.data())
def test_anything(changed, data):
    """Whatever is read is an error of a kind that is expected, or code that can be loaded."""
    head, tables = CODE.encode()
    octets = data.draw(st.one_of(st.just(tables), st.binary(max_size=128)))
    try:
        found = Code.decode({**head, **changed}, octets, NAMES)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return

    assert b"".join(found.programs.values()) == octets
    assert tuple(found.programs) == NAMES
    for each in found.programs.values():
        assert all(0 <= place < len(found.maps) for _, place in map_loads(each))
