# SPDX-License-Identifier: Apache-2.0
"""The section of a report for people on what was said inside TLS: who was read, and who was not."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import RenderableType
from rich.text import Text

from agentwall.sinks.pretty_parts import lines, remark, table, title
from agentwall.sinks.report_rows import AuditReport, TlsRow
from agentwall.sinks.row_words import unlisted_words
from agentwall.sinks.tls_rows import (
    inside_words,
    tls_row_names,
    tls_row_where,
    tls_row_who,
    tls_row_why,
)

MAX_ROWS = 20


def tls_section(report: AuditReport, is_narrow: bool) -> Iterable[RenderableType]:
    """Yield the section; nothing where nobody spoke TLS."""
    inside = report.inside_tls
    if not inside.sessions:
        return
    yield title("Inside TLS", "bold")
    yield Text(f"  {inside_words(inside)}")
    if not inside.not_read:
        return
    several = len({row.sandbox for row in inside.not_read}) > 1
    shown = table()
    shown.add_column("Sessions", justify="right", no_wrap=True)
    if is_narrow:
        shown.add_column("Who, with whom and why it was not read", ratio=1, overflow="fold")
    else:
        shown.add_column("Not read", ratio=5, overflow="fold")
        shown.add_column("Server names", ratio=5, overflow="fold")
        shown.add_column("Why", ratio=8, overflow="fold")
    for row in inside.not_read[:MAX_ROWS]:
        cells = list(_cells(row, several))
        cells = [Text("\n").join(cell for cell in cells if cell.plain)] if is_narrow else cells
        shown.add_row(str(row.sessions), *cells)
    yield shown
    yield from remark(unlisted_words(MAX_ROWS, len(inside.not_read), inside.unlisted))


def _cells(row: TlsRow, several: bool) -> Iterable[Text]:
    name, program = tls_row_who(row)
    where = tls_row_where(row) if several else ""
    yield lines([(name, "bold"), (program, "dim"), (where, "dim")])
    yield Text(tls_row_names(row))
    why, library = tls_row_why(row)
    yield lines([(why, "yellow"), (library, "dim")])
