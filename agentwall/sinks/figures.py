# SPDX-License-Identifier: Apache-2.0
"""What the daemon counts for whoever scrapes it: records by policy, reason and class.

Written by the daemon's thread, read by the one that serves :mod:`agentwall.sinks.metrics`: whatever
is read is copied in one step of the interpreter. How many series there can be is bounded.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field

from agentwall.engine.severity import DAMAGED
from agentwall.flow.record import (
    DetectionRecord,
    FlowRecord,
    GapRecord,
    Record,
    StateRecord,
    TlsRecord,
)
from agentwall.flow.tls import Unread
from agentwall.flow.verdict import Verdict
from agentwall.sinks.escape import shorten

MAX_SERIES = 1000
"""Of one figure; what comes beyond that is counted as :data:`OTHER`."""
OTHER = "other"
MAX_SANDBOXES = 2000
"""Sandboxes with figures of their own in a scrape."""
ADMISSION_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
UNWATCHED_BOUNDS_S = (0.001, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 300.0)

Series = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxFigures:
    """One sandbox, as a scrape shows it."""

    id: str
    policy: str
    mode: str
    """In effect."""
    coverage: str
    denied: int
    would_denied: int
    detections: int
    lost: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFigures:
    """Reading inside TLS, as a scrape shows it. Counters run since the wall was loaded."""

    state: str
    """``starting``, ``on``, ``off`` or ``refused``."""
    libraries: Mapping[str, int]
    """Files that are probed, by library."""
    over_limit: int
    displaced: int
    unreadable: int
    calls: int
    octets: int
    lost: int
    doubled: int
    connections: int
    joined: int
    read: int
    """Processes whose text is read."""
    unread: Mapping[str, int]
    """Processes whose text is not, by reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The state of the daemon at one moment."""

    version: str
    kernel: str
    started_s: float
    """UTC, seconds since 1970."""
    sandboxes: tuple[SandboxFigures, ...]
    overrides: int
    """Sandboxes whose mode somebody switched."""
    scopes: Mapping[str, bool]
    """By cgroup: whether the wall is in force there."""
    unbound: Mapping[str, int]
    """By scope: cgroups that count as sandboxes and that no policy is for."""
    hooks: Mapping[str, bool]
    """Whether each is in force."""
    log_written: int
    log_failed: int
    log_rotated: int
    journal_sent: int | None = None
    """None: nothing goes to the journal."""
    journal_lost: int = 0
    checked_s: float | None = None
    """When the wall was last looked over, UTC."""
    problems: int = 0
    """What was wrong with it."""
    reloaded_s: float | None = None
    """When the last reload came to its end, UTC."""
    reload_applied: bool = True
    """Whether it was applied."""
    tls: TlsFigures | None = None
    """None: nobody has it."""


@dataclass(slots=True)
class Histogram:
    """How often something took how long."""

    bounds_s: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    """By bucket, the last of them without a bound; not cumulative."""
    sum_s: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds_s) + 1)

    def observe(self, seconds: float) -> None:
        """Count something that took so long."""
        self.counts[bisect_left(self.bounds_s, seconds)] += 1
        self.sum_s += seconds

    def cumulative(self) -> list[tuple[str, float]]:
        """Return the buckets as Prometheus has them: each with all that are smaller."""
        total, found = 0, []
        names = (*map(str, self.bounds_s), "+Inf")
        for name, count in zip(names, tuple(self.counts), strict=True):
            total += count
            found.append((name, float(total)))
        return found


class Figures:
    """Counts every record; made for one thread that writes and one that reads."""

    def __init__(self) -> None:
        self.denials: dict[Series, int] = {}
        """By policy, reason and verdict."""
        self.detections: dict[Series, int] = {}
        """By class, response and verdict."""
        self.tls: dict[Series, int] = {}
        """TLS sessions, by whether they were read, and by which library or why not."""
        self.lost: dict[Series, int] = {}
        """Events, by the place where they were lost."""
        self.responses: dict[Series, int] = {}
        """By response and outcome: ``done`` or ``failed``."""
        self.states: dict[Series, int] = {}
        """Of the daemon itself and of sandboxes: ``damaged``, ``reloaded``, ..."""
        self.admission = Histogram(ADMISSION_BOUNDS_S)
        self.unwatched = Histogram(UNWATCHED_BOUNDS_S)

    def count(self, record: Record) -> None:
        """Take *record* into account."""
        match record:
            case FlowRecord():
                if record.verdict is not Verdict.ALLOW:
                    reason, verdict = record.reason.code.value, record.verdict.value
                    _add(self.denials, (_policy(record), reason, verdict), record.count)
            case DetectionRecord():
                series = (record.finding.cls.value, record.response, record.verdict.value)
                _add(self.detections, series, record.count)
            case TlsRecord():
                read = "yes" if record.is_joined else "no"
                _add(self.tls, (read, _how(record)), record.count)
            case GapRecord():
                _add(self.lost, (record.where,), record.lost)
            case StateRecord():
                self._count_state(record)

    def _count_state(self, record: StateRecord) -> None:
        _add(self.states, (record.state,), 1)
        if record.state == "response":
            outcome = "done" if record.detail.get("problem") is None else "failed"
            _add(self.responses, (str(record.detail.get("response")), outcome), 1)
        elif record.state == "started":
            unwatched_ms = record.detail.get("unwatched_ms")
            if isinstance(unwatched_ms, int | float):
                self.unwatched.observe(unwatched_ms / 1000)

    def admitted(self, seconds: float) -> None:
        """Count an admission, from its request to the wall that stands."""
        self.admission.observe(seconds)

    @property
    def damages(self) -> int:
        """How often the wall itself was found broken."""
        return self.states.get((DAMAGED,), 0)


def _policy(record: FlowRecord) -> str:
    policy = record.sandbox.policy
    return policy.name if policy is not None else "none"


def _how(record: TlsRecord) -> str:
    reading = record.reading
    if reading is None:
        return "unknown"
    if record.is_joined:
        return reading.library.value if reading.library is not None else "unknown"
    # Its library is read, and this session is none of it.
    return reading.unread.value if reading.unread is not None else Unread.OWN_TLS.value


def _add(counted: dict[Series, int], series: Series, number: int) -> None:
    series = tuple(shorten(label, 128) for label in series)
    if series not in counted and len(counted) >= MAX_SERIES:
        series = (OTHER,) * len(series)
    counted[series] = counted.get(series, 0) + number
