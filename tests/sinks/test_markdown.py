# SPDX-License-Identifier: Apache-2.0
"""The report as markdown, read back by a markdown parser."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rig.records import STARTED, detection, flow, process, rome_day, scanned, state
from rig.strategies_of_records import RECORDS

from agentwall.sinks.eventlog import Damage, LogError
from agentwall.sinks.markdown import code, format_markdown
from agentwall.sinks.report import ReportBuilder
from agentwall.sinks.report_rows import Captures

PARSER = MarkdownIt("gfm-like", {"linkify": False})
OWN_HTML = {"<br>"}


def markdown_of(*items):
    builder = ReportBuilder()
    builder.begin("e.jsonl")
    for item in items:
        if isinstance(item, LogError):
            builder.add(item)
        else:
            builder.add_record(item)
    return format_markdown(builder.report())


def leaves(text):
    """Yield every token of *text*, inline ones included."""
    for token in PARSER.parse(text):
        yield token
        yield from token.children or ()


def test_a_day_as_markdown():
    """Sections, tables and the words of a denial are there."""
    text = markdown_of(*rome_day())

    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert headings == [
        *("# agentwall audit", "## Denied", "## Events were lost", "## Permitted"),
        *("## By program", "## Timeline, steps of 1 s"),
    ]
    assert "`tcp 203.0.113.99:3333`<br>`denied (connect, EPERM)`" in text
    assert "`allow: - {cidr: 203.0.113.99, ports: [3333]}`" in text
    assert "  - open: `the host's network namespace: raw packets of other sockets`" in text


def test_every_row_has_every_cell():
    """Names with bars and line ends do not move the cells of a table."""
    text = markdown_of(*rome_day())

    cells = 0
    widths = []
    for token in leaves(text):
        if token.type == "tr_open":
            cells = 0
        elif token.type in ("td_open", "th_open"):
            cells += 1
        elif token.type == "tr_close":
            widths.append(cells)
    assert widths.count(6) == 1 + 9 + 1 + 6
    assert set(widths) == {6, 7, 3}


def test_damage_is_told():
    """A broken chain and a broken wall stand in sections of their own."""
    error = LogError(source="e", line=3, offset=9, damage=Damage.BAD_LINE, problem="`x`|")
    text = markdown_of(error, state("damaged", {"what": "egress"}))

    assert "- medium: `e:3: byte 9: \\x60x\\x60\\x7c`" in text
    assert "- critical: 2026-09-21 14:13:20 `run-7f3a: egress`" in text
    assert "Nothing was denied." in text


HOSTILE = st.sampled_from(
    [
        "`", "``", "|", "\\|", "\\", "\\`", "<script>", "<br>", "![x](http://a)", "[a](b)",
        "@team", "#1", "\n\n# x", "\r", "http://a.example", "*b*", "&lt;", "~~x~~", "<!--",
    ]
)  # fmt: skip
NAMES = st.lists(HOSTILE | st.text(max_size=3), max_size=5).map("".join)


@settings(max_examples=200)
@given(NAMES, NAMES, NAMES)
def test_no_name_becomes_markup(comm, exe, argument):
    """Whatever a program is called, it is shown in code spans and is never markup."""
    started = state("started", {"command": [argument], "open_roads": [argument]})
    text = markdown_of(started, flow(process=process(comm, 7, exe)))

    for token in leaves(text):
        assert token.type not in {"image", "link_open", "s_open", "em_open", "strong_open", "fence"}
        assert token.type != "html_block"
        if token.type == "html_inline":
            assert token.content in OWN_HTML
    titles = [line for line in text.splitlines() if line.startswith("#")]
    assert titles[:2] == ["# agentwall audit", "## Denied"]


@given(st.text())
def test_code_is_one_span(text):
    """A code span holds the whole of what it was given, and nothing stands outside it."""
    tokens = [token for token in leaves(f"x {code(text)} y") if token.type not in ("inline",)]

    spans = [token for token in tokens if token.type == "code_inline"]
    assert len(spans) == (0 if code(text) == "-" else 1)


@settings(max_examples=40)
@given(st.lists(RECORDS, max_size=5))
def test_any_report_is_markdown(records):
    """Whatever a file holds, the document begins and ends as it should."""
    text = markdown_of(STARTED, *records)

    assert text.startswith("# agentwall audit\n")
    assert text.endswith("\n")


def test_findings_have_a_table():
    """What was recognised stands first: what, where, who, why and what would let it pass."""
    text = markdown_of(detection(), scanned())

    assert text.index("## Found") < text.index("Nothing else was denied.")
    assert "2 findings, 1 cut off, 0 denied" in text
    assert "`mining (stratum-v1)`<br>`tcp 203.0.113.10:3333`<br>`cut off by its signature" in text
    assert "`to silence it, detect: {scan: off}`" in text


def test_findings_of_captures():
    """A clean capture says so, and nothing of denials."""
    builder = ReportBuilder()
    builder.count_captures(Captures(count=1, packets=9, conversations=1))
    text = format_markdown(builder.report())

    assert "Nothing was found." in text
    assert "denied" not in text
