# SPDX-License-Identifier: Apache-2.0
"""What a service tells systemd and is told by it, against sockets of the test's own."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time

import pytest
from rig.cli import environment
from rig.tree import ROOT

from agentwall.host.systemd import notify, watchdog_interval_s


@pytest.fixture
def manager(tmp_path):
    """The end of a service manager, at a path."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "notify"))
        end.settimeout(60)
        yield end


def address(end: socket.socket) -> dict[str, str]:
    name = end.getsockname()
    text = name if isinstance(name, str) else "@" + name[1:].decode()
    return {"NOTIFY_SOCKET": text}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"ready": True}, "READY=1"),
        ({"stopping": True}, "STOPPING=1"),
        ({"watchdog": True}, "WATCHDOG=1"),
        ({"status": "12 sandboxes"}, "STATUS=12 sandboxes"),
        ({"ready": True, "status": "up"}, "READY=1\nSTATUS=up"),
        ({"status": "a\nREADY=1\x1b[31m"}, "STATUS=a READY=1 [31m"),
        ({"status": "x" * 1000}, "STATUS=" + "x" * 500),
        ({"status": "caf\u00e9"}, "STATUS=caf\u00e9"),
        ({"status": "\udcff"}, "STATUS= "),
    ],
)
def test_notify(manager, said, expected):
    """Each thing said is one datagram; nobody can add a line to a status."""
    sent = notify(**said, environ=address(manager))

    assert sent
    assert manager.recv(4096).decode() == expected


def test_notify_reloading(manager):
    """A reload tells the time, as the manager asks for."""
    before = time.monotonic_ns() // 1000
    notify(reloading=True, environ=address(manager))
    said = manager.recv(4096).decode()
    after = time.monotonic_ns() // 1000

    match = re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=([0-9]+)", said)
    assert match
    assert before <= int(match[1]) <= after


def test_notify_abstract():
    """A name that begins with @ is an abstract one."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(f"\0agentwall-test-{os.getpid()}")
        end.settimeout(60)
        sent = notify(ready=True, environ=address(end))

        assert sent
        assert end.recv(4096) == b"READY=1"


@pytest.mark.parametrize(
    "where",
    ["", "@", "/", "relative", "/nobody/listens", "/" + "x" * 200, "vsock:2:1", "/a\0b", "/etc"],
)
def test_notify_nobody(where):
    """Without a manager that listens nothing happens, and nothing is raised."""
    assert notify(ready=True, environ={"NOTIFY_SOCKET": where}) is False
    assert notify(ready=True, environ={}) is False


def test_notify_nothing(manager):
    """Nothing to say sends nothing."""
    assert notify(environ=address(manager)) is False


def test_notify_full(manager):
    """A manager that does not read does not block the service."""
    told = 0
    while told < 100_000 and notify(watchdog=True, environ=address(manager)):
        told += 1

    assert 0 < told < 100_000


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": ""}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_USEC": "1.5"}, None),
        ({"WATCHDOG_USEC": "9" * 400}, None),
        ({"WATCHDOG_PID": "7"}, None),
    ],
)
def test_watchdog(variables, expected):
    """The time, for the process that is meant only; nonsense is no watchdog."""
    assert watchdog_interval_s(variables, 7) == expected


def test_module_is_light():
    """The daemon keeps it: nothing of what it imports is large."""
    code = "import sys, agentwall.host.systemd; print('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), cwd=ROOT, capture_output=True, text=True
    )

    assert {"pydantic", "yaml", "numpy", "rich", "click"}.isdisjoint(done.stdout.split())
