# SPDX-License-Identifier: Apache-2.0
"""Tables on disk: what is kept comes back the same, what is unsound does not."""

from __future__ import annotations

import subprocess
import sys
from array import array
from dataclasses import fields, replace
from hashlib import sha256

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rig import inspection as small

from agentwall.detect.packed import PackedTable
from agentwall.detect.packing import pack_table
from agentwall.detect.signature import Side, Transport
from agentwall.host.table_file import load_table, store_table

DIGEST = sha256(b"a set").hexdigest()
TABLE = PackedTable(
    states=3,
    first_accepting=2,
    starts={(Transport.TCP, Side.CLIENT): 1, (Transport.UDP, Side.SERVER): 0},
    accepts=((), (0, 3)),
    masks=((0, 0), (1 << 63 | 5, 4)),
    accept_of=array("H", [0, 0, 1]).tobytes(),
    end_of=array("H", [0, 1, 0]).tobytes(),
    base=array("I", [0, 1, 3]).tobytes(),
    next=array("H", [0, 0, 2, 2, 2]).tobytes(),
    group_of=bytes([0, 1, 1]),
    classes=bytes(256) + bytes(byte == 97 for byte in range(256)),
)


def test_comes_back(tmp_path):
    """What was kept is read back the same, and only for its digest."""
    assert store_table(tmp_path / "c", DIGEST, TABLE)

    assert load_table(tmp_path / "c", DIGEST, 4) == TABLE
    assert load_table(tmp_path / "c", sha256(b"another").hexdigest(), 4) is None


def test_a_real_one_comes_back(tmp_path):
    """Of an automaton that was packed."""
    packed = pack_table(small.automaton(), small.signatures())
    assert store_table(tmp_path / "c", DIGEST, packed)

    assert load_table(tmp_path / "c", DIGEST, len(small.signatures().signatures)) == packed


@pytest.mark.parametrize(
    "changes",
    [
        {"states": 2},
        {"states": 4},
        {"first_accepting": 4},
        {"first_accepting": -1},
        {"starts": {(Transport.TCP, Side.CLIENT): 3}},
        {"starts": {(Transport.TCP, Side.CLIENT): -1}},
        {"accepts": ((), (4,))},
        {"accepts": ((1,), (0,))},
        {"masks": ((0, 0),)},
        {"masks": ((0, 0), (1 << 64, 0))},
        {"masks": ((0, 0), (0, -1))},
        {"accept_of": array("H", [0, 0, 2]).tobytes()},
        {"end_of": array("H", [0, 0, 2]).tobytes()},
        {"end_of": array("H", [0, 0]).tobytes()},
        {"base": array("I", [0, 1, 4]).tobytes()},
        {"next": array("H", [0, 0, 3, 2, 2]).tobytes()},
        {"next": array("H", [0, 0, 2, 2]).tobytes()},
        {"next": bytes(9)},
        {"next": b""},
        {"group_of": bytes([0, 1, 2])},
        {"classes": TABLE.classes[:-1]},
        {"classes": bytes(256) + bytes([2]) * 256},
        {"classes": b""},
    ],
)
def test_unsound(tmp_path, changes):
    """What leads out of the tables is not read, however whole the file is."""
    assert store_table(tmp_path / "c", DIGEST, replace(TABLE, **changes))

    assert load_table(tmp_path / "c", DIGEST, 4) is None


BYTES = ("accept_of", "end_of", "base", "next", "group_of", "classes")


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None
)
@given(st.sampled_from(BYTES), st.integers(0, 600), st.integers(0, 255))
def test_whatever_is_read_is_sound(tmp_path, name, at, value):
    """Each octet of each part changed: every step from every state stays inside."""
    raw = bytearray(getattr(TABLE, name))
    raw[at % len(raw)] = value
    assert store_table(tmp_path / "c", DIGEST, replace(TABLE, **{name: bytes(raw)}))
    found = load_table(tmp_path / "c", DIGEST, 4)

    if found is not None:
        base, cells = array("I", found.base), array("H", found.next)
        for state in range(found.states):
            for byte in range(256):
                column = found.classes[256 * found.group_of[state] + byte]
                assert cells[base[state] + column] < found.states
            for part in (found.accept_of, found.end_of):
                assert array("H", part)[state] < len(found.accepts)


def test_every_part_is_kept():
    """None is forgotten when one is added."""
    assert {each.name for each in fields(PackedTable)} == {
        *BYTES,
        *("states", "first_accepting", "starts", "accepts", "masks"),
    }


def test_no_numpy():
    """A process that finds its table needs none."""
    code = "import sys, agentwall.host.signature_files; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"
