# SPDX-License-Identifier: Apache-2.0
"""Tables of figures, as plain text for a terminal and as markdown. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One table; every row is as long as the header."""

    title: str
    note: str
    """What the figures are; one paragraph."""
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def as_text(table: Table) -> str:
    """Return *table* in aligned columns."""
    lines = [table.header, *table.rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.header))]
    aligned = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    return "\n".join([table.title, table.note, "", *aligned, ""])


def as_markdown(table: Table) -> str:
    """Return *table* as a section of a markdown document."""
    lines = [table.header, ["---"] * len(table.header), *table.rows]
    cells = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([f"## {table.title}", "", table.note, "", *cells, ""])
