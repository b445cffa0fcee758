# SPDX-License-Identifier: Apache-2.0
"""Automata on disk: what is kept comes back the same, what is unsound does not."""

from __future__ import annotations

from hashlib import sha256

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentwall.detect.automaton import Automaton
from agentwall.detect.signature import Side, Transport
from agentwall.host.automaton_file import (
    load_automaton,
    store_automaton,
)

DIGEST = sha256(b"a set").hexdigest()


def _automaton(**changes):
    values = {
        "classes": bytes(byte == 97 for byte in range(256)),
        "width": 2,
        "next": np.array([[0, 0], [0, 2], [2, 2]], dtype=np.uint16),
        "starts": {(Transport.TCP, Side.CLIENT): 1, (Transport.UDP, Side.SERVER): 0},
        "first_accepting": 2,
        "accepts": ((), (0, 3)),
        "accept_of": np.array([0, 0, 1], dtype=np.uint16),
        "end_of": np.array([0, 1, 0], dtype=np.uint16),
    }
    return Automaton(**(values | changes))


def _file(directory):
    (path,) = directory.iterdir()
    return path


def _same(one, other):
    tables = ("next", "accept_of", "end_of")
    others = ("classes", "width", "starts", "first_accepting", "accepts")
    return all(np.array_equal(getattr(one, t), getattr(other, t)) for t in tables) and all(
        getattr(one, name) == getattr(other, name) for name in others
    )


@pytest.fixture
def directory(tmp_path):
    """A directory that only its owner can write, with one automaton in it."""
    place = tmp_path / "cache" / "agentwall"
    assert store_automaton(place, DIGEST, _automaton())
    return place


def test_comes_back(directory):
    """What was kept is read back the same, and only for its digest."""
    assert _same(load_automaton(directory, DIGEST, 4), _automaton())
    assert load_automaton(directory, sha256(b"another").hexdigest(), 4) is None


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None
)
@given(st.data())
def test_any_damage(directory, data):
    """Whatever is changed in it, a file is not read."""
    path = _file(directory)
    raw = path.read_bytes()
    at = data.draw(st.integers(0, len(raw) - 1))
    put = data.draw(st.binary(max_size=3))
    cut = data.draw(st.integers(0, 3))
    changed = raw[:at] + put + raw[at + cut :]
    path.write_bytes(changed)
    try:
        found = load_automaton(directory, DIGEST, 4)
    finally:
        path.write_bytes(raw)

    assert (found is None) == (changed != raw)


@pytest.mark.parametrize(
    "changes",
    [
        {"next": np.array([[0, 0], [0, 3], [2, 2]], dtype=np.uint16)},
        {"classes": bytes([2]) + bytes(255)},
        {"classes": bytes(255)},
        {"starts": {(Transport.TCP, Side.CLIENT): 3}},
        {"accepts": ((), (4,))},
        {"accepts": ((1,), (0,))},
        {"accept_of": np.array([0, 0, 2], dtype=np.uint16)},
        {"end_of": np.array([0, 0, 2], dtype=np.uint16)},
        {"first_accepting": 4},
    ],
)
def test_unsound(tmp_path, changes):
    """What leads out of the tables is not read, however whole the file is."""
    assert store_automaton(tmp_path / "c", DIGEST, _automaton(**changes))

    assert load_automaton(tmp_path / "c", DIGEST, 4) is None
