# SPDX-License-Identifier: Apache-2.0
"""Audit's report on one run, as text; what it takes is imported only where one is wanted."""

from __future__ import annotations

import json
from typing import BinaryIO

from agentwall.sinks.audit_json import encode_report
from agentwall.sinks.eventlog import read_log
from agentwall.sinks.markdown import format_markdown
from agentwall.sinks.pretty import format_plain
from agentwall.sinks.report import ReportBuilder


def report_of(events: BinaryIO, source: str, suffix: str) -> str:
    """Return the report on *events*.

    Args:
        events: The event file of a run.
        source: Its name in the report.
        suffix: Of the report's own file: ``.json``, ``.md``, or anything else for plain text.

    Raises:
        OSError: The events cannot be read.
    """
    builder = ReportBuilder()
    builder.begin(source)
    for item in read_log(events, source):
        builder.add(item)
    report = builder.report()
    if suffix == ".json":
        return json.dumps(encode_report(report), indent=2) + "\n"
    if suffix == ".md":
        return format_markdown(report)
    return format_plain(report, "utf-8")
