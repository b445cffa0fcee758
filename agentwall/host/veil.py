# SPDX-License-Identifier: Apache-2.0
"""A directory as a command sees it: all that is there now, but for what is left out.

A mount *over* a socket would not last: when its daemon restarts, the kernel takes the mount off the
unlinked file (Linux kernel commit 8ed936b5671b ("vfs: Lazily remove mounts on unlinked files and
directories") (in v3.19)), and the new socket lies open. So the directory is made anew, in a file
system that only the sandbox has: each entry is bound into it, and what is left out has no name
there, whenever it appears outside. Directories bound whole stay as alive as they are outside; what
comes later beside them is not seen.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from agentwall.host import libc
from agentwall.host.mounting import bind_read_only, write_readable

Parts = tuple[str, ...]
"""A path below a directory, ``("nscd", "socket")``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Veil:
    """What a directory is made anew without."""

    directory: Path
    """Real, and not removed while the host runs: the one mount point that others could remove."""
    absent: frozenset[Parts]
    """Not there, and with it nothing below; each part of the way to it is made anew as well."""


def draw_veil(veil: Veil, files: Mapping[Parts, str]) -> None:
    """Make the veil's directory anew in the caller's own mount namespace.

    Args:
        veil: What to make.
        files: Read-only files with this content, in place of those of the same name.

    Raises:
        OSError: A mount was refused.
    """
    point = str(veil.directory)
    before = os.open(point, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = os.stat(before)
        owner = f"uid={found.st_uid},gid={found.st_gid},mode={stat.S_IMODE(found.st_mode):o}"
        flags = libc.MS_NOSUID | libc.MS_NODEV
        libc.mount("agentwall", point, "tmpfs", flags, f"size=10%,{owner}")
        # The way to what the new file system covers.
        _copy(f"/proc/self/fd/{before}", point, veil.absent.union(files))
    finally:
        os.close(before)
    for parts, text in files.items():
        path = veil.directory.joinpath(*parts)
        _make_way(veil.directory, parts[:-1])
        write_readable(str(path), text)
        bind_read_only(str(path))


def _make_way(directory: Path, parts: Parts) -> None:
    for count in range(1, len(parts) + 1):
        step = directory.joinpath(*parts[:count])
        if not step.exists():
            step.mkdir()
            step.chmod(0o755)


def _copy(source: str, target: str, absent: frozenset[Parts]) -> None:
    with os.scandir(source) as entries:
        for entry in entries:
            below = frozenset(parts[1:] for parts in absent if parts[0] == entry.name)
            if () not in below:
                # Gone meanwhile, or a FUSE mount that not even root may enter: then it is not seen.
                with contextlib.suppress(FileNotFoundError, PermissionError):
                    _copy_entry(entry, f"{target}/{entry.name}", below)


def _copy_entry(entry: os.DirEntry[str], target: str, below: frozenset[Parts]) -> None:
    if entry.is_symlink():
        os.symlink(os.readlink(entry.path), target)
    elif entry.is_dir(follow_symlinks=False):
        os.mkdir(target)
        if below:
            found = entry.stat()
            os.chown(target, found.st_uid, found.st_gid)
            os.chmod(target, stat.S_IMODE(found.st_mode))
            _copy(entry.path, target, below)
        else:
            _bind(entry.path, target, os.rmdir)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        _bind(entry.path, target, os.unlink)


def _bind(source: str, target: str, remove: Callable[[str], None]) -> None:
    try:
        libc.mount(source, target, None, libc.MS_BIND | libc.MS_REC)
    except OSError:
        remove(target)
        raise
