# SPDX-License-Identifier: Apache-2.0
"""Files below a root are opened as who has it would, and nothing that may hang is touched."""

from __future__ import annotations

import os
import string

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rig.descriptors import descriptors
from rig.silent_fuse import NoFuseError, process_on_silent_fuse

from agentwall.probes import walking as module
from agentwall.probes.mounts import Mounts
from agentwall.probes.walking import open_below

PARTS = st.sampled_from(
    ["..", ".", "", "a", "b", "up", "out", "round", "file", "x" * 300, "\udc80"]
)


@pytest.fixture
def root(tmp_path):
    """A directory with links in it, that lead around and out, and a secret beside it."""
    (tmp_path / "secret").write_text("secret")
    top = tmp_path / "root"
    (top / "a" / "b").mkdir(parents=True)
    (top / "a" / "b" / "file").write_text("inner")
    (top / "file").write_text("outer")
    (top / "a" / "up").symlink_to("../a/b")
    (top / "a" / "out").symlink_to("../../../../../../secret")
    (top / "abs").symlink_to("/a/up/file")
    (top / "round").symlink_to("round")
    fd = os.open(top, os.O_PATH)
    yield fd
    os.close(fd)


def found(root: int, path: str) -> str | None:
    """Return what *path* leads to, without links; its descriptor is closed."""
    opened = open_below(Mounts(os.getpid()), root, path)
    if opened is None:
        return None
    os.close(opened[0])
    return opened[1]


@pytest.mark.parametrize(
    ("path", "where"),
    [
        ("/", "/"),
        ("file", "/file"),
        ("/a//./b/../up/file", "/a/b/file"),
        ("abs", "/a/b/file"),
        ("../../file", "/file"),
        ("a/up/../file", None),
        ("a/up/..", "/a"),
        ("a/out", None),
        ("round", None),
        ("file/x", None),
        ("nothing", None),
        ("a\0b", None),
    ],
)
def test_paths(root, path, where):
    """Links and ``..`` are followed as below that root, and loops are not."""
    assert found(root, path) == where


def test_it_is_the_file(root):
    """What is returned is the file, for whoever opens it for reading then."""
    fd, _ = open_below(Mounts(os.getpid()), root, "abs") or (-1, "")
    with open(f"/proc/self/fd/{fd}") as file:
        text = file.read()
    os.close(fd)

    assert text == "inner"


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=200,
)
@given(st.lists(PARTS, max_size=12), st.text(string.printable, max_size=8))
def test_any_path(root, parts, tail):
    """Whatever a path looks like, it stays below the root, and nothing stays open."""
    before = descriptors()
    where = found(root, "/".join((*parts, tail)))

    assert where is None or where.split("/")[1] in ("", "a", "file")
    assert descriptors() <= before


def test_longest(root, monkeypatch):
    """A way of too many names ends."""
    monkeypatch.setattr(module, "MAX_NAMES", 8)

    assert found(root, "a/b/file") == "/a/b/file"
    assert found(root, "a/../a/b/file") == "/a/b/file"
    assert found(root, "a/../" * 9 + "a/b") is None


@pytest.mark.kernel
def test_file_system_that_hangs(tmp_path):
    """A way through FUSE ends where it is mounted, and nobody waits for whoever serves it."""
    try:
        with process_on_silent_fuse(tmp_path, "libssl.so") as pid:
            root = os.open(f"/proc/{pid}/root", os.O_PATH)
            inside = found_in(pid, root, f"{tmp_path}/libssl.so")
            at = found_in(pid, root, str(tmp_path))
            beside = found_in(pid, root, str(tmp_path.parent))
            os.close(root)
    except NoFuseError as err:
        pytest.skip(str(err))

    assert (inside, at) == (None, None)
    assert beside == os.path.realpath(tmp_path.parent)


def found_in(pid: int, root: int, path: str) -> str | None:
    """As :func:`found`, in the mount namespace of *pid*."""
    opened = open_below(Mounts(pid), root, path)
    if opened is None:
        return None
    os.close(opened[0])
    return opened[1]


def test_only_regular_files(tmp_path):
    """What is open without rights is opened for reading if it is a file, and let go in any case."""
    (tmp_path / "file").write_bytes(b"text")
    os.mkfifo(tmp_path / "fifo")
    before = descriptors()
    kept = [
        module.open_regular(os.open(each, os.O_PATH))
        for each in (tmp_path / "file", tmp_path / "fifo", tmp_path)
    ]

    assert kept[1:] == [None, None]
    assert os.read(kept[0], 9) == b"text"
    os.close(kept[0])
    assert descriptors() <= before


def test_names_of_libraries(tmp_path):
    """Those that a TLS library may have, sorted; of what is no directory none."""
    for name in ("libssl.so.3", "libgnutls.so.30", "libc.so.6", "text"):
        (tmp_path / name).touch()
    with open(tmp_path / "libc.so.6", "rb") as file:
        none = module.library_names(file.fileno())
    directory = os.open(tmp_path, os.O_RDONLY)
    found = module.library_names(directory)
    os.close(directory)

    assert found == ["libgnutls.so.30", "libssl.so.3"]
    assert none == []


def test_from_a_root_on_its_file_system(root):
    """Links are followed below that root, or not at all; other file systems are not entered."""

    def is_open(path, **options):
        fd = module.open_in(root, path, os.O_PATH | os.O_NOFOLLOW, **options)
        if fd is not None:
            os.close(fd)
        return fd is not None

    top = os.open("/", os.O_PATH)
    process = module.open_in(top, "/proc/self", os.O_PATH)
    os.close(top)

    assert process is None
    assert [is_open(each) for each in ("/a/up/file", b"a/b/file", "a/out/x", "round/x")] == [
        *(True, True, False, False)
    ]
    assert is_open("/a/b/file", may_link=False)
    assert not is_open("/a/up/file", may_link=False)
