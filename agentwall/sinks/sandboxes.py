# SPDX-License-Identifier: Apache-2.0
"""What the state records of a sandbox add up to. Pure.

Details of state records are free-form JSON: each value is taken only if its type is the expected
one, and no more of it than a report needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from agentwall.flow.record import StateRecord
from agentwall.sinks.escape import shorten
from agentwall.sinks.report_rows import SandboxRow

_MAX_TEXT = 512
_MAX_LIST = 32


def update_sandbox(row: SandboxRow | None, record: StateRecord) -> SandboxRow:
    """Return *row*, or a new one, with what *record* says."""
    # As it was called last: labels come and go.
    row = replace(row or SandboxRow(sandbox=record.sandbox), sandbox=record.sandbox)
    detail = record.detail
    match record.state:
        case "started":
            row = replace(row, started_ns=record.time_ns, command=_texts(detail, "command"))
            return _with_coverage(replace(row, mode=_text(detail, "mode")), detail)
        case "rules-applied":
            return replace(
                row,
                policy=_text(detail, "policy"),
                digest=_text(detail, "digest"),
                mode=_text(detail, "mode") or row.mode,
            )
        case "finished":
            row = replace(
                row,
                finished_ns=record.time_ns,
                exit_code=_number(detail, "exit_code"),
                denied=_number(detail, "denied"),
                would_denied=_number(detail, "would_denied"),
                probes=_number(detail, "probes"),
            )
            return _with_coverage(row, detail)
        case "inspected":
            return _with_coverage(row, detail)
        case _:
            return row


def _with_coverage(row: SandboxRow, detail: Mapping[str, object]) -> SandboxRow:
    coverage = _text(detail, "coverage")
    if coverage is None:
        return row
    return replace(row, coverage=coverage, open_roads=_texts(detail, "open_roads"))


def _text(detail: Mapping[str, object], key: str) -> str | None:
    value = detail.get(key)
    return shorten(value, _MAX_TEXT) if isinstance(value, str) else None


def _texts(detail: Mapping[str, object], key: str) -> tuple[str, ...]:
    value = detail.get(key)
    if not isinstance(value, list | tuple):
        return ()
    return tuple(shorten(item, _MAX_TEXT) for item in value[:_MAX_LIST] if isinstance(item, str))


def _number(detail: Mapping[str, object], key: str) -> int | None:
    value = detail.get(key)
    return value if type(value) is int else None
