# SPDX-License-Identifier: Apache-2.0
"""State records: what runs exist on this host, and which of them nobody looks after any more.

A run holds a lock on its record as long as it lives; the kernel lets go of it even on SIGKILL. So
an unlocked record belongs to a run that died, whose wall may still stand around its command.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from agentwall.errors import HostError

RUN_DIRECTORY = Path("/run/agentwall")
STATE_DIRECTORY = Path("/var/lib/agentwall")
_SCHEMA = "agentwall.run/1"
_MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """What a run leaves for others to find."""

    id: str
    cgroup: str
    """As /proc/<pid>/cgroup spells it."""
    pin_dir: str
    policy: str
    """Its name and its file."""
    pid: int
    """Of agentwall itself."""
    start_time: str
    """RFC 3339, UTC."""
    events: str
    """The event file."""
    argv: tuple[str, ...]
    """The command."""


class HeldRecord:
    """The record of a live run, locked until :meth:`remove` or the process's death."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    def remove(self) -> None:
        """Remove the record: nothing of the run is left."""
        self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Let go of the record but leave it: it is a leftover from now on."""
        os.close(self._descriptor)


def _directory(base: Path) -> Path:
    directory = base / "runs"
    try:
        base.mkdir(mode=0o711, exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)
    except OSError as err:
        raise HostError(f"{directory}: making it: {err.strerror}") from err
    return directory


def hold(record: RunRecord, base: Path = RUN_DIRECTORY) -> HeldRecord:
    """Write *record* and lock it.

    Raises:
        HostError: It cannot be written, or a run of that id exists.
    """
    path = _directory(base) / f"{record.id}.json"
    text = json.dumps({"schema": _SCHEMA, **asdict(record)})
    # Locked before it gets the name by which it is found: no one sees it unlocked.
    draft = path.with_suffix(".new")
    with contextlib.ExitStack() as undo:
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            descriptor = os.open(draft, flags, 0o600)
            undo.callback(draft.unlink)
            keep = undo.enter_context(contextlib.ExitStack())
            keep.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(descriptor, text.encode())
            path.hardlink_to(draft)
        except OSError as err:
            raise HostError(f"{path}: writing the run's record: {err.strerror}") from err
        keep.pop_all()
    return HeldRecord(path, descriptor)


def leftovers(base: Path = RUN_DIRECTORY) -> list[RunRecord]:
    """Return the records of runs that have died, oldest first; unreadable ones are left out."""
    return [record for record, is_held in _records(base) if not is_held]


def live_runs(base: Path = RUN_DIRECTORY) -> list[RunRecord]:
    """Return the records of runs that are alive, oldest first."""
    return [record for record, is_held in _records(base) if is_held]


def _records(base: Path) -> Iterator[tuple[RunRecord, bool]]:
    for path in sorted((base / "runs").glob("*.json")):
        # It may go at any time.
        with contextlib.suppress(OSError), path.open("rb") as file:
            record = _parse(file.read(_MAX_BYTES))
            if record is not None and record.id == path.stem:
                yield record, not _can_lock(file.fileno())


def _can_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return True


def _parse(data: bytes) -> RunRecord | None:
    try:
        document = json.loads(data)
    except ValueError:
        return None
    if not isinstance(document, dict) or document.get("schema") != _SCHEMA:
        return None
    values = {field.name: document.get(field.name) for field in fields(RunRecord)}
    argv, pid = values.pop("argv"), values.pop("pid")
    if not isinstance(argv, list) or not isinstance(pid, int):
        return None
    texts = {name: value for name, value in values.items() if isinstance(value, str)}
    if len(texts) != len(values):
        return None
    return RunRecord(**texts, pid=pid, argv=tuple(map(str, argv)))


def forget(record: RunRecord, base: Path = RUN_DIRECTORY) -> None:
    """Remove the record of a run that has died, once nothing else of it is left."""
    (base / "runs" / f"{record.id}.json").unlink(missing_ok=True)


@contextlib.contextmanager
def exclusive(base: Path = RUN_DIRECTORY) -> Iterator[None]:
    """Keep other runs from setting up or clearing away at the same time."""
    _directory(base)
    descriptor = os.open(base / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
