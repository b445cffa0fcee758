# SPDX-License-Identifier: Apache-2.0
"""Records in the journal: fields, losses, and the real journald."""

from __future__ import annotations

import socket
import struct
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from rig.journald import is_installed, journal_of
from rig.records import DENIED, SANDBOX, detection, endpoint, flow, permitted, process, state
from rig.strategies_of_records import RECORDS, TEXT
from rig.tls_records import STATIC, tls

from agentwall.flow.origin import Origin, Runtime
from agentwall.flow.record import HOST, GapRecord, PolicyInForce
from agentwall.sinks.journal import MAX_PENDING, Journal, encode_fields, fields_of

FROM_DAEMON = replace(
    SANDBOX,
    labels={"episode": "41", "step": "7", "team": "a b"},
    origin=Origin(runtime=Runtime.DOCKER, container="ab" * 32),
    policy=PolicyInForce(name="rl-rollout", phase="agent", commit="c0ffee"),
)


def decode(message: bytes) -> dict[str, str]:
    """Return the fields of a message, as journald reads it."""
    found = {}
    while message:
        name, _, rest = message.partition(b"\n")
        if b"=" in name:
            name, _, value = name.partition(b"=")
            message = rest
        else:
            (size,) = struct.unpack_from("<Q", rest)
            value, message = rest[8 : 8 + size], rest[8 + size + 1 :]
        found[name.decode()] = value.decode()
    return found


@contextmanager
def listening(path: Path, room: int = 0):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        if room:
            receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        receiver.bind(str(path))
        receiver.settimeout(5)
        yield receiver


def received(receiver: socket.socket) -> list[dict[str, str]]:
    found = []
    receiver.setblocking(False)
    try:
        while True:
            found.append(decode(receiver.recv(1 << 16)))
    except BlockingIOError:
        return found


def test_a_denial(tmp_path):
    """Everything that one searches by is a field of its own."""
    with listening(tmp_path / "s") as receiver:
        journal = Journal(tmp_path / "s")
        journal.take(flow(sandbox=FROM_DAEMON, reason=DENIED, name="x.example"), "d1-42")
        journal.flush()
        (found,) = received(receiver)
        journal.close()

    message = found.pop("MESSAGE")
    assert message.startswith("run-7f3a: denied tcp x.example:443 (203.0.113.7) (connect, EPERM)")
    assert "rl-rollout:deny[0] at policies/rl-rollout.yaml:21" in message
    assert found == {
        "PRIORITY": "5",
        "SYSLOG_IDENTIFIER": "agentwall",
        "AGENTWALL_EVENT_ID": "d1-42",
        "AGENTWALL_KIND": "denial",
        "AGENTWALL_SANDBOX": "run-7f3a",
        "AGENTWALL_CGROUP": "/agentwall.slice/run-7f3a",
        "AGENTWALL_EPISODE": "41",
        "AGENTWALL_STEP": "7",
        "AGENTWALL_LABELS": "team=a b",
        "AGENTWALL_RUNTIME": "docker",
        "AGENTWALL_CONTAINER": "ab" * 32,
        "AGENTWALL_POLICY": "rl-rollout",
        "AGENTWALL_COMMIT": "c0ffee",
        "AGENTWALL_VERDICT": "deny",
        "AGENTWALL_REASON": "rule",
        "AGENTWALL_COUNT": "1",
        "AGENTWALL_RULE": "rl-rollout:deny[0]",
        "AGENTWALL_RULE_FILE": "policies/rl-rollout.yaml:21",
        "AGENTWALL_REMOTE": "203.0.113.7:443",
        "AGENTWALL_REMOTE_NAME": "x.example",
        "AGENTWALL_PID": "4242",
        "AGENTWALL_COMM": "curl",
        "AGENTWALL_EXE": "/usr/bin/curl",
    }


@pytest.mark.parametrize(
    ("record", "priority", "fields"),
    [
        (detection(), "3", {"AGENTWALL_KIND": "detection", "AGENTWALL_CLASS": "mining"}),
        (
            GapRecord(sandbox=SANDBOX, time_ns=1, mono_ns=1, where="denials", lost=7),
            "4",
            {"AGENTWALL_WHERE": "denials", "AGENTWALL_LOST": "7"},
        ),
        (
            tls(STATIC),
            "6",
            {
                "AGENTWALL_KIND": "tls",
                "AGENTWALL_SERVER_NAME": "hub.example",
                "AGENTWALL_JA4": "t13d1516h2_8daaf6152771_e5627efa2ab1",
                "AGENTWALL_UNREAD": "static",
                "AGENTWALL_COMM": "curl",
            },
        ),
        (state("damaged", {"what": "x"}), "2", {"AGENTWALL_STATE": "damaged"}),
        (state("mode", {"mode": "audit"}), "4", {"AGENTWALL_STATE": "mode"}),
        (replace(state("started"), sandbox=HOST), "6", {"AGENTWALL_SANDBOX": "host"}),
        (flow(remote=endpoint("10.0.0.1", 22)), "4", {"AGENTWALL_REMOTE": "10.0.0.1:22"}),
    ],
)
def test_kinds_and_priorities(record, priority, fields):
    """What is graver has a smaller number; each kind has what it is told apart by."""
    found = dict(fields_of(record, None))

    assert found["PRIORITY"] == priority
    assert fields.items() <= found.items()
    assert "AGENTWALL_EVENT_ID" not in found


def test_what_is_permitted_is_left_out(tmp_path):
    """Permitted flows do not go to the journal, nor sessions that are read."""
    with listening(tmp_path / "s") as receiver:
        journal = Journal(tmp_path / "s")
        journal.write(permitted())
        journal.flush()

        assert received(receiver) == []
    journal.close()


@given(RECORDS, TEXT)
def test_nothing_breaks_out_of_its_field(record, event_id):
    """Whatever a sandbox or a tenant chose, every field comes back as it was put in."""
    fields = list(fields_of(record, event_id))
    found = decode(encode_fields(iter(fields)))

    assert list(found) == [name for name, _ in fields]
    assert all(name.replace("_", "").isalnum() and name.isupper() for name in found)
    assert "\n" not in found["MESSAGE"]
    assert found["AGENTWALL_EVENT_ID"] == event_id


def test_long_values_are_cut():
    """A message stays small, however long the labels."""
    long = replace(FROM_DAEMON, labels={"episode": "9" * 10_000, "x" * 10_000: "y" * 10_000})
    message = encode_fields(fields_of(flow(sandbox=long, process=process("c", 1, "é" * 9999)), "i"))

    assert len(message) < 10_000
    assert decode(message)["AGENTWALL_EPISODE"].endswith("...")


def test_no_journald(tmp_path, caplog):
    """Without journald nothing is raised; the reason is said once, losses are counted."""
    journal = Journal(tmp_path / "s")
    for _ in range(MAX_PENDING + 10):
        journal.write(flow())
    journal.flush()
    lost = journal.lost
    journal.close()

    assert (lost, journal.lost, journal.sent) == (10, MAX_PENDING + 10, 0)
    assert journal.problem == f"journald at {tmp_path / 's'}: No such file or directory"
    assert len(caplog.records) == 1


def test_journald_comes_and_goes(tmp_path):
    """What waits is sent once journald is there again, after how much was lost."""
    path = tmp_path / "s"
    journal = Journal(path)
    with listening(path):
        journal.write(flow())
        journal.flush()
    path.unlink()
    for _ in range(MAX_PENDING + 3):
        journal.write(flow())
    gone = journal.problem
    journal._next_try_s = 0.0
    with listening(path) as receiver:
        found = []
        while journal._pending:
            journal.flush()
            found += received(receiver)
        journal.close()

    assert gone is not None
    assert journal.problem is None
    assert found[0]["MESSAGE"] == "3 messages did not reach the journal; the event log has them"
    assert len(found) == MAX_PENDING + 1
    assert (journal.sent, journal.lost) == (1 + MAX_PENDING + 1, 3)


def test_a_slow_journald_holds_nothing_up(tmp_path):
    """A socket that takes no more is no reason to wait: the rest is kept, then counted."""
    with listening(tmp_path / "s", room=4096) as receiver:
        journal = Journal(tmp_path / "s")
        for _ in range(2 * MAX_PENDING):
            journal.write(flow())
        journal.flush()
        taken = received(receiver)

        assert len(taken) == journal.sent > 0
        assert journal.sent + journal.lost + len(journal._pending) == 2 * MAX_PENDING
        assert journal.problem is None
        journal.close()


@pytest.mark.skipif(not is_installed(), reason="systemd-journald is not installed")
def test_the_real_journald():
    """journald takes the messages apart as they were meant, line ends and all."""
    spoilt = replace(FROM_DAEMON, labels={"episode": "41\nPRIORITY=0\nAGENTWALL_VERDICT=allow"})
    records = [flow(sandbox=FROM_DAEMON, reason=DENIED), detection(sandbox=spoilt)]
    messages = [encode_fields(fields_of(each, f"d1-{n}")) for n, each in enumerate(records)]
    first, second = journal_of(messages)

    assert (first["AGENTWALL_EVENT_ID"], second["AGENTWALL_EVENT_ID"]) == ("d1-0", "d1-1")
    assert (first["PRIORITY"], second["PRIORITY"]) == ("5", "3")
    assert first["AGENTWALL_RULE"] == "rl-rollout:deny[0]"
    assert second["AGENTWALL_EPISODE"] == spoilt.labels["episode"]
    assert second["AGENTWALL_VERDICT"] == "deny"
    assert first["_TRANSPORT"] == "journal"
