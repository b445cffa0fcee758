# SPDX-License-Identifier: Apache-2.0
"""What happens in directories is told, and nothing else."""

from __future__ import annotations

import contextlib
import select

import pytest

from agentwall.host import inotify
from agentwall.host.inotify import Event, Inotify


@pytest.fixture
def watching():
    """An empty queue."""
    with contextlib.closing(Inotify()) as made:
        yield made


def is_readable(watching: Inotify) -> bool:
    return bool(select.select([watching], [], [], 0)[0])


def test_nothing_has_happened(watching, tmp_path):
    """Reading does not wait."""
    watching.watch_content(str(tmp_path))

    assert not is_readable(watching)
    assert watching.read() == []


def test_directories_come_and_go(watching, tmp_path):
    """Each event names the watch and the name within it."""
    number = watching.watch(str(tmp_path), inotify.CREATE | inotify.DELETE)
    name = "\udcff x"
    (tmp_path / name).mkdir()
    (tmp_path / name).rmdir()

    assert is_readable(watching)
    assert watching.read() == [
        Event(number, inotify.CREATE | inotify.IS_DIRECTORY, name),
        Event(number, inotify.DELETE | inotify.IS_DIRECTORY, name),
    ]
    assert not is_readable(watching)


def test_files_are_written(watching, tmp_path):
    """A file counts when it has been written, and when another takes its name."""
    watching.watch_content(str(tmp_path))
    (tmp_path / "a").write_text("x")
    (tmp_path / "a").rename(tmp_path / "b")

    assert [event.name for event in watching.read() if event.mask & inotify.CLOSE_WRITE] == ["a"]
    (tmp_path / "b").rename(tmp_path / "c")
    assert [event.name for event in watching.read() if event.mask & inotify.MOVED_TO] == ["c"]


def test_a_watch_that_is_forgotten(watching, tmp_path):
    """Nothing more comes of it, and forgetting it twice does no harm."""
    number = watching.watch_content(str(tmp_path))
    watching.forget(number)
    watching.forget(number)
    (tmp_path / "a").touch()

    assert watching.read() == [Event(number, inotify.IGNORED, "")]


def test_only_directories(watching, tmp_path):
    """What is no directory, or not there, is refused with the system's reason."""
    (tmp_path / "file").touch()

    with pytest.raises(NotADirectoryError):
        watching.watch_content(str(tmp_path / "file"))
    with pytest.raises(FileNotFoundError):
        watching.watch_content(str(tmp_path / "absent"))
