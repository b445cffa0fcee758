# SPDX-License-Identifier: Apache-2.0
"""``agentwall top``, once in a pipe and live in a terminal of its own."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import time

from rig.cli import agentwall, environment
from rig.control import serving
from rig.daemon_answers import sandbox

from agentwall.cli.main import main


def _counting():
    looks = []

    def handle(*_):
        looks.append(1)
        boxes = [sandbox(n, denied=len(looks) * n) for n in range(1, 40)]
        return {"sandboxes": boxes}

    return handle


def test_once(capsys, tmp_path):
    """In a pipe one table of all is printed, whole."""
    with serving(tmp_path / "c.sock", _counting()) as served:
        code = main(["top", "--socket", str(served.path), "--every", "0.1"])
    lines = capsys.readouterr().out.splitlines()

    assert code == 0
    assert lines[0].startswith("39 sandboxes, ")
    assert lines[0].endswith(" denied per second")
    assert lines[4].split()[1] == "rollout-39"
    assert len(lines) == 4 + 39
    assert lines[4].endswith("episode=39 run=grpo-41 step=3")


def test_live(tmp_path):
    """In a terminal the busiest are shown, as many as fit, until it is interrupted."""
    ours, theirs = pty.openpty()
    with serving(tmp_path / "c.sock", _counting()) as served:
        shown = subprocess.Popen(
            agentwall("top", "--socket", served.path, "--every", "0.1"),
            env=environment(COLUMNS="140", LINES="20", TERM="xterm"),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        text = _read_until(ours, b"rollout-39", count=3)
        shown.send_signal(signal.SIGINT)
        _read_until(ours, None)
        code = shown.wait(120)
    os.close(ours)

    assert code == 0
    assert b"denied per second" in text
    assert b"rollout-10 " not in text


def _read_until(terminal, wanted, count=1):
    text = b""
    deadline_s = time.monotonic() + 120
    while wanted is None or text.count(wanted) < count:
        assert time.monotonic() < deadline_s
        if not select.select([terminal], [], [], 1)[0]:
            continue
        try:
            piece = os.read(terminal, 65_536)
        except OSError:
            break
        if not piece:
            break
        text += piece
    return text


def test_not_running(tmp_path):
    """Without a daemon it ends with 3."""
    assert main(["top", "--socket", str(tmp_path / "none")]) == 3
