# SPDX-License-Identifier: Apache-2.0
"""Of what was said inside TLS only the matched line is shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwall.detect.matched_line import MAX_LINE, matched_line

HEAD = b"POST / HTTP/1.1\r\nAuthorization: Bearer secret\r\n\r\n"
BODY = b'{"id": 1, "method": "eth_submitLogin"'
LONG = b"x" * MAX_LINE


@pytest.mark.parametrize(
    ("text", "is_whole", "line"),
    [
        (BODY, True, BODY),
        (HEAD + BODY, True, BODY),
        (HEAD + BODY + b"\r\n", False, BODY),
        (b"a\rb", True, b"b"),
        (b"\n", True, b""),
        (b"", True, b""),
        (b"SSH-2.0-x", True, b"SSH-2.0-x"),
        (b'ecret", "id": 1', False, b'"id": 1'),
        (b"Bearer secret", False, b""),
        (b"Cookie: " + LONG, True, b""),
        (b"\n" + LONG + BODY, True, BODY.removeprefix(b"{")),
        (LONG, True, LONG),
    ],
)
def test_lines(text, is_whole, line):
    """A line with its beginning is kept; of one without, what follows its first key."""
    assert matched_line(text, is_whole=is_whole) == line


@given(st.binary(max_size=600), st.booleans())
def test_it_is_one_line(text, is_whole):
    """Whatever is there: one line at most, bounded, and the end of the text."""
    line = matched_line(text, is_whole=is_whole)

    assert len(line) <= MAX_LINE
    assert not set(line) & set(b"\r\n")
    assert text.rstrip(b"\r\n").endswith(line)
