# SPDX-License-Identifier: Apache-2.0
"""The report for people."""

from __future__ import annotations

import io
import re
import unicodedata
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rig.records import endpoint, flow, permitted, process, rome_day, state
from rig.strategies_of_records import RECORDS

from agentwall.flow.verdict import Verdict
from agentwall.sinks.eventlog import Damage, LogError
from agentwall.sinks.pretty import (
    MAX_DENIALS,
    export_svg,
    format_plain,
    make_console,
    print_report,
)
from agentwall.sinks.report import ReportBuilder

BROKEN = LogError(
    source="e.jsonl", line=3, offset=90, damage=Damage.CHAIN_BROKEN, problem="chain broken"
)


def report_on(*items):
    builder = ReportBuilder()
    builder.begin("e.jsonl")
    for item in items:
        if isinstance(item, LogError):
            builder.add(item)
        else:
            builder.add_record(item)
    return builder.report()


def flat(text: str) -> str:
    """Return *text* without line ends and runs of blanks, as wrapping moves them."""
    return re.sub(r"\s+", " ", text)


def test_a_denial_reads_in_full():
    """What, who, where to, why, and the line that would permit it stand in one row."""
    text = flat(format_plain(report_on(flow()), "utf-8"))

    for words in (
        "tcp 203.0.113.7:443",
        "denied (connect, EPERM)",
        "curl[4242]",
        "/usr/bin/curl",
        "no rule allows it",
        "allow: - {cidr: 203.0.113.7, ports: [443]}",
    ):
        assert words in text


def test_a_day_has_all_its_parts():
    """Totals, coverage, denials, losses, permitted flows, programs and the timeline."""
    text = format_plain(report_on(*rome_day()), "utf-8")

    order = [
        text.index(words)
        for words in (
            "51 denied",
            "coverage partial",
            "open: the host's network namespace",
            "\nDenied\n",
            "\nEvents were lost\n",
            "\nPermitted\n",
            "\nBy program\n",
            "\nTimeline, steps of 1 s, UTC\n",
        )
    ]
    assert order == sorted(order)
    wide = format_plain(report_on(*rome_day()), "utf-8", 240)
    assert "tcp port 22 at 30 addresses, 10.20.0.1 to 10.20.0.30" in flat(wide)
    assert "2 reports of permitted flows: the kernel's ring was full" in text


def test_damage_is_told():
    """A broken chain and a broken wall stand in sections of their own."""
    text = format_plain(report_on(BROKEN, state("damaged", {"what": "egress"})), "utf-8")

    assert "critical e.jsonl:3: byte 90: chain broken" in flat(text)
    assert "critical 2026-09-21 14:13:20 run-7f3a: egress" in flat(text)


def test_nothing_denied_is_said():
    """A clean run says so instead of showing an empty table."""
    text = format_plain(report_on(permitted()), "utf-8")

    assert "Nothing was denied" in text
    assert "Severity" not in text


def test_long_tables_end_in_a_note():
    """What does not fit is counted, with the way to see it."""
    records = [
        flow(process=process(f"p{n}", n), remote=endpoint("203.0.113.7", 22))
        for n in range(1, MAX_DENIALS + 4)
    ]

    text = format_plain(report_on(*records), "utf-8")

    assert "3 more rows; --format json lists them" in text


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 200])
def test_every_width_holds(width):
    """No line is wider than asked for, and no word of the destinations is lost."""
    text = format_plain(report_on(*rome_day()), "utf-8", width)

    assert max(cell_len(line) for line in text.splitlines()) <= width
    if width >= 80:
        assert "203.0.113.99:3333" in text


@settings(max_examples=40)
@given(st.lists(RECORDS, max_size=5), st.integers(30, 160))
def test_nothing_acts_on_the_terminal(records, width):
    """Whatever names a sandbox chose, only visible characters and line ends come out."""
    text = format_plain(report_on(*records), "utf-8", width)

    kinds = {unicodedata.category(character) for character in text if character not in " \n"}
    assert not kinds & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs", "Mn", "Me"}


def test_a_pipe_gets_plain_text():
    """Without a terminal there is no colour and no blank at a line's end."""
    text = format_plain(report_on(*rome_day()), "utf-8")

    assert "\x1b" not in text
    assert not re.search(r" +$", text, re.MULTILINE)


def test_ascii_is_enough():
    """An encoding without lines and blocks gets ASCII ones, and other letters spelled."""
    records = [*rome_day(), flow(process=process("naïve", 7))]

    text = format_plain(report_on(*records), "ascii")

    assert text.isascii()
    assert "na\\xefve[7]" in text
    assert "####" in text


def test_a_terminal_gets_colour(monkeypatch):
    """On a terminal denials are red and permitted flows green."""

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal()

    print_report(report_on(*rome_day()), make_console(stream, width=120))

    assert "\x1b[1;31m51 denied\x1b[0m" in stream.getvalue()
    assert "\x1b[32m6 permitted\x1b[0m" in stream.getvalue()


@pytest.mark.parametrize("verdict", [Verdict.DENY, Verdict.WOULD_DENY])
def test_the_picture_is_svg(verdict):
    """It is well-formed XML with the report's words, markup included; looking fetches nothing."""
    svg = export_svg(report_on(*rome_day(verdict)))

    root = ET.fromstring(svg)
    words = "".join(root.itertext()).replace("\u00a0", " ")
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "url(http" not in svg.replace('"', "")
    assert "tcp 203.0.113.99:3333" in words
    assert "/tmp/<b>\\x0a" in words
