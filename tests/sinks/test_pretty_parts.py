# SPDX-License-Identifier: Apache-2.0
"""The parts of tables."""

from __future__ import annotations

import io

import pytest

from agentwall.flow.severity import Severity
from agentwall.flow.verdict import Verdict
from agentwall.sinks.pretty import make_console
from agentwall.sinks.pretty_parts import (
    SEVERITY_STYLES,
    VERDICT_STYLES,
    item,
    lines,
    remark,
    table,
    title,
)


def printed(*parts, width=40):
    stream = io.StringIO()
    for part in parts:
        make_console(stream, width=width).print(part)
    return stream.getvalue()


def test_empty_lines_are_left_out():
    """What has no words takes no line."""
    assert lines([("a", "bold"), ("", ""), ("b", "")]).plain == "a\nb"


def test_a_title_keeps_its_distance():
    """A section begins behind an empty line."""
    assert [line.rstrip() for line in printed(title("Found", "bold")).splitlines()] == ["", "Found"]


def test_an_item_is_labelled():
    """A severity stands before the words, and long ones go on in the next line."""
    text = printed(item(Severity.HIGH, "x " * 60), width=60)

    assert text.startswith("  high     x")
    assert text.count("x") == 60


def test_no_remark_without_words():
    """A note is there only if there is something to note."""
    assert [list(remark("")), len(list(remark("3 more")))] == [[], 1]


def test_a_table_fills_the_width():
    """The rule under the heading is as wide as the terminal."""
    shown = table()
    shown.add_column("A")
    shown.add_row("1")

    assert max(len(line) for line in printed(shown).splitlines()) == 40


@pytest.mark.parametrize("verdict", [*Verdict, None])
def test_every_value_has_a_style(verdict):
    """No severity and no verdict is forgotten."""
    assert set(SEVERITY_STYLES) == set(Severity)
    assert verdict in VERDICT_STYLES
