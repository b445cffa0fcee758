# SPDX-License-Identifier: Apache-2.0
"""Reading inside TLS as the control protocol and a scrape describe it. Pure.

Counterparts: :mod:`agentwall.daemon.inside_state` has what comes in, docs/control.md the keys.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from agentwall.daemon.inside_state import (
    InsideProvider,
    InsideState,
    ProbedLibrary,
    ProcessReading,
    SandboxReadings,
)
from agentwall.engine.tls_sessions import TlsCounts
from agentwall.flow.record import SandboxKey
from agentwall.flow.tls import Unread
from agentwall.sinks.escape import shorten, without_surrogates
from agentwall.sinks.figures import TlsFigures
from agentwall.sinks.rfc3339 import format_time
from agentwall.sinks.tls_words import words_of

MAX_PROCESSES = 256
"""Of one sandbox that are described; an answer has room for these, whatever their paths are."""
_MAX_TEXT = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What the readings of several sandboxes add up to."""

    read: int = 0
    """Processes whose text is read."""
    unread: dict[Unread, int]
    """Processes whose text is not, by reason."""
    speakers: int = 0
    """Of these, that began TLS sessions."""
    sessions: int = 0
    joined: int = 0
    """Of these, whose text was read."""


class AsTold:
    """Reading inside TLS, with its sessions as the log tells of them.

    A session behind a rule that says not to read it has a connection that a probe told of, and is
    not read; and of each session that is not, the log knows why.
    """

    def __init__(
        self, inside: InsideProvider, counts: Callable[[SandboxKey], TlsCounts | None]
    ) -> None:
        """Tell of *inside*; *counts*: of the sessions of a sandbox, None where nobody knows."""
        self._inside = inside
        self._counts = counts

    def state(self) -> InsideState:
        """Return how it stands on this host."""
        return self._inside.state()

    def readings(self, key: SandboxKey) -> SandboxReadings | None:
        """Return what is known of a sandbox; None: nothing."""
        found, counts = self._inside.readings(key), self._counts(key)
        if counts is None:
            return found
        return replace(
            found or SandboxReadings(sessions=0, joined=0, processes=()),
            sessions=counts.hellos,
            joined=counts.joined,
            unread={why: count for why, count in counts.unread.items() if why is not None},
        )


def not_started(max_libraries: int) -> InsideState:
    """Return the state where nobody reads inside TLS."""
    return InsideState(state="off", reason="not started", max_libraries=max_libraries)


def count_readings(found: Iterable[SandboxReadings | None]) -> Counted:
    """Return what *found* adds up to; None: a sandbox of which nothing is known."""
    known = [each for each in found if each is not None]
    processes = [each for readings in known for each in readings.processes]
    unread = [each for each in processes if each.reading.unread is not None]
    return Counted(
        read=len(processes) - len(unread),
        unread=dict(Counter(e.reading.unread for e in unread if e.reading.unread is not None)),
        speakers=sum(each.sessions > 0 for each in unread),
        sessions=sum(each.sessions for each in known),
        joined=sum(each.joined for each in known),
    )


def tls_status(
    state: InsideState, readings: Iterable[SandboxReadings | None] = ()
) -> dict[str, object]:
    """Return how reading inside TLS stands, as ``status`` has it.

    Args:
        state: Of this host.
        readings: Of each sandbox there is.
    """
    counted = count_readings(readings)
    return {
        "state": state.state,
        "reason": state.reason,
        "bcc": state.bcc,
        "compile_s": None if state.compile_s is None else round(state.compile_s, 3),
        "libraries": [_library(each) for each in state.libraries],
        "max_libraries": state.max_libraries,
        "over_limit": state.over_limit,
        "displaced": state.displaced,
        "unreadable": state.unreadable,
        "calls": state.calls,
        "octets": state.octets,
        "lost": state.lost,
        "doubled": state.doubled,
        "connections": state.connections,
        "joined": state.joined,
        "processes": {
            "read": counted.read,
            "unread": {reason.value: number for reason, number in counted.unread.items()},
            "unread_speakers": counted.speakers,
        },
        "sessions": {"seen": counted.sessions, "joined": counted.joined},
    }


def tls_of_sandbox(readings: SandboxReadings | None) -> dict[str, object]:
    """Return whose text is read in a sandbox, as ``sandbox-show`` has it.

    Sessions are null, and there are no processes, where nothing is known.
    """
    if readings is None:
        return {"sessions": None, "joined": None, "unread": {}, "processes": [], "truncated": 0}
    # Who speaks TLS and is not read comes first: that is what the table is looked at for.
    ordered = sorted(readings.processes, key=_rank)
    return {
        "sessions": readings.sessions,
        "joined": readings.joined,
        "unread": {reason.value: number for reason, number in readings.unread.items()},
        "processes": [_process(each) for each in ordered[:MAX_PROCESSES]],
        "truncated": readings.truncated + max(len(ordered) - MAX_PROCESSES, 0),
    }


def unread_speakers(readings: SandboxReadings | None) -> int | None:
    """Return how many processes began TLS sessions unread; None: nothing is known."""
    return None if readings is None else count_readings([readings]).speakers


def tls_notice(state: InsideState) -> str | None:
    """Return what a run says at its start; None: nothing, for it is read or was not asked for."""
    return f"inside TLS: not read: {state.reason}" if state.state == "refused" else None


def tls_figures(state: InsideState, readings: Iterable[SandboxReadings | None]) -> TlsFigures:
    """Return the same for a scrape."""
    counted = count_readings(readings)
    return TlsFigures(
        state=state.state,
        libraries=dict(Counter(each.library.value for each in state.libraries)),
        over_limit=state.over_limit,
        displaced=state.displaced,
        unreadable=state.unreadable,
        calls=state.calls,
        octets=state.octets,
        lost=state.lost,
        doubled=state.doubled,
        connections=state.connections,
        joined=state.joined,
        read=counted.read,
        # Every reason always: a series that comes and goes cannot be alerted on.
        unread={reason.value: counted.unread.get(reason, 0) for reason in Unread},
    )


def _library(library: ProbedLibrary) -> dict[str, object]:
    return {
        "library": library.library.value,
        "path": _text(library.path),
        "device": library.device,
        "inode": library.inode,
        "processes": library.processes,
        "sandboxes": library.sandboxes,
        "since": format_time(library.since_ns),
        "calls": list(library.calls),
    }


def _rank(process: ProcessReading) -> tuple[bool, bool, int]:
    is_read = process.reading.unread is None
    return (is_read or not process.sessions, is_read, process.pid)


def _process(process: ProcessReading) -> dict[str, object]:
    reading = process.reading
    return {
        "pid": process.pid,
        "comm": _text(process.comm),
        "exe": None if process.exe is None else _text(process.exe),
        "read": reading.unread is None,
        "library": reading.library.value if reading.library is not None else None,
        "path": None if reading.path is None else _text(reading.path),
        "unread": reading.unread.value if reading.unread is not None else None,
        "why": words_of(reading.unread) if reading.unread is not None else None,
        "sessions": process.sessions,
    }


def _text(chosen: str) -> str:
    return without_surrogates(shorten(chosen, _MAX_TEXT))
