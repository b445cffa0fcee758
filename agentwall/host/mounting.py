# SPDX-License-Identifier: Apache-2.0
"""What ``namespaces`` and ``veil`` do with one mount point in a mount namespace of their own."""

from __future__ import annotations

import os
from pathlib import Path

from agentwall.host import libc
from agentwall.host.mountinfo import read_mounts

PLAIN = libc.MS_NOSUID | libc.MS_NODEV | libc.MS_NOEXEC
_KEPT_FLAGS = {
    "nosuid": libc.MS_NOSUID,
    "nodev": libc.MS_NODEV,
    "noexec": libc.MS_NOEXEC,
    "noatime": 1024,
    "nodiratime": 2048,
    "relatime": 1 << 21,
}


def hide(point: str) -> None:
    """Put an empty read-only directory over *point*."""
    libc.mount("agentwall", point, "tmpfs", PLAIN | libc.MS_RDONLY, "size=4k,nr_inodes=2,mode=555")


def remount_read_only(point: str, options: frozenset[str]) -> None:
    """Make the mount at *point*, which has *options*, read-only; its file system stays as it is."""
    flags = sum(flag for name, flag in _KEPT_FLAGS.items() if name in options)
    libc.mount(None, point, None, libc.MS_REMOUNT | libc.MS_BIND | libc.MS_RDONLY | flags)


def bind_read_only(point: str) -> None:
    """Make the file or directory *point* read-only."""
    # Not recursive: what is mounted below goes out of sight instead of staying writable.
    libc.mount(point, point, None, libc.MS_BIND)
    _seal(point)


def cover_file(path: str, text: str) -> None:
    """Put a read-only file with *text* over *path*, a file and no symbolic link.

    Raises:
        OSError: There is no file, or a mount was refused.
    """
    held = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        # A file to bind has to lie in a mount: one over its own directory, for a moment.
        stage = os.path.dirname(path)
        libc.mount("agentwall", stage, "tmpfs", PLAIN, "size=64k,mode=755")
        try:
            write_readable(path, text)
            libc.mount(path, f"/proc/self/fd/{held}", None, libc.MS_BIND)
        finally:
            libc.umount(stage)
    finally:
        os.close(held)
    _seal(path)


def write_readable(path: str, text: str) -> None:
    """Write a new file that everybody may read."""
    Path(path).write_text(text, encoding="ascii")
    os.chmod(path, 0o444)


def _seal(point: str) -> None:
    options = next((m.options for m in reversed(read_mounts()) if m.point == point), frozenset())
    remount_read_only(point, options)
