# SPDX-License-Identifier: Apache-2.0
"""Processes whose memory nobody can read, for as long as their parent likes.

One thread of such a process reads a page of a FUSE file through /proc/self/mem, which holds its
memory's lock (``mmap_lock``) for reading until the server, the parent, answers; another waits to
hold it for writing. From then on every reader waits, that of ``/proc/PID/cmdline`` among them.
Arguments that lie in a file themselves do not serve: Linux kernel commit 7f7ccc2ccc2e ("proc: do
not access cmdline nor environ from file-backed areas") (in v4.17).
"""

from __future__ import annotations

import ctypes
import mmap
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from rig.own_mounts import enter_own_mounts
from rig.silent_fuse import READ, NoFuseError, answer, code_of, mount_fuse

TESTS = Path(__file__).parents[1]
_PAGE = mmap.PAGESIZE
_NAME = "memory"
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]


@dataclass(frozen=True, slots=True)
class Held:
    """A server and its processes."""

    pids: list[int]
    server: subprocess.Popen[str]

    def connect(self, address: str, port: int) -> None:
        """Have each of them connect once."""
        self._say(f"{address} {port}")

    def release(self) -> None:
        """Let whoever waits read; once and for all."""
        self._say("release")
        assert self.server.stdout is not None, "it is a pipe"
        assert self.server.stdout.readline() == "released\n"

    def _say(self, line: str) -> None:
        assert self.server.stdin is not None, "it is a pipe"
        self.server.stdin.write(line + "\n")
        self.server.stdin.flush()


def held_command(directory: Path, count: int = 1, program: str = sys.executable) -> list[str]:
    """Return the command of a server, to be run in :data:`TESTS`.

    It prints the pids of *count* processes on one line once they are held, or why they are not;
    then it reads lines: ``ADDRESS PORT``, which each is to connect to, or ``release``.

    Args:
        directory: Where it mounts, for itself alone.
        count: How many processes.
        program: The interpreter.
    """
    return [program, "-m", "rig.held_memory", str(directory), str(count)]


@contextmanager
def held_processes(
    directory: Path, cgroup: Path, count: int = 1, program: str = sys.executable
) -> Iterator[Held]:
    """Run a server and its processes in *cgroup*; see :func:`held_command`.

    Raises:
        NoFuseError: It could not be mounted.
    """
    entering = ["sh", "-c", 'echo $$ > "$0/cgroup.procs"; exec "$@"', str(cgroup)]
    server = subprocess.Popen(
        [*entering, *held_command(directory, count, program)],
        cwd=TESTS,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None, "it is a pipe"
    try:
        line = server.stdout.readline().strip()
        if not line.replace(" ", "").isdigit():
            raise NoFuseError(line or "no answer")
        yield Held([int(word) for word in line.split()], server)
    finally:
        # The connection ends with its server: nobody waits any more.
        server.kill()
        server.communicate()


@contextmanager
def held_or_skip(
    directory: Path, cgroup: Path, count: int = 1, program: str = sys.executable
) -> Iterator[Held]:
    """Do as :func:`held_processes`; where there is no FUSE, the test is skipped."""
    with ExitStack() as undo:
        try:
            found = undo.enter_context(held_processes(directory, cgroup, count, program))
        except NoFuseError as err:
            import pytest

            pytest.skip(f"no FUSE here: {err}")
        yield found


@dataclass(slots=True)
class _Server:
    fuse: int
    count: int
    writers: list[int] = field(default_factory=list)
    """A pipe to each process."""
    pids: list[int] = field(default_factory=list)
    held: list[bytes] = field(default_factory=list)
    """Requests that are not answered yet."""
    is_released: bool = False

    def serve(self) -> None:
        is_said = False
        while True:
            pause_s = None if is_said else 0.01
            ready = select.select([self.fuse, sys.stdin], [], [], pause_s)[0]
            if self.fuse in ready:
                self._take(os.read(self.fuse, 1 << 20))
            if sys.stdin in ready:
                text = os.read(sys.stdin.fileno(), 4096).decode()
                if not text:
                    return
                for line in text.splitlines(keepends=True):
                    self._obey(line)
            if not is_said and len(self.held) == self.count and all(map(_is_held, self.pids)):
                is_said = True
                print(*self.pids, flush=True)

    def _take(self, request: bytes) -> None:
        if code_of(request) != READ or self.is_released:
            answer(self.fuse, request)
            return
        self.held.append(request)
        if len(self.held) == self.count:
            for writer in self.writers:
                os.write(writer, b"hold\n")

    def _obey(self, line: str) -> None:
        if line == "release\n":
            self.is_released = True
            for request in self.held:
                answer(self.fuse, request)
            print("released", flush=True)
            return
        for writer in self.writers:
            os.write(writer, line.encode())


def _is_held(pid: int) -> bool:
    # The thread that is to write waits for it: so that only the end of its process wakes it.
    stats = [(each / "stat").read_text() for each in Path(f"/proc/{pid}/task").iterdir()]
    return any(stat.rpartition(")")[2].split()[0] == "D" for stat in stats)


def _start(directory: Path, count: int) -> None:
    enter_own_mounts()
    server = _Server(mount_fuse(directory), count)
    parent = os.getpid()
    for number in range(count):
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(server.fuse)
            _be_held(directory / _NAME, number, reader, parent)
        server.writers.append(writer)
        server.pids.append(pid)
    server.serve()


def _be_held(path: Path, number: int, reader: int, parent: int) -> None:
    try:
        _libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            return
        place = _map(os.open(path, os.O_RDONLY), number * _PAGE)
        memory = os.open("/proc/self/mem", os.O_RDONLY)
        go = threading.Event()
        # Whatever needs new memory comes first: later nobody here gets any.
        _connect(socket.AF_UNIX, "/nowhere")
        threading.Thread(target=_take_memory, args=(go,), daemon=True).start()
        threading.Thread(target=_read, args=(memory, place), daemon=True).start()
        while text := os.read(reader, 256).decode():
            # Each line was written at once, but several may have come by now.
            for line in text.splitlines():
                if line == "hold":
                    go.set()
                    continue
                address, port = line.split()
                _connect(socket.AF_INET, (address, int(port)))
    finally:
        os._exit(0)


def _connect(family: int, remote: object) -> None:
    with socket.socket(family) as one:
        one.connect_ex(remote)


def _read(memory: int, place: int) -> None:
    # The file's server may end first.
    with suppress(OSError):
        os.pread(memory, 1, place)


def _take_memory(go: threading.Event) -> None:
    go.wait()
    _map(-1, 0)


def _map(file: int, offset: int) -> int:
    flags = mmap.MAP_PRIVATE | (mmap.MAP_ANONYMOUS if file < 0 else 0)
    return int(_libc.mmap(None, _PAGE, mmap.PROT_READ, flags, file, offset))


if __name__ == "__main__":
    try:
        _start(Path(sys.argv[1]), int(sys.argv[2]))
    except OSError as err:
        print(err, flush=True)
