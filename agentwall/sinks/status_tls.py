# SPDX-License-Identifier: Apache-2.0
"""Reading inside TLS for people, from what the daemon answers about itself. Pure."""

from __future__ import annotations

from rich.text import Text

from agentwall.sinks.describe import describe_count
from agentwall.sinks.status_fields import Fields, number, part, parts, text

_STYLES = {"on": "green", "starting": "", "off": "dim"}


def tls_line(tls: Fields) -> Text:
    """Return how it stands, in one line, from ``tls`` of ``agentwall.status/1``."""
    state = text(tls, "state")
    line = Text(state or "not known", style=_STYLES.get(state, "yellow"))
    if state == "on":
        return line.append_text(_in_figures(tls))
    reason = text(tls, "reason")
    return line.append(f": {reason}") if reason else line


def _in_figures(tls: Fields) -> Text:
    processes = part(tls, "processes")
    version = text(tls, "bcc")
    # Nothing was compiled where there is no time for it.
    kept = ["kept"] if "compile_s" in tls and tls["compile_s"] is None else []
    words = [
        *([f"bcc {version}", *kept] if version else []),
        describe_count(len(parts(tls, "libraries")), "library", "libraries"),
        f"{describe_count(number(processes, 'read'), 'process', 'processes')} read",
    ]
    sessions = part(tls, "sessions")
    if seen := number(sessions, "seen"):
        words.append(f"{number(sessions, 'joined')} of {describe_count(seen, 'session')} read")
    line = Text(f" ({', '.join(words)})", style="default")
    if speakers := number(processes, "unread_speakers"):
        line.append(f", {speakers} with TLS that is not read", style="yellow")
    if lost := number(tls, "lost"):
        line.append(f", {describe_count(lost, 'call')} lost", style="yellow")
    return line


def tls_problems(tls: Fields) -> list[str]:
    """Return what somebody should look at, a line each."""
    found = []
    if text(tls, "state") == "on" and (reason := text(tls, "reason")):
        found.append(f"inside TLS: {reason}")
    if over := number(tls, "over_limit"):
        count = describe_count(over, "library", "libraries")
        most = number(tls, "max_libraries")
        why = f"{most} are as many as may be (tls.max_libraries)"
        found.append(f"inside TLS: {count} not probed: {why}")
    if displaced := number(tls, "displaced"):
        count = describe_count(displaced, "library", "libraries")
        found.append(f"inside TLS: {count} gave way to those of sandboxes with fewer")
    return found
