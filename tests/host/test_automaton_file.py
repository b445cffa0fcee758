# SPDX-License-Identifier: Apache-2.0
"""Automata on disk: what is kept comes back the same, what cannot be trusted does not."""

from __future__ import annotations

import os
import stat
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentwall.detect.automaton import Automaton
from agentwall.detect.signature import Side, Transport
from agentwall.host import automaton_file
from agentwall.host.automaton_file import (
    MAX_KEPT,
    SYSTEM_CACHE,
    cache_directory,
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


def test_private(directory):
    """Directory and file are the owner's alone, and no draft stays behind."""
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(_file(directory).stat().st_mode) == 0o600


def test_missing(tmp_path):
    """Where nothing was kept there is nothing."""
    assert load_automaton(tmp_path / "no", DIGEST, 4) is None


def test_writable_by_others(directory):
    """What others could have written is not read, be it the file or a directory above it."""
    for path in (_file(directory), directory, directory.parent):
        before = stat.S_IMODE(path.stat().st_mode)
        path.chmod(before | 0o020)
        assert load_automaton(directory, DIGEST, 4) is None
        path.chmod(before)

    assert load_automaton(directory, DIGEST, 4) is not None


def test_written_by_another(directory):
    """What belongs to another user is not read."""
    path = _file(directory)
    os.chown(path, 12345, 12345)
    assert load_automaton(directory, DIGEST, 4) is None
    os.chown(path, 0, 0)
    os.chown(directory, 12345, 12345)

    assert load_automaton(directory, DIGEST, 4) is None
    assert not store_automaton(directory, DIGEST, _automaton())


def test_links(directory, tmp_path):
    """Links are not followed: neither the directory may be one, nor the file."""
    link = tmp_path / "link"
    link.symlink_to(directory)
    assert load_automaton(link, DIGEST, 4) is None
    path = _file(directory)
    target = tmp_path / "target"
    path.rename(target)
    path.symlink_to(target)

    assert load_automaton(directory, DIGEST, 4) is None


def test_damaged_is_replaced(directory):
    """A damaged file counts as none, and the next one kept takes its place."""
    path = _file(directory)
    path.write_bytes(path.read_bytes()[:-1])
    assert load_automaton(directory, DIGEST, 4) is None
    assert store_automaton(directory, DIGEST, _automaton())

    assert load_automaton(directory, DIGEST, 4) is not None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
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


def test_other_compiler(directory, monkeypatch):
    """What another version of the compiler made is not read."""
    monkeypatch.setattr(automaton_file, "_compiler", lambda: "another")

    assert load_automaton(directory, DIGEST, 4) is None


def test_few_are_kept(directory):
    """The ones longest unused go; those that were read lately stay."""
    for number in range(MAX_KEPT - 1):
        assert store_automaton(directory, sha256(bytes([number])).hexdigest(), _automaton())
    for age, path in enumerate(sorted(directory.iterdir())):
        os.utime(path, (1000 + age, 1000 + age))
    assert load_automaton(directory, DIGEST, 4) is not None
    for number in range(100, 103):
        assert store_automaton(directory, sha256(bytes([number])).hexdigest(), _automaton())

    assert len(list(directory.iterdir())) == MAX_KEPT
    assert load_automaton(directory, DIGEST, 4) is not None


def test_cannot_be_kept(tmp_path):
    """Where nothing can be written, that is said and nothing more."""
    (tmp_path / "file").write_text("")

    assert not store_automaton(tmp_path / "file" / "c", DIGEST, _automaton())


@pytest.mark.parametrize(
    ("euid", "environment", "expected"),
    [
        (0, {"XDG_CACHE_HOME": "/x"}, str(SYSTEM_CACHE)),
        (7, {"XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/x/agentwall"),
        (7, {"XDG_CACHE_HOME": "x", "HOME": "/h"}, "/h/.cache/agentwall"),
        (7, {"HOME": "/h"}, "/h/.cache/agentwall"),
        (7, {"HOME": ""}, "None"),
    ],
)
def test_directory_of_a_user(monkeypatch, euid, environment, expected):
    """Root has one place whatever its environment says; others have their cache."""
    monkeypatch.setattr(os, "geteuid", lambda: euid)
    for name in ("XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert str(cache_directory()) == expected
