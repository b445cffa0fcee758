# SPDX-License-Identifier: Apache-2.0
"""The line of a match, and nothing beside it: all that is shown of what was said inside TLS. Pure.

Text out of a TLS session is more private than what crosses the network for anybody to see. So of
the bytes that end at a match only the line that the match ends in is kept, and
:func:`agentwall.detect.redact.redact_excerpt` comes on top of that.
"""

from __future__ import annotations

import re

MAX_LINE = 256
"""Bytes; of a longer line the end is kept, where the match is."""

_BREAK = re.compile(rb"[\r\n]")
_KEY = re.compile(rb'"[A-Za-z_.-]{1,24}"\s{0,8}:')


def matched_line(text: bytes, *, is_whole: bool) -> bytes:
    """Return the line that *text* ends in, without its line end.

    Args:
        text: Bytes of one side, up to the end of a match. A line break at the very end is of the
            match, and ends its line.
        is_whole: *text* begins where the side begins, so a line without a break before it has its
            beginning.

    Returns:
        At most :data:`MAX_LINE` bytes. Where the beginning of the line is missing it begins with
        its first key, and is empty without one: what stands before may be the end of a password, or
        of a header that carries one.
    """
    line = text.rstrip(b"\r\n")
    breaks = [found.end() for found in _BREAK.finditer(line)]
    if breaks:
        line = line[breaks[-1] :]
    if len(line) <= MAX_LINE and (breaks or is_whole):
        return line
    line = line[-MAX_LINE:]
    key = _KEY.search(line)
    return line[key.start() :] if key else b""
