# SPDX-License-Identifier: Apache-2.0
"""What was denied and found in each sandbox, for who asks by labels: "anything in this episode?"

Kept in memory and bounded, for a while beyond the sandbox's end: a harness asks when an episode is
over, and its container may be gone by then. The event log has all of it for good.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from agentwall.flow.record import DetectionRecord, FlowRecord, GapRecord, Process, Record
from agentwall.flow.verdict import Verdict
from agentwall.net.ports import protocol_name
from agentwall.sinks.rfc3339 import format_time

MAX_KINDS = 256
"""Different denials kept of one sandbox."""
MAX_DETECTIONS = 64
MAX_KINDS_IN_ALL = 65_536
KEPT_S = 900.0
"""How long a sandbox that has ended is answered for."""
_DENIED = (Verdict.DENY, Verdict.WOULD_DENY)
_HIDES = frozenset({"denials", "decode", "excerpts"})
"""Places of a gap in which a denial may have been lost."""

Labels = tuple[tuple[str, str], ...]


@dataclass(slots=True)
class _Denial:
    record: FlowRecord
    """The first of its kind."""
    count: int
    last_ns: int


@dataclass(slots=True)
class Tally:
    """One sandbox's."""

    sandbox: str
    denials: OrderedDict[tuple[object, ...], _Denial] = field(default_factory=OrderedDict)
    detections: deque[DetectionRecord] = field(default_factory=lambda: deque(maxlen=MAX_DETECTIONS))
    found: int = 0
    lost: int = 0
    dropped: int = 0
    """Denials that were forgotten for want of room."""
    earlier: frozenset[tuple[str, str]] | None = None
    """The labels under which an earlier daemon, whose memory is gone, was told of something."""

    def add(self, record: Record) -> None:
        """Take what a sandbox did into account."""
        if not _counts(record):
            return
        match record:
            case FlowRecord():
                self._deny(record)
            case DetectionRecord():
                self.found += 1
                self.detections.append(record)
            case GapRecord():
                self.lost += record.lost
            case _:
                pass

    def _deny(self, record: FlowRecord) -> None:
        kind = _kind(record)
        denial = self.denials.get(kind)
        if denial is not None:
            denial.count += record.count
            denial.last_ns = record.time_ns
            return
        self.denials[kind] = _Denial(record, record.count, record.time_ns)
        if len(self.denials) > MAX_KINDS:
            self.drop()

    def drop(self) -> None:
        """Forget the oldest kind."""
        _, oldest = self.denials.popitem(last=False)
        self.dropped += oldest.count

    def answer(self, labels: Mapping[str, str]) -> dict[str, object]:
        """Return what happened while the sandbox had these *labels*, as the control protocol says.

        ``complete`` is false where something may be missing: events were lost, or forgotten, or
        an earlier daemon was told of some.
        """
        wanted = set(labels.items())
        is_earlier = self.earlier is not None and wanted <= self.earlier
        denials = [each for each in self.denials.values() if wanted <= _labels_of(each.record)]
        detections = [each for each in self.detections if wanted <= _labels_of(each)]
        by_verdict = {
            verdict: sum(each.count for each in denials if each.record.verdict is verdict)
            for verdict in _DENIED
        }
        return {
            "denied": by_verdict[Verdict.DENY],
            "would_denied": by_verdict[Verdict.WOULD_DENY],
            "lost": self.lost,
            "complete": not (
                is_earlier or self.lost or self.dropped or self.found > len(self.detections)
            ),
            "denials": [_describe_denial(each) for each in denials],
            "detections": [_describe_detection(each) for each in detections],
        }


class Tallies:
    """Of every sandbox, and for a while of those that ended."""

    def __init__(self) -> None:
        self._tallies: dict[str, Tally] = {}
        self._ended: deque[tuple[float, str]] = deque()
        self._until_s: dict[str, float] = {}
        self._kinds = 0

    def add(self, record: Record) -> None:
        """Take what a sandbox did into account."""
        if not _counts(record):
            return
        sandbox = record.sandbox.id
        tally = self._tallies.get(sandbox)
        if tally is None:
            tally = self._tallies[sandbox] = Tally(sandbox)
        before = len(tally.denials)
        tally.add(record)
        self._kinds += len(tally.denials) - before
        if self._kinds > MAX_KINDS_IN_ALL:
            self._make_room()

    def _make_room(self) -> None:
        fullest = max(self._tallies.values(), key=lambda tally: len(tally.denials))
        fullest.drop()
        self._kinds -= 1

    def begin_late(self, sandbox: str, labels: Mapping[str, str]) -> None:
        """Note that something was denied or found in a sandbox before there were these tallies.

        Args:
            sandbox: Its id.
            labels: Those it has now. What is asked of others is about what came later.
        """
        tally = self._tallies.setdefault(sandbox, Tally(sandbox))
        tally.earlier = frozenset(labels.items())

    def of(self, sandbox: str) -> Tally | None:
        """Return a sandbox's, or None if nothing was denied or found in it."""
        return self._tallies.get(sandbox)

    def begin(self, sandbox: str) -> None:
        """Keep what is told of this id: another sandbox has it now, as one before it had."""
        self._until_s.pop(sandbox, None)

    def end(self, sandbox: str, now_s: float) -> None:
        """Keep a sandbox's for :data:`KEPT_S` from now on; forget those whose time is over."""
        self._until_s[sandbox] = now_s + KEPT_S
        self._ended.append((now_s + KEPT_S, sandbox))
        while self._ended and self._ended[0][0] <= now_s:
            until_s, name = self._ended.popleft()
            if self._until_s.get(name) != until_s:
                continue
            del self._until_s[name]
            gone = self._tallies.pop(name, None)
            self._kinds -= len(gone.denials) if gone is not None else 0


def _counts(record: Record) -> bool:
    """Say whether anything is to be kept of it: most sandboxes are started, and that is all."""
    match record:
        case FlowRecord():
            return record.verdict in _DENIED
        case GapRecord():
            return record.where in _HIDES
        case _:
            return isinstance(record, DetectionRecord)


def nothing() -> dict[str, object]:
    """Return the answer for a sandbox in which nothing was denied or found."""
    return Tally("").answer({})


def _kind(record: FlowRecord) -> tuple[object, ...]:
    remote, process = record.remote, record.process
    return (
        _ordered(record.sandbox.labels),
        record.verdict,
        record.reason.code,
        record.reason.rule,
        record.protocol,
        (remote.address, remote.port) if remote else None,
        record.name,
        record.question.name if record.question else None,
        process.comm if process else None,
    )


def _ordered(labels: Mapping[str, str]) -> Labels:
    return tuple(sorted(labels.items()))


def _labels_of(record: FlowRecord | DetectionRecord) -> set[tuple[str, str]]:
    return set(record.sandbox.labels.items())


def _describe_denial(denial: _Denial) -> dict[str, object]:
    record = denial.record
    remote = record.remote
    return {
        "time": format_time(record.time_ns),
        "last": format_time(denial.last_ns),
        "verdict": record.verdict.value,
        "remote": f"{remote.address} port {remote.port}" if remote else None,
        "name": record.question.name if record.question else record.name,
        "protocol": protocol_name(record.protocol),
        "rule": record.reason.rule,
        "file": record.reason.file,
        "line": record.reason.line,
        "reason": record.reason.code.value,
        "process": _describe_process(record.process),
        "count": denial.count,
    }


def _describe_detection(record: DetectionRecord) -> dict[str, object]:
    return {
        "time": format_time(record.time_ns),
        "class": record.finding.cls.value,
        "dialect": record.finding.dialect,
        "severity": record.finding.severity.label,
        "verdict": record.verdict.value,
        "response": record.response,
        "rule": record.reason.rule,
        "process": _describe_process(record.process),
    }


def _describe_process(process: Process | None) -> str | None:
    return f"{process.comm} ({process.pid})" if process is not None and process.pid else None
