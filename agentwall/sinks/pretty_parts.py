# SPDX-License-Identifier: Apache-2.0
"""The parts that the tables of a report for people are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from agentwall.flow.severity import Severity
from agentwall.flow.verdict import Verdict

SEVERITY_STYLES = {
    Severity.INFO: "dim",
    Severity.LOW: "yellow",
    Severity.MEDIUM: "bold yellow",
    Severity.HIGH: "bold red",
    Severity.CRITICAL: "bold white on red",
}
VERDICT_STYLES = {
    Verdict.ALLOW: "green",
    Verdict.DENY: "bold red",
    Verdict.WOULD_DENY: "bold yellow",
    None: "",
}

Line = tuple[str, str]
"""Text that is safe already, and its style."""


def title(words: str, style: str) -> RenderableType:
    """Return the heading of a section."""
    return Padding(Text(words, style=style), (1, 0, 0, 0))


def table() -> Table:
    """Return a table without columns that fills the width."""
    return Table(
        box=box.SIMPLE_HEAD, expand=True, pad_edge=False, show_edge=False, padding=(0, 2, 0, 0)
    )


def grouped_table(
    narrow: str,
    headings: tuple[str, str, str],
    groups: Iterable[Iterable[Text]],
    *,
    is_narrow: bool,
) -> Table:
    """Return the table of what was denied or found.

    Args:
        narrow: Heading of the one column that a narrow terminal has room for.
        headings: What, who and why.
        groups: Of each row its severity, how often, and the three columns.
        is_narrow: Put the three below each other.
    """
    shown = table()
    shown.add_column("Severity", no_wrap=True)
    shown.add_column("Times", justify="right", no_wrap=True)
    columns = ((narrow, 1),) if is_narrow else zip(headings, (6, 4, 10), strict=True)
    for heading, ratio in columns:
        shown.add_column(heading, ratio=ratio, overflow="fold")
    for severity, times, *rest in groups:
        cells = [Text("\n").join(rest)] if is_narrow else rest
        shown.add_row(severity, times, *cells)
    return shown


def lines(parts: Sequence[Line]) -> Text:
    """Return the lines that say something, below each other."""
    return Text("\n").join(Text(words, style=style) for words, style in parts if words)


def item(severity: Severity, words: str) -> Text:
    """Return one entry of a list without columns."""
    label = Text(f"  {severity.label:9}", style=SEVERITY_STYLES[severity])
    return label.append(Text(words, style="default", overflow="fold"))


def remark(words: str) -> Iterable[RenderableType]:
    """Yield a note, if there are words for it."""
    if words:
        yield Text(words, style="dim")
