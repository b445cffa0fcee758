# SPDX-License-Identifier: Apache-2.0
"""Reading on in a log that is written to, rotated, emptied and deleted meanwhile."""

from __future__ import annotations

import os
import threading

import pytest
from rig.records import flow, write_log

from agentwall.cli import event_tail
from agentwall.cli.event_tail import Tail


@pytest.fixture
def said() -> list[str]:
    return []


def opened(path, said, since_ns=None) -> Tail:
    tail = Tail(str(path), said.append)
    tail.begin(since_ns)
    return tail


def numbers(tail: Tail) -> list[int]:
    return [event.record.errno for event in tail.read()]


def fill(path, *found: int) -> None:
    write_log(path, [flow(errno=number) for number in found])


def three_files(directory):
    """A log that was rotated twice, with one event in each file; returns the newest's path."""
    path = directory / "e.jsonl"
    for number, name in enumerate(("e.jsonl.2", "e.jsonl.1", "e.jsonl"), start=1):
        fill(directory / name, number)
    return path


def test_half_a_line_waits_for_its_end(tmp_path, said):
    """What is being written is shown once it is whole."""
    path = tmp_path / "e.jsonl"
    fill(tmp_path / "whole.jsonl", 1, 2)
    text = (tmp_path / "whole.jsonl").read_bytes()
    path.write_bytes(text[:-10])
    tail = opened(path, said)
    first = numbers(tail)
    with path.open("ab") as file:
        file.write(text[-10:])
    second = numbers(tail)
    tail.close()

    assert (first, second, said) == ([1], [2], [])


def test_several_rotations_at_once(tmp_path, said):
    """Files that came and were rotated since the last look are read too, in order."""
    path = tmp_path / "e.jsonl"
    fill(path, 1)
    tail = opened(path, said)
    first = numbers(tail)
    with path.open("ab") as file:
        fill(tmp_path / "more", 2)
        file.write((tmp_path / "more").read_bytes())
    path.rename(f"{path}.3")
    fill(tmp_path / "e.jsonl.2", 3)
    fill(tmp_path / "e.jsonl.1", 4)
    between = numbers(tail)
    fill(path, 5)
    last = numbers(tail)
    tail.close()

    assert (first, [*between, *last], said) == ([1], [2, 3, 4, 5], [])


def test_a_rotation_before_the_files_are_opened(tmp_path, said):
    """What is rotated between the look at the files and the reading is read, and read once."""
    path = three_files(tmp_path)
    tail = opened(path, said)
    rotate(path, 3, 4)
    reading = tail.read()
    found = [next(reading).record.errno]
    rotate(path, 4, 5)
    found += [event.record.errno for event in reading]
    tail.close()

    assert (found, said) == ([1, 2, 3, 4, 5], [])


def rotate(path, files: int, number: int) -> None:
    for each in range(files, 1, -1):
        os.replace(f"{path}.{each - 1}", f"{path}.{each}")
    os.replace(path, f"{path}.1")
    fill(path, number)


def test_a_file_that_goes_before_it_is_read(tmp_path, said):
    """What was rotated away by then is missing, and that is said."""
    path = tmp_path / "e.jsonl"
    fill(tmp_path / "e.jsonl.1", 1)
    fill(path, 2)
    tail = opened(path, said)
    (tmp_path / "e.jsonl.1").unlink()
    found = numbers(tail)
    tail.close()

    assert found == [2]
    assert said == [f"{path}: a file has gone before it was read; events may be missing"]


def test_an_inode_that_is_given_out_again(tmp_path, said):
    """The newest file may have the inode of one that went: it comes last all the same."""
    path = three_files(tmp_path)
    tail = opened(path, said)
    os.replace(tmp_path / "e.jsonl.2", tmp_path / "new")
    os.replace(tmp_path / "e.jsonl.1", tmp_path / "e.jsonl.2")
    os.replace(path, tmp_path / "e.jsonl.1")
    fill(tmp_path / "other", 4)
    (tmp_path / "new").write_bytes((tmp_path / "other").read_bytes())
    os.replace(tmp_path / "new", path)
    found = numbers(tail)
    tail.close()

    assert found == [2, 3, 4]
    assert said == [f"{path}: a file has gone before it was read; events may be missing"]


def test_the_newest_file_is_away_for_a_moment(tmp_path, said, monkeypatch):
    """To begin in the midst of a rotation is to wait for its end."""
    monkeypatch.setattr(event_tail, "_ROTATING_S", 60.0)
    path = tmp_path / "e.jsonl"
    fill(tmp_path / "e.jsonl.1", 1)
    fill(tmp_path / "new", 2)
    later = threading.Timer(0.02, os.replace, (tmp_path / "new", path))
    later.start()
    tail = opened(path, said)
    later.join()
    found = numbers(tail)
    tail.close()

    assert (found, said) == ([1, 2], [])


def test_a_file_that_is_emptied(tmp_path, said):
    """A file that was cut and begun anew is read from its beginning."""
    path = tmp_path / "e.jsonl"
    fill(path, 1, 2, 3)
    tail = opened(path, said)
    first = numbers(tail)
    fill(tmp_path / "more", 4)
    os.truncate(path, 0)
    path.write_bytes((tmp_path / "more").read_bytes())
    second = numbers(tail)
    tail.close()

    assert (first, second) == ([1, 2, 3], [4])


def test_a_file_that_is_deleted(tmp_path, said):
    """Where the file was deleted the new one is read, and that something may be missing is said."""
    path = tmp_path / "e.jsonl"
    fill(path, 1)
    tail = opened(path, said)
    first = numbers(tail)
    path.unlink()
    nothing = numbers(tail)
    fill(path, 2)
    second = numbers(tail)
    tail.close()

    assert (first, nothing, second) == ([1], [], [2])
    assert said == [f"{path}: the file that was read has gone; events may be missing"]


def test_old_files_are_left_out(tmp_path, said):
    """A file that was last written to before the time that is asked for is not read."""
    path = tmp_path / "e.jsonl"
    fill(tmp_path / "e.jsonl.1", 1)
    fill(path, 2)
    os.utime(tmp_path / "e.jsonl.1", ns=(10**18, 10**18))
    tail = opened(path, said, since_ns=10**18 + 2 * 10**9)
    found = numbers(tail)
    tail.close()

    assert found == [2]


def test_bad_lines_are_named(tmp_path, said):
    """A line that is no event, or far too long, is told by its number and passed over."""
    path = tmp_path / "e.jsonl"
    fill(path, 1)
    with path.open("ab") as file:
        file.write(b"x\n" + b"y" * (3 << 20) + b"\n")
        fill(tmp_path / "more", 2)
        file.write((tmp_path / "more").read_bytes())
    tail = opened(path, said)
    found = numbers(tail)
    tail.close()

    assert found == [1, 2]
    assert [line.split(":")[1] for line in said] == ["2", "3"]


def test_no_file(tmp_path, said):
    """Without the newest file there is nothing to begin with."""
    with pytest.raises(FileNotFoundError):
        opened(tmp_path / "none.jsonl", said)
