# SPDX-License-Identifier: Apache-2.0
"""Many rows that differ only in address, port or name asked for, as one for people. Pure.

A scan of a network is one thing a reader wants to know, not 254, and so is a tunnel through DNS.
Documents for programs keep every row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agentwall.flow.verdict import ReasonCode
from agentwall.net.endpoint import IPAddress
from agentwall.sinks.report_rows import FlowRow

FEWEST = 4
"""So many rows are worth one that stands for them."""


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Rows of one program, one verdict and one reason."""

    rows: tuple[FlowRow, ...]
    """In report order, never empty."""
    addresses: tuple[IPAddress, IPAddress] | None = None
    """The lowest and the highest, where the rows differ in the address."""
    ports: tuple[int, int] | None = None
    """The lowest and the highest, where they differ in the port."""
    questions: int = 0
    """How many, where they differ in what was asked of a DNS server."""

    @property
    def first(self) -> FlowRow:
        """The row that stands for the others."""
        return self.rows[0]

    @property
    def count(self) -> int:
        """Attempts of all rows."""
        return sum(row.count for row in self.rows)


def collapse(rows: Sequence[FlowRow]) -> list[RowGroup]:
    """Return *rows* in groups; a row that is alone in its kind is a group of one."""
    asked = [row for row in rows if row.reason.code is ReasonCode.QUESTION]
    others = [row for row in rows if row.reason.code is not ReasonCode.QUESTION]
    by_port = _grouped(others, lambda row: (*_kind(row), row.port))
    loose = [group[0] for group in by_port if len(group) == 1]
    groups = [_of_addresses(group) for group in by_port if len(group) > 1]
    for group in _grouped(loose, lambda row: (*_kind(row), row.remote and row.remote.address)):
        groups.append(_of_ports(group) if len(group) > 1 else RowGroup(tuple(group)))
    for group in _grouped(asked, lambda row: (*_who(row), row.remote and row.remote.address)):
        groups.append(RowGroup(tuple(group), questions=len(group) if len(group) > 1 else 0))
    place = {id(row): index for index, row in enumerate(rows)}
    groups.sort(key=lambda group: place[id(group.first)])
    return groups


def _kind(row: FlowRow) -> tuple[object, ...]:
    return (*_who(row), row.name, row.question)


def _who(row: FlowRow) -> tuple[object, ...]:
    process = row.process
    return (
        row.severity,
        row.sandbox,
        (process.comm, process.exe) if process else None,
        row.direction,
        row.protocol,
        row.remote.address.version if row.remote else None,
        row.verdict,
        row.reason,
        row.claimed,
    )


def _grouped(
    rows: Sequence[FlowRow], key: Callable[[FlowRow], tuple[object, ...]]
) -> list[list[FlowRow]]:
    """Return *rows* by *key*; what is too few to stand for, and what has no address, alone."""
    found: dict[tuple[object, ...], list[FlowRow]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    result = []
    for group in found.values():
        if len(group) >= FEWEST and group[0].remote is not None:
            result.append(group)
        else:
            result.extend([row] for row in group)
    return result


def _of_addresses(rows: list[FlowRow]) -> RowGroup:
    addresses = sorted((row.remote.address for row in rows if row.remote), key=int)
    return RowGroup(tuple(rows), addresses=(addresses[0], addresses[-1]))


def _of_ports(rows: list[FlowRow]) -> RowGroup:
    ports = sorted(row.port for row in rows)
    return RowGroup(tuple(rows), ports=(ports[0], ports[-1]))
