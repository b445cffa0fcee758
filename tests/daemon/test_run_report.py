# SPDX-License-Identifier: Apache-2.0
"""The report on a run, in the format that its file's name asks for."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import pytest
from rig.records import flow

from agentwall.daemon.run_report import report_of
from agentwall.sinks.jsonl import EventLog


@pytest.fixture
def events(tmp_path) -> io.BytesIO:
    """An event file with one denial."""
    path = tmp_path / "events.jsonl"
    log = EventLog(os.open(path, os.O_WRONLY | os.O_CREAT), "r")
    log.write(flow())
    log.close()
    return io.BytesIO(path.read_bytes())


def test_json(events):
    """As audit's own, one document."""
    document = json.loads(report_of(events, "e.jsonl", ".json"))

    assert document["schema"] == "agentwall.audit/1"


@pytest.mark.parametrize(("suffix", "is_markdown"), [(".md", True), (".txt", False), ("", False)])
def test_text(events, suffix, is_markdown):
    """Markdown has headings; anything else is plain text."""
    report = report_of(events, "e.jsonl", suffix)

    assert report.startswith("# ") == is_markdown
    assert "e.jsonl" in report


def test_a_run_without_a_report_needs_no_rich():
    """It is imported where a report is wanted, and neither for what a run is."""
    code = "import sys, agentwall.cli.run; print('rich' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "False False\n"
