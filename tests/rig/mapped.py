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
    real_file,
)

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
    fd = open_mapping(pid, mapping)
    try:
        return os.pread(fd, PAGE, 0)
    finally:
        os.close(fd)


def real(path) -> FileId:
    """Return the identity of the real file that this process has mapped as *path*."""
    mapping = mapping_of(path)
    fd = open_mapping(os.getpid(), mapping)
    try:
        return real_file(os.getpid(), mapping, fd)
    finally:
        os.close(fd)


def file_id(path) -> FileId:
    """Return the identity of a file by its name."""
    status = os.stat(path)
    return FileId(status.st_dev, status.st_ino)


def executes(pid: int, path) -> bool:
    """Say whether *pid* has mapped *path*: a process that was just started has not yet."""
    return any(each.path == os.fsencode(path) for each in executable_mappings(pid))
