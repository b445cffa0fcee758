# SPDX-License-Identifier: Apache-2.0
"""Read event logs, whole or damaged: events and what is wrong with the file, in order.

Counterpart: :mod:`agentwall.sinks.jsonl`. A damaged place is named by line and byte, and reading
goes on behind it. Memory stays bounded whatever the file holds.
"""

from __future__ import annotations

import enum
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from agentwall.flow.record import StateRecord
from agentwall.flow.severity import Severity
from agentwall.sinks.event_json import FIRST_PREV, LoggedEvent, is_host
from agentwall.sinks.event_parse import EventFormatError, UnknownSchemaError, parse_line

MAX_LINE_BYTES = 1 << 20
"""A longer line is passed over."""
CONTINUED = "log-continued"
"""The ``state`` of the record that begins a further file of a rotated log."""


class Damage(enum.Enum):
    """What can be wrong with an event log."""

    CHAIN_BROKEN = "chain-broken"
    """A line does not follow the one before: something was altered, removed or put in."""
    BEGIN_MISSING = "begin-missing"
    """The first line does not begin a log."""
    CONTINUED = "continued"
    """It is a file of a rotated log, and the one before was not read."""
    BAD_LINE = "bad-line"
    TOO_LONG = "too-long"
    UNKNOWN_SCHEMA = "unknown-schema"
    """JSON for another reader, or a newer one."""
    CUT_SHORT = "cut-short"
    """The last line has no end."""
    UNFINISHED = "unfinished"
    """No record of the end: still being written, killed, or cut."""
    EMPTY = "empty"
    UNREADABLE = "unreadable"


SEVERITIES = {
    Damage.CHAIN_BROKEN: Severity.CRITICAL,
    Damage.BEGIN_MISSING: Severity.CRITICAL,
    Damage.CONTINUED: Severity.INFO,
    Damage.BAD_LINE: Severity.MEDIUM,
    Damage.TOO_LONG: Severity.MEDIUM,
    Damage.UNKNOWN_SCHEMA: Severity.INFO,
    Damage.CUT_SHORT: Severity.LOW,
    Damage.UNFINISHED: Severity.LOW,
    Damage.EMPTY: Severity.LOW,
    Damage.UNREADABLE: Severity.MEDIUM,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LogError:
    """One place where a log is not what its writer left."""

    source: str
    """The file, as named by the user."""
    line: int
    """From 1."""
    offset: int
    """Of the line's first byte, from 0."""
    damage: Damage
    problem: str

    @property
    def severity(self) -> Severity:
        """How much it says about the wall's evidence."""
        return SEVERITIES[self.damage]

    def __str__(self) -> str:
        return f"{self.source}:{self.line}: byte {self.offset}: {self.problem}"


@dataclass(slots=True)
class Chain:
    """Joins the files of one rotated log, which are read one after the other, the oldest first."""

    digest: str | None = None
    """Of the last line of the file before; None before the first."""
    source: str = ""
    """That file."""


@dataclass(frozen=True, slots=True)
class _Line:
    number: int
    offset: int
    data: bytes | None
    """Without its line end; None if it is too long."""
    size: int
    """With its line end."""
    is_ended: bool
    digest: str


def _lines(stream: BinaryIO) -> Iterator[_Line]:
    number = offset = 0
    while chunk := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        is_ended = chunk.endswith(b"\n")
        data = chunk[:-1] if is_ended else chunk
        digest = hashlib.sha256(data)
        size = len(chunk)
        kept: bytes | None = data
        while not is_ended and size > MAX_LINE_BYTES:
            kept = None
            chunk = stream.readline(MAX_LINE_BYTES + 1)
            if not chunk:
                break
            is_ended = chunk.endswith(b"\n")
            digest.update(chunk[:-1] if is_ended else chunk)
            size += len(chunk)
        yield _Line(number, offset, kept, size, is_ended, digest.hexdigest())
        offset += size


def read_log(
    stream: BinaryIO, source: str, chain: Chain | None = None
) -> Iterator[LoggedEvent | LogError]:
    """Yield the events of *stream*, and its errors, in the order they stand in it.

    An error of a line comes before the event of that line. Several logs one after the other are
    read as such, if each begins with its ``started`` record.

    Args:
        stream: A file, from its beginning.
        source: Its name, for errors.
        chain: What the file before ended with, where *stream* is one of a rotated log; is brought
            up to the end of this one.
    """
    return _Reader(source, chain or Chain()).read(stream)


class _Reader:
    def __init__(self, source: str, chain: Chain) -> None:
        self._source = source
        self._chain = chain
        self._expected: str | None = None
        self._last_id: str | None = None
        self._open = 0
        self._has_events = False
        self._has_finished = False
        self._is_daemons = False

    def read(self, stream: BinaryIO) -> Iterator[LoggedEvent | LogError]:
        line = None
        end = 0
        try:
            for line in _lines(stream):
                yield from self._judge(line)
                self._expected = line.digest
                end = line.offset + line.size
        except OSError as err:
            number = line.number + 1 if line else 1
            problem = os.strerror(err.errno or 0)
            yield self._error(number, end, Damage.UNREADABLE, problem)
            return
        finally:
            if self._expected is not None:
                self._chain.digest, self._chain.source = self._expected, self._source
        yield from self._judge_end(line)

    def _judge(self, line: _Line) -> Iterator[LoggedEvent | LogError]:
        event = None
        if line.data is None:
            problem = f"expected a line of at most {MAX_LINE_BYTES} bytes, got {line.size}"
            yield self._error_at(line, Damage.TOO_LONG, problem)
        else:
            try:
                event = parse_line(line.data)
            except UnknownSchemaError as err:
                yield self._error_at(line, Damage.UNKNOWN_SCHEMA, str(err))
            except EventFormatError as err:
                if line.is_ended:
                    yield self._error_at(line, Damage.BAD_LINE, str(err))
        if not line.is_ended:
            where = "after the last line" if event else "in the middle of a line"
            yield self._error_at(line, Damage.CUT_SHORT, f"cut short {where}")
        if event is not None:
            yield from self._follow(line, event)
            yield event

    def _follow(self, line: _Line, event: LoggedEvent) -> Iterator[LogError]:
        """Compare the hash that *event* carries with the line before it."""
        state = event.record.state if isinstance(event.record, StateRecord) else None
        is_hosts = state is not None and is_host(event.record.sandbox)
        self._is_daemons = self._is_daemons or is_hosts
        begins = event.prev == FIRST_PREV and (state == "started" or is_hosts)
        if self._expected is None:
            if event.prev not in (FIRST_PREV, self._chain.digest):
                yield self._explain_beginning(line, continues=is_hosts and state == CONTINUED)
        elif event.prev != self._expected:
            if not begins:
                yield self._error_at(line, Damage.CHAIN_BROKEN, self._explain_break(event))
            elif self._is_unfinished():
                problem = "another log begins, and the one before has no finish record"
                yield self._error_at(line, Damage.UNFINISHED, problem)
            if begins:
                self._open, self._has_finished = 0, False
        self._has_events = True
        self._last_id = event.id
        if state == "started":
            self._open += 1
        elif state == "finished":
            self._open = max(self._open - 1, 0)
            self._has_finished = True

    def _explain_beginning(self, line: _Line, *, continues: bool) -> LogError:
        if self._chain.digest is not None:
            # Only files of one log are read with a chain that has begun.
            before = self._chain.source
            problem = f"chain broken: {before} ends otherwise, or a file between them is missing"
            return self._error_at(line, Damage.CHAIN_BROKEN, problem)
        if continues:
            problem = "continues a rotated file that was not read: give both, or the directory"
            return self._error_at(line, Damage.CONTINUED, problem)
        problem = "the log does not begin here: what came before is missing"
        return self._error_at(line, Damage.BEGIN_MISSING, problem)

    def _explain_break(self, event: LoggedEvent) -> str:
        missing = _missing_between(self._last_id, event.id)
        if missing:
            what = "1 event is" if missing == 1 else f"{missing} events are"
            return f"chain broken: {what} missing before this line"
        if missing == 0:
            return "chain broken: the line before was altered"
        return "chain broken: the line before was altered, or lines were removed or put in"

    def _is_unfinished(self) -> bool:
        # A daemon's log has no end: the next daemon goes on with it.
        if self._is_daemons:
            return False
        return self._has_events and (self._open > 0 or not self._has_finished)

    def _judge_end(self, last: _Line | None) -> Iterator[LogError]:
        if last is None:
            yield self._error(1, 0, Damage.EMPTY, "expected events, got an empty file")
        elif self._is_unfinished():
            problem = "no finish record: still being written, killed, or cut"
            yield self._error_at(last, Damage.UNFINISHED, problem)

    def _error_at(self, line: _Line, damage: Damage, problem: str) -> LogError:
        return self._error(line.number, line.offset, damage, problem)

    def _error(self, line: int, offset: int, damage: Damage, problem: str) -> LogError:
        return LogError(
            source=self._source, line=line, offset=offset, damage=damage, problem=problem
        )


def _missing_between(before: str | None, after: str) -> int | None:
    """Return how many numbers lie between two ids of one run, or None if that cannot be told."""
    if before is None:
        return None
    run, _, number = before.rpartition("-")
    run_after, _, number_after = after.rpartition("-")
    if run != run_after or not (_is_number(number) and _is_number(number_after)):
        return None
    missing = int(number_after) - int(number) - 1
    return missing if missing >= 0 else None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 19
