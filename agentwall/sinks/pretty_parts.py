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
