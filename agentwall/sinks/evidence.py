# SPDX-License-Identifier: Apache-2.0
"""What led to a finding: bounded for reports, and in words for people. Pure.

Evidence is free-form JSON, and much of it was chosen by a sandbox. Documents for programs keep the
values; people get the numbers first and what was said last.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from agentwall.sinks.describe import describe_count
from agentwall.sinks.escape import printable, shorten

EXCERPT = "excerpt"
"""The key whose value is text of the flow itself."""
_MAX_KEYS = 32
_MAX_ITEMS = 16
_MAX_TEXT = 512
_MAX_DEPTH = 4
_SHOWN_ITEMS = 3
_SHOWN_TEXT = 80
_FEWEST_LETTERS = 3
"""Fewer letters and digits of an excerpt tell a reader nothing: the rest are dots."""

_COUNTED = {
    "addresses": ("address", "addresses"),
    "ports": ("port", "ports"),
    "beats": ("call", "calls"),
    "shares": ("share", "shares"),
    "questions_in_a_minute": ("question in a minute", "questions in a minute"),
    "names_in_ten_minutes": ("name in ten minutes", "names in ten minutes"),
    "sockets": ("socket", "sockets"),
    "exchanges": ("exchange", "exchanges"),
}
_MEASURED = {
    "private": "{} of them private",
    "refused": "{} refused",
    "unanswered": "{} unanswered",
    "permitted": "{} permitted",
    "seconds": "in {} s",
    "bytes_per_second": "{} B/s",
    "pause_seconds": "every {} s",
    "new_octets": "{} B in new names",
    "bytes_out": "{} B out",
    "bytes_in": "{} B in",
    "begun_by_server": "{} begun by the server",
    "server_bytes": "{} B from the server",
    "client_bytes": "{} B from the client",
}
_SPELT = {"sni": "SNI", "alpn": "ALPN", "ja4": "JA4"}
_NOT_SHOWN = frozenset(
    {
        *("limit", "forgotten", "updates", "targets_since_first_told", "burst_seconds"),
        *("examples", "example", "dated", EXCERPT),
        *("inside", "bytes_left_of"),
    }
)
"""For programs, or shown elsewhere."""


def clip(evidence: Mapping[str, object]) -> dict[str, object]:
    """Return *evidence* with no more of it than a report needs: bounded whatever it holds."""
    return {
        shorten(str(key), _MAX_TEXT): _clip(value, _MAX_DEPTH)
        for key, value in list(evidence.items())[:_MAX_KEYS]
    }


def _clip(value: object, depth: int) -> object:
    match value:
        case bool() | int() | float() | None:
            # Python refuses to write a number of more digits, and nobody measured it.
            return value if not isinstance(value, int) or abs(value) < 1 << 64 else str(value)[:20]
        case str():
            return shorten(value, _MAX_TEXT)
        case Mapping() if depth:
            items = list(value.items())[:_MAX_ITEMS]
            return {shorten(str(key), _MAX_TEXT): _clip(each, depth - 1) for key, each in items}
        case list() | tuple() if depth:
            return [_clip(each, depth - 1) for each in value[:_MAX_ITEMS]]
        case _:
            return "..."


def describe_evidence(evidence: Mapping[str, object], limit: int = 300) -> str:
    """Return *evidence* as one line, escaped: ``30 addresses, 30 of them private, in 1.5 s``."""
    return shorten(", ".join(_phrases(evidence)), limit)


def describe_excerpt(evidence: Mapping[str, object], limit: int = 200) -> str:
    """Return what was said, escaped; nothing where that is no text."""
    text = evidence.get(EXCERPT)
    if not isinstance(text, str) or sum(map(str.isalnum, text)) < _FEWEST_LETTERS:
        return ""
    return shorten(printable(text), limit)


def _phrases(evidence: Mapping[str, object]) -> Iterator[str]:
    for key, value in evidence.items():
        if key in _NOT_SHOWN or value in (None, False, 0, "") or isinstance(value, Mapping):
            continue
        words = _SPELT.get(key) or shorten(printable(key.replace("_", " ")), _SHOWN_TEXT)
        if value is True:
            yield words
        elif isinstance(value, int) and key in _COUNTED:
            yield describe_count(value, *_COUNTED[key])
        elif isinstance(value, int | float) and key in _MEASURED:
            yield _MEASURED[key].format(value)
        else:
            yield f"{words} {_shown(value)}"


def _shown(value: object) -> str:
    if isinstance(value, list | tuple):
        shown = " ".join(_shown(each) for each in value[:_SHOWN_ITEMS])
        more = len(value) - _SHOWN_ITEMS
        return f"{shown} and {more} more" if more > 0 else shown
    return shorten(printable(str(value)), _SHOWN_TEXT)
