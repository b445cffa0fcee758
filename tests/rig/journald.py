# SPDX-License-Identifier: Apache-2.0
"""The real systemd-journald, in a mount namespace with a /run of its own.

Run as a program, it reads what to say from standard input, a line of Python's ``repr`` each, and
prints what ``journalctl -o json`` then has of it.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from rig.cli import environment
from rig.tree import ROOT

JOURNALD = Path("/lib/systemd/systemd-journald")
_MACHINE_ID = "0123456789abcdef0123456789abcdef\n"


def is_installed() -> bool:
    """Say whether journald and its reader are here."""
    return JOURNALD.exists() and shutil.which("journalctl") is not None


def journal_of(messages: list[bytes]) -> list[dict[str, object]]:
    """Send *messages* to a journald of their own; return what it has of agentwall's."""
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", sys.executable, "-m", "rig.journald"],
        input=repr(messages),
        env={**environment(), "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def _main() -> None:
    from agentwall.sinks.journal import SOCKET

    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    SOCKET.parent.mkdir(parents=True)
    identity = Path("/etc/machine-id")
    if not identity.exists() or not identity.stat().st_size:
        own = Path("/run/machine-id")
        own.write_text(_MACHINE_ID, encoding="ascii")
        if not identity.exists():
            raise SystemExit("no /etc/machine-id to put one over")
        subprocess.run(["mount", "--bind", own, identity], check=True)
    journald = subprocess.Popen([JOURNALD], stderr=subprocess.DEVNULL)
    try:
        _wait_for(SOCKET)
        _say(ast.literal_eval(sys.stdin.read()), SOCKET)
        subprocess.run(["journalctl", "--sync"], check=False, stderr=subprocess.DEVNULL)
        command = ["journalctl", "-o", "json", "--no-pager", "SYSLOG_IDENTIFIER=agentwall"]
        subprocess.run(command, check=True)
    finally:
        journald.terminate()
        journald.wait(10)


def _say(messages: list[bytes], path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect(os.fspath(path))
        for message in messages:
            sender.send(message)


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        if time.monotonic() > deadline:
            raise SystemExit("journald did not come up")
        time.sleep(0.02)


if __name__ == "__main__":
    _main()
