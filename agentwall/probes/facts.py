# SPDX-License-Identifier: Apache-2.0
"""What a file's symbols and sections say of its TLS, read once a file.

The sandboxes of a host have the same few files, and to read one takes milliseconds in which nobody
else computes.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping
from dataclasses import dataclass

from agentwall.flow.tls import TlsLibrary, Unread
from agentwall.probes.elf import ElfError, read_elf
from agentwall.probes.libraries import WANTED, library_of
from agentwall.probes.walking import reopen

MAX_REMEMBERED = 1024
"""Files of which it is remembered what they are; the oldest is forgotten first."""


class Build(enum.Enum):
    """How a program was made, as far as it tells about its TLS: why nothing else is read of it."""

    GO = Unread.GO
    RUST = Unread.RUST
    STATIC = Unread.STATIC
    DYNAMIC = Unread.OWN_TLS
    UNKNOWN = Unread.UNREADABLE


@dataclass(frozen=True, slots=True)
class Facts:
    """What one file is."""

    build: Build
    library: TlsLibrary | None
    """Which library it is, or has in it and exports."""
    offsets: Mapping[str, int]
    """Where in the file the functions of libraries begin, by symbol."""


UNKNOWN = Facts(Build.UNKNOWN, None, {})
"""Of what is not ELF that can be understood, or could not be opened."""


# By device, inode, size and times. More than one thread may be here.
_remembered: dict[tuple[int, ...], Facts] = {}


def facts_of(found: int, status: os.stat_result) -> Facts:
    """Return what the regular file *found* is.

    Args:
        found: The real file, below overlays, open without rights (O_PATH).
        status: What :func:`os.fstat` says of it.

    Raises:
        OSError: It may not be read, or there are too many descriptors.
    """
    times = status.st_mtime_ns, status.st_ctime_ns
    key = (status.st_dev, status.st_ino, status.st_size, *times)
    if (known := _remembered.get(key)) is not None:
        return known
    fd = reopen(found)
    try:
        facts = _read(fd)
    finally:
        os.close(fd)
    while len(_remembered) >= MAX_REMEMBERED:
        _remembered.pop(next(iter(_remembered), key), None)
    _remembered[key] = facts
    return facts


def _read(fd: int) -> Facts:
    try:
        elf = read_elf(fd, WANTED)
    except ElfError:
        return UNKNOWN
    if elf.is_go:
        build = Build.GO
    elif elf.is_rust:
        build = Build.RUST
    else:
        build = Build.DYNAMIC if elf.interpreter else Build.STATIC
    return Facts(build, library_of(frozenset(elf.offsets)), dict(elf.offsets))
