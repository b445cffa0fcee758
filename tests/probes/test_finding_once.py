# SPDX-License-Identifier: Apache-2.0
"""One look at a process opens everything once, and less where it is known already."""

from __future__ import annotations

import os

import pytest
from rig.places import ALL, Places
from rig.probed import build, calling

from agentwall.flow.tls import TlsLibrary
from agentwall.probes import finding as module
from agentwall.probes.attached import Attached
from agentwall.probes.finding import Finder


@pytest.fixture
def finder():
    """A finder that may probe as much as there is."""
    attached = Attached(ALL, max_libraries=64, pins=None, attach=Places().attach)
    yield Finder(attached)
    attached.close()


@pytest.fixture
def opened(monkeypatch):
    """What is opened, by the names that are used for it."""
    names = []
    open_it = os.open

    def noted(path, *rest, **options):
        names.append(os.fsdecode(path))
        return open_it(path, *rest, **options)

    monkeypatch.setattr(os, "open", noted)
    return names


def test_look(finder, opened, tmp_path, tmp_path_factory):
    """What is mapped, the program and the library; a file that is known is not read again."""
    parts = build(tmp_path_factory.mktemp("parts"))
    library = parts.copy(tmp_path / "libssl.so")
    looks = []
    with calling(parts, library) as caller:
        for _ in range(2):
            opened.clear()
            assert finder.look("a", caller.pid, 0.0).reading.library is TlsLibrary.OPENSSL
            looks.append([each for each in opened if not each.startswith("/proc/self/fd/")])
            looks.append([each for each in opened if each.startswith("/proc/self/fd/")])
    first, first_read, second, second_read = looks

    assert len(first) == len(set(first)) == 3
    assert f"/proc/{caller.pid}/maps" in first
    assert all("/map_files/" in each for each in first if not each.endswith("/maps"))
    assert second == first
    # Two files are read, and one of them is handed over to be probed; then that alone.
    assert (len(first_read), len(second_read)) == (3, 1)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: another's root directory")
def test_prepare(finder, monkeypatch):
    """A directory is listed once, by whatever name it is reached, however often that is."""
    listed = []
    names = module.library_names

    def noted(fd):
        listed.append(os.readlink(f"/proc/self/fd/{fd}"))
        return names(fd)

    monkeypatch.setattr(module, "library_names", noted)
    monkeypatch.setattr(module, "_listed", {})
    found = [list(finder.prepare(each, os.getpid(), lambda: 0.0)) for each in "ab"]

    assert found[0] == found[1]
    assert found[0]
    assert len(listed) == len(set(listed)) > 0
