# SPDX-License-Identifier: Apache-2.0
"""The daemon's sinks, as its configuration names them.

Everything goes to the event log, which gives each event its id; what else is to know of an event is
told once it has one.
"""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agentwall.daemon.config import Config
from agentwall.flow.record import DetectionRecord, Record
from agentwall.sinks.background import Background
from agentwall.sinks.figures import Figures, Snapshot
from agentwall.sinks.journal import Journal
from agentwall.sinks.rotating import RotatingLog


@dataclass(slots=True, kw_only=True)
class Sinks:
    """Where records go, and how that does."""

    path: Path
    """Of the event log."""
    log: RotatingLog
    writer: Background
    """The thread that writes to it: a slow disk holds up nobody else."""
    journal: Journal | None
    figures: Figures
    published: Snapshot | None = None
    """What a scrape shows of the daemon; None where nobody scrapes."""
    is_scraped: bool = False
    on_detection: Callable[[DetectionRecord, str | None], None] | None = None
    """Told of whatever was recognised, with its event's id."""
    closers: list[Callable[[], None]] = field(default_factory=list)

    def write(self, record: Record) -> None:
        """Take a record."""
        self.writer.write(record)

    def _tell(self, record: Record, event_id: str | None) -> None:
        if self.journal is not None:
            self.journal.take(record, event_id)
        if isinstance(record, DetectionRecord) and self.on_detection is not None:
            self.on_detection(record, event_id)

    def flush(self) -> None:
        """Put out what is held back, and pass on what the log has by now, or could not write."""
        self.writer.flush()
        for record, event_id in self.writer.told():
            self._tell(record, event_id)
        if self.journal is not None:
            self.journal.flush()

    def describe(self) -> Mapping[str, object]:
        """Return how the event log does; JSON values."""
        found: dict[str, object] = {
            "path": str(self.path),
            "written": self.log.written,
            "failed": self.log.failed + self.writer.lost,
            "waiting": self.writer.waiting,
            "rotated": self.log.rotated,
            "problem": self.log.problem,
        }
        if self.journal is not None:
            found["journal"] = {
                "sent": self.journal.sent,
                "lost": self.journal.lost,
                "problem": self.journal.problem,
            }
        return found

    def close(self) -> None:
        """Put out everything, for the last time."""
        for closer in self.closers:
            closer()
        self.writer.close()
        self.flush()
        if self.journal is not None:
            self.journal.close()


def open_sinks(config: Config, group: int | None) -> Sinks:
    """Open the event log and whatever else *config* names.

    Args:
        config: What to open.
        group: Whose members may read the log.

    Raises:
        HostError: The log cannot be opened, or nobody can be served at the address for metrics.
    """
    writers: list[Background] = []

    def tell(record: Record, event_id: str | None) -> None:
        writers[0].tell(record, event_id)

    log = RotatingLog(
        config.log.path,
        new_daemon_id(),
        max_bytes=config.log.max_bytes,
        keep=config.log.keep,
        group=group,
        tell=tell,
    )
    journal = Journal() if config.log.journal else None
    writers.append(Background(log))
    sinks = Sinks(
        path=config.log.path, log=log, writer=writers[0], journal=journal, figures=Figures()
    )
    if config.metrics is not None:
        try:
            _serve_metrics(sinks, config.metrics)
        except BaseException:
            sinks.close()
            raise
    return sinks


def _serve_metrics(sinks: Sinks, listen: str) -> None:
    # Only where it is asked for: the library takes some megabytes.
    from agentwall.sinks.metrics import MetricsServer

    address, _, port = listen.rpartition(":")
    server = MetricsServer(address.strip("[]"), int(port), sinks.figures, lambda: sinks.published)
    sinks.is_scraped = True
    sinks.closers.append(server.close)


def new_daemon_id() -> str:
    """Return what begins the ids of a daemon's events: it sorts by time."""
    now = datetime.datetime.now(datetime.UTC)
    return f"d{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
