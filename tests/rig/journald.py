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
_CONTROL = Path("/run/systemd/journal/io.systemd.journal")
"""The last socket that it makes. Until it listens there, journalctl cannot have it sync."""
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
        timeout=240,
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
        _wait_for(_CONTROL)
        _say(ast.literal_eval(sys.stdin.read()), SOCKET)
        subprocess.run(["journalctl", "--sync"], check=True)
        command = ["journalctl", "-o", "json", "--no-pager", "SYSLOG_IDENTIFIER=agentwall"]
        # Not what the machine's own journald has kept.
        subprocess.run([*command, "--directory=/run/log/journal"], check=True)
    finally:
        journald.terminate()
        journald.wait(60)


def _say(messages: list[bytes], path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect(os.fspath(path))
        for message in messages:
            sender.send(message)


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not _listens(path):
        if time.monotonic() > deadline:
            raise SystemExit("journald did not come up")
        time.sleep(0.02)


def _listens(path: Path) -> bool:
    import socket

    with socket.socket(socket.AF_UNIX) as caller:
        return caller.connect_ex(os.fspath(path)) == 0


if __name__ == "__main__":
    _main()
