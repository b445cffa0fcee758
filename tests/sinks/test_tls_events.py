# SPDX-License-Identifier: Apache-2.0
"""The words for TLS sessions: with whom, who, and whether they are read."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from rig.records import endpoint
from rig.strategies_of_records import tls_sessions
from rig.tls_records import LIBSSL, OFF, READ, STATIC, tls

from agentwall.flow.tls import TlsLibrary, Unread
from agentwall.flow.verdict import Direction
from agentwall.sinks.escape import printable
from agentwall.sinks.tls_events import is_expected, tls_line

LIMIT = replace(STATIC, unread=Unread.LIMIT, library=TlsLibrary.GNUTLS, path="/x/\x1b.so")
TO = "TLS to hub.example at 198.51.100.10:443 by curl[4242]:"


@pytest.mark.parametrize(
    ("record", "line"),
    [
        (tls(), f"{TO} read (OpenSSL at {LIBSSL})"),
        (
            tls(STATIC, count=12),
            f"{TO} not read: static binary: its TLS has no names to probe (12 sessions)",
        ),
        (tls(None), f"{TO} not read: nobody has looked at its process"),
        (tls(None, is_joined=True), f"{TO} read"),
        (
            tls(READ, is_joined=False),
            f"{TO} not read: its library is read, but this session is none of it:"
            f" another TLS, or an older session (OpenSSL at {LIBSSL})",
        ),
        (
            tls(LIMIT),
            f"{TO} not read: its library is not probed: as many are as may be"
            " (tls.max_libraries) (GnuTLS at /x/\\x1b.so)",
        ),
        (
            tls(server_name=None, name="learned.example", process=None),
            "TLS to learned.example at 198.51.100.10:443 by several processes:"
            f" read (OpenSSL at {LIBSSL})",
        ),
        (
            tls(None, server_name=None, remote=None),
            "TLS to an unknown server by curl[4242]: not read: nobody has looked at its process",
        ),
        (
            tls(None, is_joined=True, direction=Direction.IN, local=endpoint("10.0.0.1", 8443)),
            "TLS from 198.51.100.10 to port 8443 (hub.example) by curl[4242]: read",
        ),
    ],
)
def test_lines(record, line):
    """With whom, by whom, whether it is read and by what or why not, and how often."""
    assert tls_line(record) == line


@given(tls_sessions())
def test_any_session_is_one_safe_line(record):
    """Whatever a sandbox chose, the line is short and acts on no terminal."""
    line = tls_line(record)

    assert line == printable(line)
    assert len(line) < 800


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (tls(), False),
        (tls(STATIC), False),
        (tls(READ, is_joined=False), False),
        (tls(OFF), True),
        (tls(None), True),
        (tls(replace(OFF, unread=Unread.POLICY)), True),
        (tls(OFF, is_joined=True), False),
    ],
)
def test_what_somebody_chose(record, expected):
    """That nothing is read, or that a rule's text is not, is no news of a process."""
    assert is_expected(record) is expected
