# SPDX-License-Identifier: Apache-2.0
"""TLS and the records that tell of it know each other, in whatever order they are imported."""

from __future__ import annotations

import subprocess
import sys

import pytest
from rig.tls_records import STATIC, hello_read, tls

from agentwall.flow.tls import HelloSeen, TlsLibrary, Unread


@pytest.mark.parametrize("first", ["tls", "record"])
def test_either_first(first):
    """Neither module needs the other to be there already."""
    words = f"import agentwall.flow.{first}; from agentwall.flow.tls import HelloSeen"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, check=False)

    assert (done.returncode, done.stderr) == (0, b"")


def test_what_is_equal():
    """Readings, hellos and sessions are values: equal by what they say, and fit for keys."""
    hello = hello_read(b"x", STATIC, library=None).hello
    joined = HelloSeen(attempt=hello.attempt, library=TlsLibrary.NSS, data=b"x")

    assert (hello.is_joined, joined.is_joined) == (False, True)
    assert hello == HelloSeen(attempt=hello.attempt, library=None, data=b"x")
    assert len({STATIC, tls(STATIC).reading}) == 1
    assert len({each.value for each in Unread}) == len(Unread)
