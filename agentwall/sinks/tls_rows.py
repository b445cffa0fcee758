# SPDX-License-Identifier: Apache-2.0
"""The words for TLS in a report, which tables and markdown share. Pure; one line each, escaped."""

from __future__ import annotations

from agentwall.sinks.describe import describe_count, describe_process, describe_program
from agentwall.sinks.escape import printable, shorten
from agentwall.sinks.report_rows import InsideTls, TlsRow
from agentwall.sinks.tls_events import library_words, why_unread
from agentwall.sinks.tls_words import name_of

_MAX_NAMES = 300


def inside_words(inside: InsideTls) -> str:
    """Return the sums: ``4 processes spoke TLS, 3 were read (2 OpenSSL, 1 NSS); 9 of 12 ...``."""
    read = f"{inside.read_processes} {'was' if inside.read_processes == 1 else 'were'} read"
    libraries = [
        f"{count} {'another' if library is None else name_of(library)}"
        for library, count in sorted(
            inside.by_library.items(), key=lambda item: (-item[1], str(item[0]))
        )
    ]
    by = f" ({', '.join(libraries)})" if libraries else ""
    spoke = f"{describe_count(inside.processes, 'process', 'processes')} spoke TLS"
    sessions = describe_count(inside.sessions, "session")
    return f"{spoke}, {read}{by}; of {sessions} {inside.read_sessions} read"


def tls_row_who(row: TlsRow) -> tuple[str, str]:
    """Return the process, with how many more of its name, and its program."""
    if row.process is None:
        return "several processes", ""
    others = len(row.pids) - 1
    more = f" and {others} more" if others > 0 else ""
    return f"{describe_process(row.process)}{more}", describe_program(row.process)


def tls_row_where(row: TlsRow) -> str:
    """Return the sandbox."""
    return f"in {shorten(printable(row.sandbox), 40)}"


def tls_row_names(row: TlsRow) -> str:
    """Return the names of the servers."""
    return shorten(printable(" ".join(row.server_names)), _MAX_NAMES) or "no name"


def tls_row_why(row: TlsRow) -> tuple[str, str]:
    """Return why it was not read, and the library that this is about, if one is."""
    return why_unread(row.reading), library_words(row.reading)
