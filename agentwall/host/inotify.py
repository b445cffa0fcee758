# SPDX-License-Identifier: Apache-2.0
"""Learn what happens in directories (inotify(7))."""

from __future__ import annotations

import contextlib
import os
import struct
from dataclasses import dataclass

from agentwall.errors import HostError
from agentwall.host import libc

MODIFY = 0x00000002
CLOSE_WRITE = 0x00000008
MOVED_FROM = 0x00000040
MOVED_TO = 0x00000080
CREATE = 0x00000100
DELETE = 0x00000200
OVERFLOW = 0x00004000
IGNORED = 0x00008000
"""The watch is gone, and with it its number."""
ONLY_DIRECTORIES = 0x01000000
NO_SYMLINK = 0x02000000
IS_DIRECTORY = 0x40000000

_CONTENT = CREATE | DELETE | MOVED_FROM | MOVED_TO | CLOSE_WRITE
_HEADER = struct.Struct("@iIII")
"""``struct inotify_event``, ``include/uapi/linux/inotify.h``."""
_BUFFER_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened."""

    watch: int
    """The number of the watch; -1 for :data:`OVERFLOW`."""
    mask: int
    name: str
    """Within the directory that is watched; empty when it is that itself."""


class Inotify:
    """One queue of events.

    Raises:
        HostError: The user has too many already (fs.inotify.max_user_instances).
    """

    def __init__(self) -> None:
        try:
            self._descriptor = libc.inotify_init()
        except OSError as err:
            reason = f"{err.strerror} (fs.inotify.max_user_instances)"
            raise HostError(f"watching directories: {reason}") from err

    def fileno(self) -> int:
        """Return the descriptor that is readable when something happened."""
        return self._descriptor

    def watch(self, path: str, mask: int) -> int:
        """Watch *path* for what *mask* says; return the number by which events name it.

        Raises:
            OSError: It is not there, or (ENOSPC) fs.inotify.max_user_watches are in use.
        """
        return libc.inotify_add_watch(self._descriptor, path, mask)

    def watch_content(self, directory: str) -> int:
        """Watch *directory* for files that are written, come or go.

        Raises:
            OSError: As :meth:`watch`.
        """
        return self.watch(directory, _CONTENT | ONLY_DIRECTORIES)

    def forget(self, watch: int) -> None:
        """Let the watch of that number go, which may have gone with its directory."""
        with contextlib.suppress(OSError):
            libc.inotify_rm_watch(self._descriptor, watch)

    def read(self) -> list[Event]:
        """Return what has happened since, at most some thousand events; never wait."""
        try:
            data = os.read(self._descriptor, _BUFFER_BYTES)
        except BlockingIOError:
            return []
        events = []
        offset = 0
        while offset < len(data):
            watch, mask, _cookie, length = _HEADER.unpack_from(data, offset)
            offset += _HEADER.size
            name = data[offset : offset + length].rstrip(b"\0")
            events.append(Event(watch, mask, os.fsdecode(name)))
            offset += length
        return events

    def close(self) -> None:
        """Let everything go."""
        os.close(self._descriptor)
