# SPDX-License-Identifier: Apache-2.0
"""Read ``/proc/<pid>/mountinfo`` (proc(5)). Pure, but for :func:`read_mounts`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from agentwall.errors import HostError

_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One mount of a mount namespace."""

    root: str
    """The directory of the file system that is mounted, ``/`` for all of it."""
    point: str
    options: frozenset[str]
    """Of this mount, not of the file system: ``ro``, ``nosuid``, ..."""
    fstype: str
    device: str = ""
    """``major:minor`` of the file system."""


def parse_mounts(text: str) -> tuple[Mount, ...]:
    """Parse *text* of a mountinfo file; lines that are not mounts are left out."""
    return tuple(mount for line in text.splitlines() if (mount := _parse_line(line)))


def _parse_line(line: str) -> Mount | None:
    own, separator, filesystem = line.partition(" - ")
    fields = own.split(" ")
    if not separator or len(fields) < 6:
        return None
    return Mount(
        root=_unescape(fields[3]),
        point=_unescape(fields[4]),
        options=frozenset(fields[5].split(",")),
        fstype=filesystem.split(" ")[0],
        device=fields[2],
    )


def _unescape(field: str) -> str:
    # Blanks and backslashes are written in octal; bytes beyond ASCII stay as they are.
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), field)


def read_mounts() -> tuple[Mount, ...]:
    """Return the mounts of the caller's mount namespace, oldest first.

    Raises:
        HostError: /proc is not mounted or not readable.
    """
    try:
        # As os.fsdecode, so that odd mount points can be handed back to the kernel.
        text = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape")
    except OSError as err:
        raise HostError(f"/proc/self/mountinfo: {err.strerror}") from err
    return parse_mounts(text)
