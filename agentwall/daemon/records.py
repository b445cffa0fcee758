# SPDX-License-Identifier: Apache-2.0
"""State records: what the next daemon needs to know of this one, whenever this one dies.

One small file a sandbox, written before its wall is made and replaced whole, and one for the daemon
itself. They lie in a tmpfs that does not outlive the kernel's state.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agentwall.daemon.members import Admission, Judged, Member, Override, Place
from agentwall.errors import HostError
from agentwall.flow.origin import Origin, Runtime
from agentwall.flow.record import SandboxKey
from agentwall.flow.verdict import Mode
from agentwall.host.cgroup import Cgroup, find

_SCHEMA = "agentwall.daemon/1"
_MAX_BYTES = 1 << 20
_GENERATIONS = 1024
"""Numbers that are reserved at a time."""


class Records:
    """The directory of the records, locked as long as this object lives."""

    def __init__(self, directory: Path) -> None:
        """Lock *directory*, made if need be.

        Raises:
            HostError: It cannot be made, or another daemon lives.
        """
        self._directory = directory
        self._sandboxes = directory / "sandboxes"
        try:
            for path in (directory.parent, directory, self._sandboxes):
                path.mkdir(mode=0o711 if path == directory.parent else 0o700, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._lock = os.open(directory / "lock", flags, 0o600)
        except OSError as err:
            raise HostError(f"{directory}: {err.strerror}") from err
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            os.close(self._lock)
            raise HostError(f"{directory}: another daemon is running") from err
        self.gone: set[SandboxKey] = set()
        """Sandboxes that are written down though their cgroups have gone. The kernel may still have
        sockets of theirs to judge; once it has not, :meth:`remove` them."""
        self._next, self._reserved = self._read_generation(), 0

    def next_generation(self) -> int:
        """Return a number of rules that no daemon on this boot has used.

        Raises:
            HostError: It cannot be written down that it is used.
        """
        if self._next >= self._reserved:
            self._reserved = self._next + _GENERATIONS
            self._write(self._directory / "daemon.json", {"generation": self._reserved})
        self._next += 1
        return self._next - 1

    def beyond(self, generation: int) -> None:
        """Let no number up to *generation* be used, whatever the record says."""
        if generation >= self._next:
            self._next, self._reserved = generation + 1, 0

    def write(self, member: Member) -> None:
        """Write down a sandbox, in place of what was written of it before.

        Raises:
            HostError: The disk is full, or worse.
        """
        self._write(self._path(member.key), _encode(member))

    def remove(self, key: SandboxKey) -> None:
        """Remove the record of a sandbox of which nothing is left."""
        self._path(key).unlink(missing_ok=True)
        self.gone.discard(key)

    def read(self) -> Iterator[Member | str]:
        """Yield every sandbox that is written down, or why one cannot be understood.

        One whose cgroup has gone is passed over, and noted in :attr:`gone`.
        """
        for path in sorted(self._sandboxes.glob("*.json")):
            try:
                document = _parse(path)
                found = _decode(document)
            except (OSError, ValueError, KeyError, TypeError, HostError) as err:
                yield f"{path}: {err}"
                continue
            if found is None:
                self.gone.add(SandboxKey(_number(document, "key")))
            else:
                yield found

    def clear(self) -> None:
        """Remove the records of all sandboxes: no wall stands any more."""
        for path in self._sandboxes.glob("*.json"):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let another daemon have them."""
        os.close(self._lock)

    def _path(self, key: SandboxKey) -> Path:
        return self._sandboxes / f"{key:016x}.json"

    def _read_generation(self) -> int:
        try:
            return max(1, _number(_parse(self._directory / "daemon.json"), "generation"))
        except (OSError, ValueError, KeyError, TypeError):
            return 1

    def _write(self, path: Path, document: Mapping[str, object]) -> None:
        draft = path.with_suffix(".new")
        text = json.dumps({"schema": _SCHEMA, **document})
        try:
            with draft.open("w", encoding="utf-8") as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(text)
            draft.rename(path)
        except OSError as err:
            raise HostError(f"{path}: writing a record: {err.strerror}") from err


def _parse(path: Path) -> dict[str, object]:
    with path.open("rb") as file:
        document = json.loads(file.read(_MAX_BYTES))
    if not isinstance(document, dict) or document.get("schema") != _SCHEMA:
        raise ValueError(f"expected a record of schema {_SCHEMA}")
    return document


def _encode(member: Member) -> dict[str, object]:
    override = member.override
    return {
        "key": member.key,
        "id": member.id,
        "cgroup": member.cgroup.path,
        "directory": str(member.cgroup.directory),
        "cgroup_id": member.cgroup_id,
        "scope": member.scope,
        "admission": member.admission.value,
        "origin": {**asdict(member.origin), "runtime": member.origin.runtime.value},
        "labels": member.labels,
        "policy": member.policy,
        "phase": member.phase,
        "wanted": member.wanted,
        "override": override and {**asdict(override), "mode": override.mode.value},
        "place": asdict(member.place),
        "judged": member.judged and asdict(member.judged),
        "pid": member.pid,
        "admitted_ns": member.admitted_ns,
        "unwatched_ms": member.unwatched_ms,
        "stopped": member.stopped,
    }


_PLAIN = (
    *("id", "scope", "policy", "phase", "wanted", "pid", "admitted_ns", "unwatched_ms"),
    "stopped",
)


def _decode(document: dict[str, object]) -> Member | None:
    """Return what is written down, or None if its cgroup has gone.

    Raises:
        ValueError: It is not what :func:`_encode` wrote. So are KeyError and TypeError.
    """
    cgroup = _cgroup(str(document["cgroup"]), Path(str(document["directory"])))
    origin, place, labels = (_table(document, name) for name in ("origin", "place", "labels"))
    number = _number(document, "cgroup_id")
    if cgroup is None or cgroup.directory.stat().st_ino != number:
        return None
    plain = {name: document[name] for name in _PLAIN}
    return Member(
        key=SandboxKey(_number(document, "key")),
        cgroup=cgroup,
        cgroup_id=number,
        admission=Admission(document["admission"]),
        origin=Origin(**{**origin, "runtime": Runtime(origin["runtime"])}),
        labels=dict(labels),
        override=_override(document["override"]),
        place=Place(**place),
        judged=_judged(document.get("judged")),
        **plain,  # type: ignore[arg-type] # as _encode() wrote them
    )


def _table(document: dict[str, object], name: str) -> dict[str, Any]:
    found = document[name]
    if not isinstance(found, dict):
        raise ValueError(f"{name}: expected a mapping")
    return found


def _number(document: dict[str, object], name: str) -> int:
    found = document[name]
    if not isinstance(found, int):
        raise ValueError(f"{name}: expected a number")
    return found


def _override(found: object) -> Override | None:
    if not isinstance(found, dict):
        return None
    return Override(**{**found, "mode": Mode(found["mode"])})


def _judged(found: object) -> Judged | None:
    # Another version may have written something else there; nothing but reports depends on it.
    try:
        return Judged(**found) if isinstance(found, dict) else None
    except TypeError:
        return None


def _cgroup(path: str, directory: Path) -> Cgroup | None:
    if directory.is_dir():
        return Cgroup(path, directory)
    return find(path)
