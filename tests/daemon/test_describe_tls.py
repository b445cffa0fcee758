# SPDX-License-Identifier: Apache-2.0
"""What is said of reading inside TLS: of the host, of a sandbox, of each process."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rig.insides import STATE, Insides, process, readings

from agentwall.daemon.control_messages import encode_result
from agentwall.daemon.describe_tls import (
    MAX_PROCESSES,
    AsTold,
    count_readings,
    not_started,
    tls_figures,
    tls_notice,
    tls_of_sandbox,
    tls_status,
    unread_speakers,
)
from agentwall.daemon.inside_state import InsideState
from agentwall.engine.tls_sessions import TlsCounts
from agentwall.flow.record import SandboxKey
from agentwall.flow.tls import Unread
from agentwall.sinks.tls_words import words_of

MIXED = readings(
    process(10, sessions=3),
    process(11, Unread.OWN_TLS, path=None),
    process(12, Unread.GO, sessions=2, path=None),
    process(13),
    process(14, Unread.OWN_TLS, exe=None, path=None),
    joined=3,
)


def test_the_host_is_told_whole():
    """Everything that status has, in JSON's own kinds, with times and libraries as words."""
    found = tls_status(STATE, [MIXED, None])

    assert json.loads(json.dumps(found)) == found
    assert found == {
        "state": "on",
        "reason": None,
        "bcc": "0.26.0",
        "compile_s": 0.251,
        "libraries": [
            {
                "library": "openssl",
                "path": "/usr/lib/libssl.so.3",
                "device": 2049,
                "inode": 77,
                "processes": 2,
                "sandboxes": 1,
                "since": "1970-01-01T00:00:05.000000000Z",
                "calls": ["SSL_write", "SSL_read"],
            }
        ],
        "max_libraries": 64,
        "over_limit": 1,
        "displaced": 2,
        "unreadable": 2,
        "calls": 40,
        "octets": 4096,
        "lost": 3,
        "doubled": 5,
        "connections": 9,
        "joined": 8,
        "processes": {"read": 2, "unread": {"own-tls": 2, "go": 1}, "unread_speakers": 1},
        "sessions": {"seen": 5, "joined": 3},
    }


def test_where_nobody_reads_it_is_said():
    """Without a reader it is off, with the reason, and nothing is claimed of processes."""
    found = tls_status(not_started(7))

    assert (found["state"], found["reason"]) == ("off", "not started")
    assert (found["max_libraries"], found["libraries"], found["bcc"]) == (7, [], None)
    assert found["processes"] == {"read": 0, "unread": {}, "unread_speakers": 0}


def test_each_process_is_told_with_its_reason():
    """Who speaks TLS unread comes first, then who is not read, then who is."""
    found = tls_of_sandbox(MIXED)
    processes = found["processes"]

    assert json.loads(json.dumps(found)) == found
    assert (found["sessions"], found["joined"], found["truncated"]) == (5, 3, 0)
    assert [each["pid"] for each in processes] == [12, 11, 14, 10, 13]
    assert processes[0] == {
        "pid": 12,
        "comm": "python3",
        "exe": "/usr/bin/python3",
        "read": False,
        "library": None,
        "path": None,
        "unread": "go",
        "why": words_of(Unread.GO),
        "sessions": 2,
    }
    assert (processes[3]["read"], processes[3]["library"]) == (True, "openssl")
    assert (processes[3]["unread"], processes[3]["why"]) == (None, None)
    assert processes[2]["exe"] is None


def test_nothing_known_is_not_nothing():
    """Of a sandbox that nobody looked at, no count is given."""
    assert tls_of_sandbox(None) == {
        "sessions": None,
        "joined": None,
        "unread": {},
        "processes": [],
        "truncated": 0,
    }
    assert unread_speakers(None) is None
    assert unread_speakers(readings()) == 0
    assert unread_speakers(MIXED) == 1


def test_why_sessions_were_not_read():
    """The sessions that were not read are counted by reason, whoever began them."""
    found = tls_of_sandbox(replace(readings(), unread={Unread.GO: 2, Unread.STATIC: 1}))

    assert found["unread"] == {"go": 2, "static": 1}


def test_sessions_are_those_of_the_log():
    """What a rule spares is not read, though a probe told of it; each reason is told."""
    one, other, nobody = SandboxKey(1), SandboxKey(2), SandboxKey(3)
    known = {one: readings(process(10, sessions=3), joined=3)}
    unread = {Unread.POLICY: 2, Unread.OFF: 1, None: 1}
    counted = {key: TlsCounts(hellos=5, joined=1, unread=unread) for key in (one, other)}
    told = AsTold(Insides(known), counted.get)
    found = tls_of_sandbox(told.readings(one))

    assert (found["sessions"], found["joined"]) == (5, 1)
    assert found["unread"] == {"policy": 2, "off": 1}
    assert [each["pid"] for each in found["processes"]] == [10]
    assert tls_of_sandbox(told.readings(other))["sessions"] == 5
    assert told.readings(nobody) is None
    assert AsTold(Insides(known), {}.get).readings(one) is known[one]
    assert told.state() is STATE


def test_what_is_beyond_the_room_is_counted():
    """A sandbox of many processes has an answer of bounded size that says how many it left out."""
    many = [process(pid, Unread.STATIC) for pid in range(1, MAX_PROCESSES + 4)]
    found = tls_of_sandbox(readings(process(9000, Unread.GO, sessions=1), *many, truncated=5))

    assert len(found["processes"]) == MAX_PROCESSES
    assert found["processes"][0]["pid"] == 9000
    assert found["truncated"] == 5 + 4


@given(st.text(max_size=20), st.text(max_size=20))
def test_whatever_a_sandbox_is_called(comm, exe):
    """Names of any characters, surrogates too, make strict JSON and stay bounded."""
    one = process(1, Unread.OWN_TLS, comm=comm, exe="/\udcff" + exe, path="/" + "\udc80" * 5000)
    line = encode_result(tls_of_sandbox(readings(one)))
    (found,) = json.loads(line)["result"]["processes"]

    assert line.startswith(b'{"schema"')
    assert found["exe"].startswith("/\\xff")
    assert len(line) < 16_384
    json.dumps(found, ensure_ascii=False).encode()


def test_the_largest_answer_fits():
    """As many processes as are told, with the longest paths of the worst characters."""
    worst = [
        process(pid, Unread.LATE, comm="\U0001f4a3" * 15, exe="\udcff" * 4096, path="\x01" * 4096)
        for pid in range(MAX_PROCESSES)
    ]

    assert b'"ok":true' in encode_result(tls_of_sandbox(readings(*worst)))[:64]


def test_a_scrape_has_every_reason():
    """Those that nobody has are 0: a series that comes and goes cannot be alerted on."""
    found = tls_figures(STATE, [MIXED])

    assert found.unread == {reason.value: 0 for reason in Unread} | {"own-tls": 2, "go": 1}
    assert (found.read, found.state, found.libraries) == (2, "on", {"openssl": 1})
    assert (found.calls, found.octets, found.lost, found.doubled) == (40, 4096, 3, 5)
    assert (found.connections, found.joined, found.over_limit) == (9, 8, 1)


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("refused", "inside TLS: not read: no bcc"),
        ("off", None),
        ("on", None),
        ("starting", None),
    ],
)
def test_a_run_says_what_it_does_not_see(state, expected):
    """Once, at the start, where it was asked for and this host refuses."""
    stands = InsideState(state=state, reason="no bcc", max_libraries=1)

    assert tls_notice(stands) == expected


def test_sandboxes_add_up():
    """Counts of several sandboxes are those of all their processes."""
    found = count_readings([MIXED, None, MIXED])

    assert (found.read, found.speakers, found.sessions, found.joined) == (4, 2, 10, 6)
    assert found.unread == {Unread.OWN_TLS: 4, Unread.GO: 2}
