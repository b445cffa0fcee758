# SPDX-License-Identifier: Apache-2.0
"""A process that executes a file which it serves itself through FUSE, and has stopped to serve.

Who opens that file waits for as long as the process likes. Protocol: include/uapi/linux/fuse.h.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import select
import signal
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rig.own_mounts import enter_own_mounts

_TESTS = Path(__file__).parents[1]
_PAGE = mmap.PAGESIZE
_LOOKUP, _FORGET, _GETATTR, _OPEN, _INIT = 1, 2, 3, 14, 26
READ = 15
_ROOT, _FILE = 1, 2
_PAGES = 64
"""Of the file; all alike."""
_ENOSYS = 38
_libc = ctypes.CDLL(None, use_errno=True)


class NoFuseError(Exception):
    """This machine has no FUSE, or the caller may not mount; the message says why."""


@contextmanager
def process_on_silent_fuse(directory: Path, name: str) -> Iterator[int]:
    """Run a process that has mapped *name* in *directory*, which only that process sees.

    Raises:
        NoFuseError: It could not be mounted.
    """
    # A process that has not yet mapped whatever other tests have imported.
    command = [sys.executable, "-m", "rig.silent_fuse", str(directory), name]
    server = subprocess.Popen(command, cwd=_TESTS, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None, "it is a pipe"
    try:
        answer = server.stdout.readline().strip()
        if not answer.isdigit():
            raise NoFuseError(answer or "no answer")
        yield int(answer)
    finally:
        # The connection ends with its server: nobody waits any more.
        server.kill()
        server.communicate()


def _serve(directory: Path, name: str) -> None:
    enter_own_mounts()
    fuse = mount_fuse(directory)
    mapped, has_mapped = os.pipe()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        os.close(fuse)
        _map(directory / name, has_mapped, parent)
    os.close(has_mapped)
    while mapped not in select.select([fuse, mapped], [], [])[0]:
        answer(fuse, os.read(fuse, 1 << 20))
    print(child if os.read(mapped, 1) else "nothing could be mapped", flush=True)
    signal.pause()


def mount_fuse(directory: Path) -> int:
    """Mount a file system of one file, of any name, on *directory*; return where it is served.

    Raises:
        OSError: It could not be mounted.
    """
    # Not inherited by what maps the file: the connection is to end with its server.
    fuse = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0".encode()
    if _libc.mount(b"silent", os.fsencode(directory), b"fuse.silent", 0, options) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "mount")
    return fuse


def code_of(request: bytes) -> int:
    """Return what a request of the kernel wants, such as :data:`READ`."""
    return int(struct.unpack_from("<II", request)[1])


def _map(path: Path, has_mapped: int, parent: int) -> None:
    try:
        _libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        fd = os.open(path, os.O_RDONLY)
        memory = mmap.mmap(fd, _PAGE, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)
        if os.getppid() == parent and memory[:4] == b"\x7fELF":
            os.write(has_mapped, b"x")
            signal.pause()
    finally:
        os._exit(0)


def answer(fuse: int, request: bytes) -> None:
    """Answer one request of the kernel that was read from *fuse*."""
    _, code, unique, node = struct.unpack_from("<IIQQ", request)
    if code == _FORGET:
        return
    error, body = 0, b""
    if code == _INIT:
        body = struct.pack("<IIIIHHII", 7, 31, 0, 0, 1, 1, _PAGE, 1).ljust(64, b"\0")
    elif code == _LOOKUP:
        body = struct.pack("<QQQQII", _FILE, 0, 60, 60, 0, 0) + _attributes(_FILE)
    elif code == _GETATTR:
        body = struct.pack("<QII", 60, 0, 0) + _attributes(node)
    elif code == _OPEN:
        # FOPEN_KEEP_CACHE, or a second open would wait for what is being read.
        body = struct.pack("<QII", 1, 2, 0)
    elif code == READ:
        body = b"\x7fELF".ljust(_PAGE, b"\0")
    else:
        error = -_ENOSYS
    os.write(fuse, struct.pack("<IiQ", 16 + len(body), error, unique) + body)


def _attributes(node: int) -> bytes:
    mode = stat.S_IFDIR | 0o755 if node == _ROOT else stat.S_IFREG | 0o755
    numbers = struct.pack("<6Q3I", node, _PAGES * _PAGE, 8 * _PAGES, 0, 0, 0, 0, 0, 0)
    return numbers + struct.pack("<7I", mode, 1, 0, 0, 0, _PAGE, 0)


if __name__ == "__main__":
    try:
        _serve(Path(sys.argv[1]), sys.argv[2])
    except OSError as err:
        print(err, flush=True)
