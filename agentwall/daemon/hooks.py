# SPDX-License-Identifier: Apache-2.0
"""Runs the operator's command for detections, in the background: nothing waits for it.

The command gets the event on its standard input, one JSON document, and an environment of its own;
nothing that a sandbox chose is ever an argument or a variable.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from agentwall.flow.record import Record
from agentwall.sinks.event_json import FIRST_PREV, LoggedEvent, format_line

logger = logging.getLogger(__name__)

MAX_RUNNING = 8
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


@dataclass(frozen=True, slots=True)
class _Running:
    child: subprocess.Popen[bytes]
    deadline_s: float


class Hooks:
    """The running commands. Call :meth:`poll` every second or so."""

    def __init__(self, command: Sequence[str], timeout_s: float) -> None:
        self._command = tuple(command)
        self._timeout_s = timeout_s
        self._running: list[_Running] = []

    def start(self, record: Record, event_id: str | None, now_s: float) -> str | None:
        """Run the command for *record*; it is on its own from here on.

        Args:
            record: Becomes its standard input, ``agentwall.event/1`` without ``prev``.
            event_id: As the event log has it; None: the document has none.
            now_s: Monotonic; the timeout counts from here.

        Returns:
            Why it could not be run, or None.
        """
        if len(self._running) >= MAX_RUNNING:
            return f"{MAX_RUNNING} are running already"
        try:
            # Unlike a pipe it takes any size at once, whether or not the command reads it.
            stdin = os.memfd_create("agentwall-event", os.MFD_CLOEXEC)
            with os.fdopen(stdin, "w+b") as file:
                file.write(event_document(record, event_id))
                file.seek(0)
                child = subprocess.Popen(
                    self._command,
                    stdin=file,
                    stdout=subprocess.DEVNULL,
                    env=_ENVIRONMENT,
                    cwd="/",
                    start_new_session=True,
                )
        except (OSError, ValueError) as err:
            return f"{self._command[0]}: {getattr(err, 'strerror', None) or err}"
        self._running.append(_Running(child, now_s + self._timeout_s))
        return None

    def poll(self, now_s: float) -> None:
        """Reap what has ended, and end what has run for too long."""
        for each in tuple(self._running):
            code = each.child.poll()
            if code is None and now_s < each.deadline_s:
                continue
            if code is None:
                logger.warning("response command: ended after %g s", self._timeout_s)
                _end(each.child)
            elif code:
                logger.warning("response command: exit code %d", code)
            self._running.remove(each)

    @property
    def running(self) -> int:
        """How many are running, as far as is known."""
        return len(self._running)

    def close(self) -> None:
        """End what still runs."""
        for each in self._running:
            _end(each.child)
        self._running.clear()


def event_document(record: Record, event_id: str | None = None) -> bytes:
    """Return *record* as the command gets it: one line of ASCII JSON, with its line end."""
    event = LoggedEvent(id=event_id or "", record=record, prev=FIRST_PREV)
    document = json.loads(format_line(event))
    # Only a line of the log itself has a line before it.
    del document["prev"]
    if event_id is None:
        del document["id"]
    return json.dumps(document, separators=(",", ":")).encode("ascii") + b"\n"


def _end(child: subprocess.Popen[bytes]) -> None:
    # It leads a session of its own, and its id is not reused before it is reaped.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
