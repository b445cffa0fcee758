# SPDX-License-Identifier: Apache-2.0
"""In the kernel's place: probes that are attached to nothing, and counted."""

from __future__ import annotations

import errno
import os

from agentwall.errors import KernelError
from agentwall.flow.tls import TlsLibrary
from agentwall.probes import uprobes
from agentwall.probes.attached import Attached
from agentwall.probes.libraries import PROGRAMS
from agentwall.probes.library_file import FileState
from agentwall.probes.mappings import FileId

ALL = {name: number for number, name in enumerate(PROGRAMS)}
OFFSETS = {"SSL_write": 16, "SSL_read": 32, "SSL_free": 48, "SSL_other": 64}
CALLS = ["SSL_write", "SSL_read", "SSL_free"]
PROBES = 4
"""Of OFFSETS: SSL_read has one at its return as well."""


class Places:
    """In the kernel's place: what is attached, each place by a descriptor of its own."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int, bool, int]] = []
        self.fds: dict[int, str] = {}
        self.refused: set[int] = set()

    def attach(self, program_fd, file_fd, offset, *, is_return, cookie, pin, what):
        """Take note and return a probe on nothing, or refuse."""
        if offset in self.refused:
            raise KernelError(errno.EINVAL, f"{what}: open uprobe: invalid argument")
        self.asked.append((program_fd, offset, is_return, cookie))
        fd = os.memfd_create("probe")
        self.fds[fd] = what
        if pin is not None:
            pin.touch(exist_ok=False)
        return uprobes.Probe(fd, is_link=True, pin=pin)

    @property
    def standing(self) -> int:
        """How many have not been closed."""
        return sum(1 for fd in self.fds if _is_probe(fd))


def _is_probe(fd: int) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{fd}").startswith("/memfd:probe ")
    except OSError:
        return False


def use(
    attached: Attached, file: tuple[FileId, int], user: object, now_s: float = 0.0
) -> FileState:
    """Note that *user* maps the library *file*, with OFFSETS."""
    return attached.use(*file, TlsLibrary.OPENSSL, OFFSETS, user, "/libssl.so", now_s)
