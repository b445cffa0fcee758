# SPDX-License-Identifier: Apache-2.0
"""Many findings of one kind as one for people. Pure.

A miner that connects again and again is one thing a reader wants to know, and so is a node of a
network that talks to a hundred others. Documents for programs keep every row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from agentwall.net.endpoint import IPAddress
from agentwall.sinks.report_rows import FindingRow
from agentwall.sinks.scans import FEWEST


@dataclass(frozen=True, slots=True)
class FindingGroup:
    """Findings of one dialect, one program or client, one verdict and one reason."""

    rows: tuple[FindingRow, ...]
    """In report order, never empty."""

    @property
    def first(self) -> FindingRow:
        """The row that stands for the others: the most serious and surest."""
        return self.rows[0]

    @property
    def count(self) -> int:
        """How often it was told, over all rows."""
        return sum(row.count for row in self.rows)

    @property
    def addresses(self) -> tuple[IPAddress, ...]:
        """The distinct remote addresses, rising."""
        found = {row.flow.remote.address for row in self.rows if row.flow is not None}
        return tuple(sorted(found, key=lambda address: (address.version, int(address))))

    @property
    def ports(self) -> tuple[int, ...]:
        """The distinct remote ports, rising."""
        return tuple(sorted({row.flow.remote.port for row in self.rows if row.flow is not None}))


def collapse_findings(rows: Sequence[FindingRow]) -> list[FindingGroup]:
    """Return *rows* in groups: those between one pair, and those of one client with many."""
    place = {id(row): index for index, row in enumerate(rows)}
    groups = []
    for alike in _grouped(rows, _kind):
        pairs = _grouped(alike, lambda row: (row.flow and row.flow.remote.address,))
        if len(pairs) >= FEWEST and alike[0].flow is not None:
            pairs = [alike]
        groups += [FindingGroup(tuple(pair)) for pair in pairs]
    groups.sort(key=lambda group: place[id(group.first)])
    return groups


def _kind(row: FindingRow) -> tuple[object, ...]:
    process, flow = row.process, row.flow
    return (
        row.source,
        row.sandbox,
        (process.comm, process.exe) if process else None,
        row.kind,
        row.dialect,
        row.severity,
        row.verdict,
        row.response,
        row.reason,
        flow and (flow.direction, flow.protocol),
        # The clients of a capture are what sandboxes are of events.
        flow.local.address if flow and flow.local and row.sandbox is None else None,
        str(row.evidence.get("client")) if flow is None else None,
        str(row.evidence.get("zone")),
        str(row.evidence.get("inside")),
    )


def _grouped(
    rows: Iterable[FindingRow], key: Callable[[FindingRow], tuple[object, ...]]
) -> list[list[FindingRow]]:
    found: dict[tuple[object, ...], list[FindingRow]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return list(found.values())
