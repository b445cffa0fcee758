# SPDX-License-Identifier: Apache-2.0
"""Reading event logs, whole, altered, cut and hostile."""

from __future__ import annotations

import io
import tempfile
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rig.daemon_log import write_daemon_log
from rig.records import FINISHED, STARTED, flow, rome_day, write_log

from agentwall.flow.severity import Severity
from agentwall.sinks.event_json import LoggedEvent
from agentwall.sinks.eventlog import MAX_LINE_BYTES, Chain, Damage, LogError, read_log


@cache
def log_lines() -> tuple[bytes, ...]:
    with tempfile.TemporaryDirectory() as directory:
        path = write_log(Path(directory) / "e.jsonl", rome_day())
        return tuple(path.read_bytes().splitlines(keepends=True))


def errors(data: bytes) -> list[LogError]:
    return [item for item in read_log(io.BytesIO(data), "e") if isinstance(item, LogError)]


def events(data: bytes) -> list[LoggedEvent]:
    return [item for item in read_log(io.BytesIO(data), "e") if isinstance(item, LoggedEvent)]


def test_a_whole_log_has_no_errors():
    """Every event is read and nothing is complained about."""
    data = b"".join(log_lines())

    assert errors(data) == []
    assert len(events(data)) == len(log_lines())


def test_an_altered_line_is_named():
    """A line that was changed breaks the chain at the line behind it, by line and byte."""
    lines = list(log_lines())
    lines[4] = lines[4].replace(b'"verdict":"deny"', b'"verdict":"allow"')
    data = b"".join(lines)

    (error,) = errors(data)

    assert error.damage is Damage.CHAIN_BROKEN
    assert (error.line, error.offset) == (6, sum(map(len, lines[:5])))
    assert error.problem == "chain broken: the line before was altered"
    assert error.severity is Severity.CRITICAL
    assert len(events(data)) == len(lines)


@pytest.mark.parametrize(("missing", "what"), [(1, "1 event is"), (3, "3 events are")])
def test_removed_lines_are_counted(missing, what):
    """Where lines were taken out, the ids say how many."""
    lines = [*log_lines()[:10], *log_lines()[10 + missing :]]

    (error,) = errors(b"".join(lines))

    assert (error.line, error.damage) == (11, Damage.CHAIN_BROKEN)
    assert error.problem == f"chain broken: {what} missing before this line"


def test_lines_put_in_are_noticed():
    """A line in twice breaks the chain there; reading goes on in step behind it."""
    lines = list(log_lines())
    lines.insert(7, lines[3])

    found = errors(b"".join(lines))

    assert [error.line for error in found] == [8, 9]
    assert {error.damage for error in found} == {Damage.CHAIN_BROKEN}


def test_a_log_without_its_beginning():
    """A log whose first lines are gone says so at its first line."""
    (error,) = errors(b"".join(log_lines()[2:]))

    assert (error.line, error.damage) == (1, Damage.BEGIN_MISSING)


def test_a_log_without_its_end():
    """A log that was cut between lines lacks its finish record."""
    (error,) = errors(b"".join(log_lines()[:-1]))

    assert (error.damage, error.severity) == (Damage.UNFINISHED, Severity.LOW)
    assert error.line == len(log_lines()) - 1


def test_a_log_cut_in_a_line():
    """A last line that stops in the middle is named with its byte; the lines before count."""
    data = b"".join(log_lines()[:-1]) + log_lines()[-1][:100]

    cut, unfinished = errors(data)

    assert (cut.damage, cut.line) == (Damage.CUT_SHORT, len(log_lines()))
    assert cut.offset == sum(map(len, log_lines()[:-1]))
    assert unfinished.damage is Damage.UNFINISHED
    assert len(events(data)) == len(log_lines()) - 1


def test_a_missing_last_line_end():
    """A whole last line without its end is read, and told."""
    data = b"".join(log_lines()).removesuffix(b"\n")

    (error,) = errors(data)

    assert (error.damage, error.problem) == (Damage.CUT_SHORT, "cut short after the last line")
    assert len(events(data)) == len(log_lines())


@pytest.mark.parametrize(
    ("line", "damage"),
    [
        (b"garbage\n", Damage.BAD_LINE),
        (b"\xff\xfe\n", Damage.BAD_LINE),
        (b"\n", Damage.BAD_LINE),
        (b'{"schema":"agentwall.event/9"}\n', Damage.UNKNOWN_SCHEMA),
        (b"x" * (MAX_LINE_BYTES + 1) + b"\n", Damage.TOO_LONG),
        (b"x" * (5 * MAX_LINE_BYTES) + b"\n", Damage.TOO_LONG),
    ],
)
def test_a_foreign_line_is_passed_over(line, damage):
    """A line that cannot be read is named, the chain breaks behind it, all others count."""
    lines = [*log_lines()[:5], line, *log_lines()[5:]]
    data = b"".join(lines)

    found = errors(data)

    assert [(error.line, error.damage) for error in found] == [
        *((6, damage), (7, Damage.CHAIN_BROKEN))
    ]
    assert found[1].offset == sum(map(len, lines[:6]))
    assert len(events(data)) == len(log_lines())


def test_a_line_of_the_largest_size_is_read():
    """The limit is on what is longer, not on what just fits."""
    line = log_lines()[0].rstrip()[:-1]
    padded = line + b" " * (MAX_LINE_BYTES - len(line) - 1) + b"}\n"

    assert len(events(padded)) == 1


def test_logs_one_after_the_other():
    """Several whole logs in one stream are read as such."""
    data = b"".join(log_lines())

    assert errors(data * 3) == []
    assert len(events(data * 3)) == 3 * len(log_lines())


def test_an_unfinished_log_before_another():
    """Where a log follows one without an end, that is told at its first line."""
    data = b"".join(log_lines()[:-1]) + b"".join(log_lines())

    (error,) = errors(data)

    assert (error.damage, error.line) == (Damage.UNFINISHED, len(log_lines()))


def test_an_empty_file():
    """A file without a byte is told as empty."""
    assert [error.damage for error in errors(b"")] == [Damage.EMPTY]


def test_a_directory_is_unreadable(tmp_path):
    """A reading error ends the log with the system's words."""

    class Failing(io.RawIOBase):
        def readable(self):
            return True

        def readinto(self, buffer):
            raise OSError(5, "Input/output error")

    (error,) = list(read_log(io.BufferedReader(Failing()), "e"))

    assert str(error) == "e:1: byte 0: Input/output error"
    assert error.damage is Damage.UNREADABLE


def test_an_error_names_its_place():
    """An error reads file, line, byte, problem."""
    (error,) = errors(b"".join(log_lines()[2:]))

    assert str(error) == "e:1: byte 0: the log does not begin here: what came before is missing"


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Draw a whole log with a few bytes changed, put in or taken out, its last line excepted."""
    last = len(log_lines()[-1]) + 1
    data = bytearray(b"".join(log_lines()))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data) - last))
        end = min(len(data) - last, start + draw(st.integers(0, 400)))
        data[start:end] = draw(st.binary(max_size=6) | st.sampled_from([b"\n", b"\0" * 50]))
    return bytes(data)


@given(damaged())
def test_any_damage_is_survived_and_noticed(data):
    """Whatever happens to a log, reading it never raises, and only an intact one is clean.

    The last line is the limit of a chain: no hash of it stands anywhere in the file.
    """
    found = list(read_log(io.BytesIO(data), "e"))

    problems = [item for item in found if isinstance(item, LogError)]
    assert bool(problems) == (data != b"".join(log_lines()))


@given(st.integers(0, len(b"".join(log_lines())) - 1))
def test_any_cut_is_noticed(size):
    """Wherever a log ends too early, that is told, and every whole line before counts."""
    data = b"".join(log_lines())[:size]

    problems = {error.damage for error in errors(data)}

    assert problems & {Damage.UNFINISHED, Damage.CUT_SHORT, Damage.EMPTY}
    assert len(events(data)) >= data.count(b"\n")


@given(st.binary(max_size=300))
def test_any_bytes_are_survived(data):
    """Bytes that are no log at all give errors and no events."""
    found = list(read_log(io.BytesIO(data), "e"))

    assert found
    assert all(isinstance(item, LogError) for item in found)


def test_memory_does_not_grow_with_a_line(tmp_path):
    """A line of 64 MiB costs no more memory than a short one."""
    import tracemalloc

    path = tmp_path / "long"
    with path.open("wb") as file:
        file.truncate(64 << 20)
    tracemalloc.start()
    with path.open("rb") as stream:
        found = [item.damage for item in read_log(stream, "e")]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert found == [Damage.TOO_LONG, Damage.CUT_SHORT]
    assert peak < 8 << 20


def test_start_and_end_of_several_sandboxes(tmp_path):
    """A log is finished when every sandbox in it is."""
    path = write_log(tmp_path / "e", [STARTED, STARTED, flow(), FINISHED])

    (error,) = errors(path.read_bytes())

    assert error.damage is Damage.UNFINISHED


def chained(*files: bytes) -> list[LogError]:
    """Read *files* as those of one rotated log."""
    chain = Chain()
    return [
        item
        for number, data in enumerate(files)
        for item in read_log(io.BytesIO(data), f"e.{number}", chain)
        if isinstance(item, LogError)
    ]


@cache
def daemon_files() -> tuple[bytes, ...]:
    with tempfile.TemporaryDirectory() as directory:
        path = write_daemon_log(Path(directory))
        rotated = sorted(path.parent.glob("events.jsonl.*"), key=lambda each: each.suffix)
        return tuple(each.read_bytes() for each in (*reversed(rotated), path))


def test_files_of_one_log():
    """Read with one chain, rotated files are one log, which has no end that could be missing."""
    assert len(daemon_files()) > 2
    assert chained(*daemon_files()) == []
    assert errors(b"".join(daemon_files())) == []


def test_a_file_read_alone():
    """A further file says that it continues another: a note, and nothing else."""
    (error,) = errors(daemon_files()[1])

    assert (error.line, error.damage, error.severity) == (1, Damage.CONTINUED, Severity.INFO)


def test_files_in_the_wrong_order():
    """Files that do not follow each other break the chain where the second begins."""
    first, second, third, *_ = daemon_files()
    found = chained(first, third, second)

    assert [(each.source, each.damage) for each in found] == [
        ("e.1", Damage.CHAIN_BROKEN),
        ("e.2", Damage.CHAIN_BROKEN),
    ]
    assert found[0].problem.startswith("chain broken: e.0 ends otherwise")


def test_a_beginning_that_was_cut_off():
    """A further file without its first line is no whole file: what came before is missing."""
    lines = daemon_files()[1].splitlines(keepends=True)
    first, *_ = errors(b"".join(lines[1:]))

    assert (first.damage, first.line) == (Damage.BEGIN_MISSING, 1)
