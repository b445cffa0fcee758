# SPDX-License-Identifier: Apache-2.0
"""Behaviour in event files that nobody watched when they were written. Pure.

Put before a :class:`~agentwall.sinks.report.ReportBuilder`: events pass through, and what their
flows add up to comes as further detections at the end of each file, unless the file tells of it
already.
"""

from __future__ import annotations

from agentwall.engine.watch import Watch
from agentwall.flow.finding import DetectionClass, Stage
from agentwall.flow.record import DetectionRecord, FlowRecord
from agentwall.policy.model import Detect
from agentwall.sinks.event_json import LoggedEvent
from agentwall.sinks.eventlog import LogError
from agentwall.sinks.report import ReportBuilder

MAX_KEPT = 10_000
"""Detections of one file that wait for its end; further ones are not made."""
_Kind = tuple[str, DetectionClass]


class WatchedEvents:
    """Takes events and errors as a report builder does, and watches flows on the way."""

    def __init__(self, builder: ReportBuilder, detect: Detect | None = None) -> None:
        """Pass everything to *builder*; *detect* has thresholds and what is not looked for."""
        self._builder = builder
        self._detect = detect
        self._watch = Watch(detect)
        self._told: set[_Kind] = set()
        self._found: list[DetectionRecord] = []

    def begin(self, source: str) -> None:
        """Say that what follows comes from *source*."""
        self.end()
        self._builder.begin(source)

    def add(self, item: LoggedEvent | LogError) -> None:
        """Take one event or error."""
        self._builder.add(item)
        if isinstance(item, LogError):
            return
        match item.record:
            case FlowRecord() as record:
                for found in self._watch.see(record):
                    self._keep(found)
            case DetectionRecord() as record if record.finding.stage is Stage.BEHAVIOUR:
                self._told.add(_kind(record))
            case _:
                pass

    def end(self) -> None:
        """Say that the last file has come to its end; call it before the report is taken."""
        for record in self._watch.end_all():
            self._keep(record)
        for record in self._found:
            if _kind(record) not in self._told:
                self._builder.add_record(record)
        self._watch = Watch(self._detect)
        self._told, self._found = set(), []

    def _keep(self, record: DetectionRecord) -> None:
        if len(self._found) < MAX_KEPT:
            self._found.append(record)


def _kind(record: DetectionRecord) -> _Kind:
    return record.sandbox.id, record.finding.cls
