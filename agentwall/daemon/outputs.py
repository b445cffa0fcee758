# SPDX-License-Identifier: Apache-2.0
"""The files a run writes: opened before the command starts, so that it cannot choose where to.

Both are root's, mode 0640, and readable by the group of the user whom the command runs as.
"""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from agentwall.errors import HostError
from agentwall.sinks.jsonl import open_event_file

LOG_DIRECTORY = Path("/var/log/agentwall")


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFile:
    """The event file of one run."""

    path: Path
    """Absolute."""
    descriptor: int
    """For writing; whoever gets it closes it."""


def open_events(wanted: str | None, run_id: str, group: int) -> EventFile:
    """Create the event file *wanted*, or the default one of *run_id*.

    Raises:
        HostError: It exists, or cannot be made.
    """
    path = Path(wanted) if wanted else LOG_DIRECTORY / "runs" / f"{run_id}.jsonl"
    if not wanted:
        try:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        except OSError as err:
            raise HostError(f"{path.parent}: making it: {err.strerror}") from err
    return EventFile(path=path.absolute(), descriptor=open_event_file(str(path), group=group))


class ReportFile:
    """Where audit's report on a run goes in the end."""

    def __init__(self, path: str, events: EventFile, group: int) -> None:
        """Open *path*, which may exist and is replaced, and *events* for reading.

        Raises:
            HostError: *path* cannot be written, or *events* is a pipe or a device.
        """
        # rich comes with it, which takes long, and most runs do without a report.
        from agentwall.daemon.run_report import report_of

        self._report_of = report_of
        self.path = Path(path).absolute()
        if not stat.S_ISREG(os.fstat(events.descriptor).st_mode):
            raise HostError(f"report {path}: expected an event file to make it of, got a device")
        self._source = str(events.path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with contextlib.ExitStack() as undo:
            try:
                descriptor = os.open(path, flags, 0o640)
                self._file = undo.enter_context(os.fdopen(descriptor, "w", encoding="utf-8"))
                found = os.fstat(descriptor)
                if not stat.S_ISREG(found.st_mode):
                    raise HostError(f"report {path}: expected a regular file")
                if os.path.samestat(found, os.fstat(events.descriptor)):
                    raise HostError(f"report {path}: expected another file than the events'")
                os.fchown(descriptor, os.geteuid(), group)
                os.fchmod(descriptor, 0o640)
                # By descriptor: the name may lead elsewhere when the command has ended.
                events_again = os.open(f"/proc/self/fd/{events.descriptor}", os.O_RDONLY)
            except OSError as err:
                raise HostError(f"report {path}: {err.strerror}") from err
            self._events = undo.enter_context(os.fdopen(events_again, "rb"))
            self._undo = undo.pop_all()

    def write(self) -> None:
        """Read the event file and write the report, in the format of the name's suffix.

        Raises:
            HostError: The disk is full, or the event file cannot be read.
        """
        try:
            with self._undo:
                report = self._report_of(self._events, self._source, self.path.suffix)
                self._file.truncate(0)
                self._file.write(report)
        except OSError as err:
            raise HostError(f"report {self.path}: {err.strerror}") from err

    def close(self) -> None:
        """Close the files without writing a report."""
        self._undo.close()
