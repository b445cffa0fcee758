# SPDX-License-Identifier: Apache-2.0
"""The probes' bookkeeping as status tells it, and what holds of one session."""

from __future__ import annotations

import os

import pytest
from rig.places import ALL, OFFSETS, Places
from rig.probed import file_id
from rig.tls_records import LIBSSL, READ, STATIC, hello_read

from agentwall.daemon.inside_state import InsideState, ProbedLibrary
from agentwall.daemon.probed import probed_libraries, reading_of_session, with_counts
from agentwall.flow.tls import TlsLibrary, TlsReading, Unread
from agentwall.kernel.plain import PlainCounts
from agentwall.probes.attached import Attached

JOINED = hello_read().hello
UNJOINED = hello_read(library=None).hello
LATE = TlsReading(library=None, path=LIBSSL, unread=Unread.LATE)
NAMELESS = TlsReading(library=TlsLibrary.OPENSSL, path=None, unread=None)


def test_libraries(tmp_path):
    """A library has processes and sandboxes; a sandbox for which it was prepared is no process."""
    path = tmp_path / "libssl.so"
    path.write_bytes(b"x")
    attached = Attached(ALL, max_libraries=1, pins=None, attach=Places().attach)
    fd = os.open(path, os.O_RDONLY)
    for user in (("a", 10), ("a", 11), ("a", 0), ("b", 0)):
        attached.use(file_id(path), fd, TlsLibrary.OPENSSL, OFFSETS, user, "/x", 2.5)
    found = probed_libraries(attached, 10**18)
    attached.close()
    os.close(fd)

    assert found == (
        ProbedLibrary(
            path="/x",
            library=TlsLibrary.OPENSSL,
            device=file_id(path).device,
            inode=file_id(path).inode,
            processes=2,
            sandboxes=2,
            since_ns=10**18 + 2_500_000_000,
            calls=("SSL_write", "SSL_read", "SSL_free"),
        ),
    )


def test_counts():
    """What the kernel counted goes to the place of its name; what it could not read is lost."""
    counts = PlainCounts(
        calls=1, foreign=2, doubled=3, lost=4, unreadable=5, connections=6, joined=7, octets=8
    )
    state = with_counts(InsideState(state="on", max_libraries=9), counts)

    assert (state.calls, state.doubled, state.lost) == (1, 3, 4 + 5)
    assert (state.connections, state.joined, state.octets) == (6, 7, 8)
    assert (state.state, state.max_libraries) == ("on", 9)


@pytest.mark.parametrize(
    ("reading", "hello", "expected"),
    [
        (READ, JOINED, READ),
        (STATIC, UNJOINED, STATIC),
        (READ, UNJOINED, LATE),
        (STATIC, JOINED, NAMELESS),
        (LATE, JOINED, NAMELESS),
    ],
)
def test_session(reading, hello, expected):
    """A session that a probe has told of is read, and one that none has told of is not."""
    assert reading_of_session(reading, hello) == expected
