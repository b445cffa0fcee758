# SPDX-License-Identifier: Apache-2.0
"""Files that this process, or another, has mapped to execute."""

from __future__ import annotations

import mmap
import os
from contextlib import contextmanager

from agentwall.probes.mappings import (
    FileId,
    Mapping,
    executable_mappings,
    open_mapping,
    open_real,
)
from agentwall.probes.mounts import Mounts
from agentwall.probes.walking import reopen

PAGE = mmap.PAGESIZE


@contextmanager
def mapped(path, protection=mmap.PROT_READ | mmap.PROT_EXEC):
    """Map *path* into this process for the block."""
    with open(path, "rb") as file:
        memory = mmap.mmap(file.fileno(), PAGE, mmap.MAP_PRIVATE, protection)
    try:
        yield
    finally:
        memory.close()


def mapping_of(path, pid=None) -> Mapping:
    """Return the one mapping with this path."""
    name = os.fsencode(path)
    (found,) = [each for each in executable_mappings(pid or os.getpid()) if each.path == name]
    return found


def content(pid: int, mapping: Mapping) -> bytes:
    """Return the beginning of what *pid* has mapped."""
    found = open_mapping(Mounts(pid), mapping)
    fd = reopen(found)
    try:
        return os.pread(fd, PAGE, 0)
    finally:
        os.close(fd)
        os.close(found)


def real(path) -> FileId:
    """Return the identity of the real file that this process has mapped as *path*."""
    return real_file(os.getpid(), mapping_of(path))


def real_file(pid: int, mapping: Mapping) -> FileId:
    """Return the same of what *pid* has mapped."""
    mounts = Mounts(pid)
    found = open_mapping(mounts, mapping)
    try:
        return real_of(mounts, found)
    finally:
        os.close(found)


def real_of(mounts: Mounts, fd: int) -> FileId:
    """Return the same of what *fd* is open on."""
    opened = open_real(mounts, fd)
    status = os.fstat(opened)
    if opened != fd:
        os.close(opened)
    return FileId(status.st_dev, status.st_ino)


def file_id(path) -> FileId:
    """Return the identity of a file by its name."""
    status = os.stat(path)
    return FileId(status.st_dev, status.st_ino)


def executes(pid: int, path) -> bool:
    """Say whether *pid* has mapped *path*: a process that was just started has not yet."""
    return any(each.path == os.fsencode(path) for each in executable_mappings(pid))
