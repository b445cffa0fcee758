# SPDX-License-Identifier: Apache-2.0
"""Names on lists of indicators, by suffix: the same for live traffic and captures. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from agentwall.detect.signature import Indicators
from agentwall.flow.finding import Finding, Stage


class IndicatorIndex:
    """All lists in force, by name."""

    def __init__(self, indicators: Iterable[Indicators] = ()) -> None:
        self._lists: dict[str, list[Indicators]] = {}
        for one in indicators:
            for name in one.names:
                self._lists.setdefault(name, []).append(one)

    def __bool__(self) -> bool:
        """Say whether any name is listed."""
        return bool(self._lists)

    def find(self, name: str, how: str) -> Iterator[Finding]:
        """Yield a finding for each list that *name*, or a name above it, is on.

        Args:
            name: In the one form of names, or anything else a sandbox may have said.
            how: What was done with it, its key in the evidence: ``asked``, ``said``, ...
        """
        entry = name
        while entry:
            for one in self._lists.get(entry, ()):
                yield Finding(
                    cls=one.cls,
                    signature=one.id,
                    dialect=one.dialect,
                    severity=one.severity,
                    confidence=one.confidence,
                    stage=Stage.INDICATOR,
                    evidence={how: name, "listed": entry, "dated": one.dated},
                )
            entry = entry.partition(".")[2]
