# SPDX-License-Identifier: Apache-2.0
"""Counts over time in a bounded number of steps, whatever the span. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from agentwall.flow.record import FlowRecord
from agentwall.sinks.report_rows import Bucket

MAX_BUCKETS = 24
_MS = 1_000_000
_S = 1000 * _MS
_WIDTHS = (
    *(10 * _MS, 100 * _MS, _S, 5 * _S, 15 * _S),
    *(60 * _S, 300 * _S, 900 * _S, 3600 * _S, 14400 * _S, 86400 * _S),
)
"""Each divides the next, so widening never splits a bucket."""


@dataclass(slots=True)
class _Counts:
    denied: int = 0
    permitted: int = 0
    first_denial: FlowRecord | None = None


class Timeline:
    """Counts that widen their steps when there are too many of them."""

    def __init__(self) -> None:
        self._step = 0
        self._counts: dict[int, _Counts] = {}

    @property
    def width_ns(self) -> int:
        """Width of a bucket, nanoseconds."""
        if self._step < len(_WIDTHS):
            return _WIDTHS[self._step]
        return _WIDTHS[-1] << (self._step - len(_WIDTHS) + 1)

    def add(self, time_ns: int, *, denied: int, permitted: int, record: FlowRecord) -> None:
        """Count *record* at *time_ns*."""
        self._add(time_ns // self.width_ns, denied, permitted, record if denied else None)
        while len(self._counts) > MAX_BUCKETS:
            self._widen()

    def _add(self, key: int, denied: int, permitted: int, record: FlowRecord | None) -> None:
        counts = self._counts.setdefault(key, _Counts())
        counts.denied += denied
        counts.permitted += permitted
        if record is not None:
            first = counts.first_denial
            if first is None or record.time_ns < first.time_ns:
                counts.first_denial = record

    def _widen(self) -> None:
        before, narrow = self._counts, self.width_ns
        self._step += 1
        self._counts = {}
        for key, counts in before.items():
            wide_key = key * narrow // self.width_ns
            self._add(wide_key, counts.denied, counts.permitted, counts.first_denial)

    def buckets(self) -> tuple[Bucket, ...]:
        """Return the steps in which anything happened, in order."""
        return tuple(
            Bucket(
                start_ns=key * self.width_ns,
                denied=counts.denied,
                permitted=counts.permitted,
                first_denial=counts.first_denial,
            )
            for key, counts in sorted(self._counts.items())
        )
