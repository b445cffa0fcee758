# SPDX-License-Identifier: Apache-2.0
"""Files of the cache: what is kept comes back the same, what cannot be trusted does not."""

from __future__ import annotations

import os
import stat
from hashlib import sha256

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentwall.host import kept_files
from agentwall.host.kept_files import MAX_KEPT, SYSTEM_CACHE, Kind, cache_directory

DIGEST = sha256(b"a set").hexdigest()
KIND = Kind(magic=b"AWTEST\r\n", version=1, suffix=".test", made_by="host/kept*.py")
OTHER = Kind(magic=b"AWOTHER\n", version=1, suffix=".other", made_by="detect/*.py")
HEAD, TABLES = {"a": [1, 2]}, bytes(range(64))


def _pair(head, tables):
    return dict(head), tables


def _load(directory, digest=DIGEST, kind=KIND, decode=_pair):
    return kept_files.load(directory, kind, digest, decode)


def _store(directory, digest=DIGEST, kind=KIND):
    return kept_files.store(directory, kind, digest, HEAD, TABLES)


def _file(directory):
    (path,) = directory.iterdir()
    return path


@pytest.fixture
def directory(tmp_path):
    """A directory that only its owner can write, with one file in it."""
    place = tmp_path / "cache" / "agentwall"
    assert _store(place)
    return place


def test_comes_back(directory):
    """What was kept is read back the same, and only for its digest and kind."""
    assert _load(directory) == (HEAD, TABLES)
    assert _load(directory, sha256(b"another").hexdigest()) is None
    assert _load(directory, kind=OTHER) is None


def test_a_file_of_another_kind(directory):
    """One that has the other's name is not taken for it, nor are the others' pruned."""
    assert _store(directory, kind=OTHER)
    one = directory / kept_files._name(KIND, DIGEST)
    other = directory / kept_files._name(OTHER, DIGEST)
    one.write_bytes(other.read_bytes())

    assert _load(directory) is None
    assert _load(directory, kind=OTHER) == (HEAD, TABLES)


@pytest.mark.parametrize(
    "error", [ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError]
)
def test_what_is_no_such_thing(directory, error):
    """A whole file of which nothing can be made counts as none."""

    def decode(head, tables):
        raise error

    assert _load(directory, decode=decode) is None


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
        found = _load(directory)
    finally:
        path.write_bytes(raw)

    assert (found is None) == (changed != raw)


def test_private(directory):
    """Directory and file are the owner's alone, and no draft stays behind."""
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(_file(directory).stat().st_mode) == 0o600


def test_missing(tmp_path):
    """Where nothing was kept there is nothing."""
    assert _load(tmp_path / "no") is None


def test_writable_by_others(directory):
    """What others could have written is not read, be it the file or a directory above it."""
    for path in (_file(directory), directory, directory.parent):
        before = stat.S_IMODE(path.stat().st_mode)
        path.chmod(before | 0o020)
        assert _load(directory) is None
        path.chmod(before)

    assert _load(directory) is not None


def test_written_by_another(directory):
    """What belongs to another user is not read."""
    path = _file(directory)
    os.chown(path, 12345, 12345)
    assert _load(directory) is None
    os.chown(path, 0, 0)
    os.chown(directory, 12345, 12345)

    assert _load(directory) is None
    assert not _store(directory)


def test_links(directory, tmp_path):
    """Links are not followed: neither the directory may be one, nor the file."""
    link = tmp_path / "link"
    link.symlink_to(directory)
    assert _load(link) is None
    path = _file(directory)
    target = tmp_path / "target"
    path.rename(target)
    path.symlink_to(target)

    assert _load(directory) is None


def test_damaged_is_replaced(directory):
    """A damaged file counts as none, and the next one kept takes its place."""
    path = _file(directory)
    path.write_bytes(path.read_bytes()[:-1])
    assert _load(directory) is None
    assert _store(directory)

    assert _load(directory) is not None


def test_other_compiler(directory, monkeypatch):
    """What another version of the compiler made is not read."""
    monkeypatch.setattr(kept_files, "_compiler", lambda _: "another")

    assert _load(directory) is None


def test_few_are_kept(directory):
    """The ones longest unused go; those that were read lately stay."""
    for number in range(MAX_KEPT - 1):
        assert _store(directory, sha256(bytes([number])).hexdigest())
    for age, path in enumerate(sorted(directory.iterdir())):
        os.utime(path, (1000 + age, 1000 + age))
    assert _load(directory) is not None
    for number in range(100, 103):
        assert _store(directory, sha256(bytes([number])).hexdigest())

    assert len(list(directory.iterdir())) == MAX_KEPT
    assert _load(directory) is not None


def test_cannot_be_kept(tmp_path):
    """Where nothing can be written, that is said and nothing more."""
    (tmp_path / "file").write_text("")

    assert not _store(tmp_path / "file" / "c")


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
