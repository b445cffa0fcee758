# SPDX-License-Identifier: Apache-2.0
"""Files about sandboxes that were frozen: ``agentwall.snapshot/1``, one JSON document each."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from agentwall.daemon.hooks import event_document
from agentwall.engine.processes import clamp_arguments
from agentwall.flow.record import DetectionRecord, Process
from agentwall.host.argv import ArgvReader
from agentwall.host.cgroup import Cgroup
from agentwall.host.snapshot import Snapshot, take_snapshot
from agentwall.host.sock_diag import SocketSeen
from agentwall.net.ports import protocol_name
from agentwall.sinks.event_json import encode_endpoint, encode_process

SCHEMA = "agentwall.snapshot/1"
MAX_FILES = 256
"""In the directory; the oldest ones make room."""
_BRIEF = 16
"""Processes, and sockets, that the event itself names."""
_BRIEF_CHARACTERS = 256
_MAX_NAME = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """A snapshot, and whether it could be kept."""

    snapshot: Snapshot
    problem: str | None
    """Why there is no file; None: there is."""


def name_snapshot(sandbox: str) -> str:
    """Return the name of a file about *sandbox* that sorts by sandbox, then time: this moment's."""
    now = datetime.datetime.now(datetime.UTC)
    safe = re.sub(r"[^A-Za-z0-9_-]", "_", sandbox)[:_MAX_NAME] or "_"
    return f"{safe}-{now:%Y%m%dT%H%M%S.%fZ}.json"


def write_snapshot(cgroup: Cgroup, record: DetectionRecord, where: Path, argv: ArgvReader) -> Shot:
    """Look into *cgroup* and write down what is there.

    Args:
        cgroup: A frozen one, or else some of it may have gone meanwhile.
        record: What it was frozen for.
        where: A file that does not exist; root's alone to read. Its directory is made.
        argv: Of the calling thread.
    """
    snapshot = take_snapshot(cgroup, argv)
    document = {
        "schema": SCHEMA,
        "cgroup": cgroup.path,
        "detection": json.loads(event_document(record)),
        "processes": [_process(each) for each in snapshot.processes],
        "process_count": snapshot.process_count,
        "sockets": [_socket(each) for each in snapshot.sockets],
        "socket_count": snapshot.socket_count,
        "problems": list(snapshot.problems),
    }
    text = json.dumps(document, indent=1) + "\n"
    try:
        where.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make_room(where.parent)
        _write(where, text.encode("ascii"))
    except OSError as err:
        return Shot(snapshot=snapshot, problem=f"not written: {err.strerror}")
    return Shot(snapshot=snapshot, problem=None)


def brief(shot: Shot) -> dict[str, object]:
    """Return the head of *shot* as an event's detail has it; the file has all of it."""
    snapshot = shot.snapshot
    found: dict[str, object] = {
        "processes": [_short(each) for each in snapshot.processes[:_BRIEF]],
        "process_count": snapshot.process_count,
        "sockets": [_socket(each) for each in snapshot.sockets[:_BRIEF]],
        "socket_count": snapshot.socket_count,
    }
    problems = [*snapshot.problems, *([f"snapshot {shot.problem}"] if shot.problem else [])]
    return {**found, "problems": problems} if problems else found


def _process(process: Process) -> dict[str, object] | None:
    encoded = encode_process(process)
    if encoded is not None and process.argv is not None:
        encoded["argv"] = list(clamp_arguments(process.argv))
    return encoded


def _short(process: Process) -> dict[str, object]:
    line = " ".join(process.argv or ())[:_BRIEF_CHARACTERS]
    exe = process.exe[:_BRIEF_CHARACTERS] if process.exe else None
    return {
        "pid": process.pid,
        "ppid": process.ppid,
        "uid": process.uid,
        "comm": process.comm,
        "exe": exe,
        "command_line": line,
    }


def _socket(seen: SocketSeen) -> dict[str, object]:
    return {
        "protocol": protocol_name(seen.protocol),
        "local": encode_endpoint(seen.local),
        "remote": encode_endpoint(seen.remote),
        "state": seen.state,
        "raw": seen.is_raw,
        "uid": seen.uid,
        "inode": seen.inode,
    }


def _write(path: Path, content: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
    except OSError:
        # Half a document is none.
        path.unlink(missing_ok=True)
        raise


def _make_room(directory: Path) -> None:
    files = sorted((each for each in directory.glob("*.json")), key=_modified)
    for each in files[: max(0, len(files) - MAX_FILES + 1)]:
        with contextlib.suppress(FileNotFoundError):
            each.unlink()


def _modified(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
