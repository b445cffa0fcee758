# SPDX-License-Identifier: Apache-2.0
"""Reading inside TLS in one line of a status."""

from __future__ import annotations

import pytest

from agentwall.sinks.status_tls import tls_line, tls_problems

ON = {
    "state": "on",
    "bcc": "0.26.0",
    "libraries": [{}, {}, {}],
    "processes": {"read": 12, "unread_speakers": 0},
    "lost": 0,
}


@pytest.mark.parametrize(
    ("tls", "expected"),
    [
        (ON, "on (bcc 0.26.0, 3 libraries, 12 processes read)"),
        (
            ON | {"bcc": "1", "processes": {"read": 1, "unread_speakers": 2}, "lost": 1},
            "on (bcc 1, 3 libraries, 1 process read), 2 with TLS that is not read, 1 call lost",
        ),
        (ON | {"compile_s": 0.5}, "on (bcc 0.26.0, 3 libraries, 12 processes read)"),
        (ON | {"compile_s": None}, "on (bcc 0.26.0, kept, 3 libraries, 12 processes read)"),
        ({"state": "on"}, "on (0 libraries, 0 processes read)"),
        ({"state": "starting", "reason": None}, "starting"),
        ({"state": "off", "reason": "not started"}, "off: not started"),
        ({"state": "refused", "reason": "no\x1b[2J bcc"}, "refused: no\\x1b[2J bcc"),
        ({}, "not known"),
        ({"state": 7, "reason": []}, "7"),
    ],
)
def test_line(tls, expected):
    """The state, and what there is to say about it; text of others is escaped."""
    assert tls_line(tls).plain == expected


def test_refused_stands_out():
    """What was wanted and is not there has another colour than what was switched off."""
    styles = [str(tls_line({"state": state}).style) for state in ("on", "off", "refused")]

    assert len(set(styles)) == 3


def test_problems():
    """Libraries beyond the limit are a problem: a setting helps."""
    assert tls_problems({"over_limit": 2, "max_libraries": 64}) == [
        "inside TLS: 2 libraries not probed: 64 are as many as may be (tls.max_libraries)"
    ]
    assert tls_problems({"displaced": 1}) == [
        "inside TLS: 1 library gave way to those of sandboxes with fewer"
    ]
    assert tls_problems({"over_limit": 0, "displaced": 0}) == tls_problems({}) == []


def test_search_that_hangs():
    """While it reads, a reason says that something new is not read; else the line has it."""
    assert tls_problems(ON | {"reason": "nothing new\n is read"}) == [
        "inside TLS: nothing new\\x0a is read"
    ]
    assert tls_problems({"state": "refused", "reason": "no bcc"}) == []
