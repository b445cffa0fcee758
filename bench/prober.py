# SPDX-License-Identifier: Apache-2.0
"""A process in a sandbox that tries all the while what it can reach, and one outside that listens.

``prober.py listen ADDRESS`` opens what :class:`Doors` names and counts who comes. ``prober.py probe
ADDRESS PERMITTED REFUSED`` enters the sandbox that its standard input names. Both end with their
standard input, and say then what they saw, as JSON. Only the standard library: they start fast.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

LOOPBACK = "127.0.0.1"
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: close with a reset, which leaves nothing in TIME_WAIT."""
_TIMEOUT_S = 30.0
_NICE = 5
"""The daemon goes first where processors are few."""
_LAST_ROUNDS = 128
"""That a prober makes once it is told to end, however little it was given to run before."""


@dataclass(frozen=True, slots=True)
class Doors:
    """Ports outside, each of TCP and of UDP; what a stream says at one is sent back."""

    permitted: int
    refused: int


@dataclass(slots=True)
class Seen:
    """What was seen at the end."""

    rounds: int = 0
    """Of the prober: each tries everything once."""
    reached: int = 0
    """Attempts at the refused port that went out or came in, as the prober and the listener see
    it; must be zero."""
    cut: int = 0
    """Attempts at the permitted port that failed after the first that did not; must be zero."""
    broken: int = 0
    """Streams that were open and ended; must be zero."""
    permitted: int = 0
    """Attempts at the permitted port that went well."""
    longest_ms: float = 0.0
    """The longest round: no attempt was made meanwhile."""


# --- Outside ------------------------------------------------------------------------------------


def _bound_pair(address: str) -> tuple[socket.socket, socket.socket]:
    while True:
        stream = socket.create_server((address, 0), backlog=1024)
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            datagrams.bind((address, stream.getsockname()[1]))
        except OSError:
            stream.close()
            datagrams.close()
            continue
        return stream, datagrams


def _listen(address: str) -> None:
    os.nice(_NICE)
    permitted, refused = _bound_pair(address), _bound_pair(address)
    print(permitted[0].getsockname()[1], refused[0].getsockname()[1], flush=True)
    came = 0
    connections: dict[int, socket.socket] = {}
    poller = select.poll()
    for each in (*permitted, *refused, sys.stdin):
        poller.register(each, select.POLLIN)
    while True:
        for fd, _ in poller.poll():
            if fd == sys.stdin.fileno():
                print(json.dumps({"came": came}), flush=True)
                return
            if fd == permitted[0].fileno():
                connection, _ = permitted[0].accept()
                connections[connection.fileno()] = connection
                poller.register(connection, select.POLLIN)
            elif fd == refused[0].fileno():
                refused[0].accept()[0].close()
                came += 1
            elif fd in (permitted[1].fileno(), refused[1].fileno()):
                (permitted if fd == permitted[1].fileno() else refused)[1].recv(2048)
                came += fd == refused[1].fileno()
            elif not _echoed(connections[fd]):
                poller.unregister(fd)
                connections.pop(fd).close()


def _echoed(connection: socket.socket) -> bool:
    try:
        data = connection.recv(4096)
        connection.sendall(data)
    except OSError:
        return False
    return bool(data)


# --- Inside -------------------------------------------------------------------------------------


class _Prober:
    def __init__(self, address: str, permitted: int, refused: int) -> None:
        self._good, self._bad = (address, permitted), (address, refused)
        self.seen: Counter[str] = Counter()
        self._stream: socket.socket | None = None
        self.longest_ns = 0

    def try_all(self) -> None:
        begun_ns = time.monotonic_ns()
        self.seen["rounds"] += 1
        self.seen["reached"] += self._connects(self._bad) + self._sends(self._bad)
        went_well = self._connects(self._good) and self._sends(self._good)
        self.seen["permitted"] += went_well
        self.seen["cut"] += not went_well and self._stream is not None
        if went_well and self._stream is None:
            self._stream = socket.create_connection(self._good, _TIMEOUT_S)
        if self._stream is not None:
            self._talk(self._stream)
        self.longest_ns = max(self.longest_ns, time.monotonic_ns() - begun_ns)

    def _connects(self, to: tuple[str, int]) -> bool:
        try:
            with socket.socket() as one:
                one.settimeout(_TIMEOUT_S)
                one.connect(to)
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        except PermissionError:
            # Of a sandbox that is being bound, even the socket is refused.
            return False
        return True

    def _sends(self, to: tuple[str, int]) -> bool:
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
                one.sendto(b"probe", to)
        except PermissionError:
            return False
        return True

    def _talk(self, stream: socket.socket) -> None:
        try:
            stream.sendall(b"x")
            is_there = stream.recv(1) == b"x"
        except OSError:
            is_there = False
        if not is_there:
            self.seen["broken"] += 1
            stream.close()
            self._stream = None


def _probe(address: str, permitted: int, refused: int) -> None:
    os.nice(_NICE)
    print("ready", flush=True)
    # It enters the sandbox only when told to, and makes its first socket there.
    cgroup = sys.stdin.readline().rstrip("\n")
    if not cgroup:
        return
    Path(cgroup, "cgroup.procs").write_text("0")
    prober = _Prober(address, permitted, refused)
    print("inside", flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        prober.try_all()
    for _ in range(_LAST_ROUNDS):
        prober.try_all()
    seen = {**prober.seen, "longest_ms": prober.longest_ns / 1e6}
    print(json.dumps(seen), flush=True)


# --- Starting them ------------------------------------------------------------------------------


def _command(*arguments: str | int) -> list[str]:
    return [sys.executable, "-I", "-S", str(Path(__file__)), *map(str, arguments)]


@contextmanager
def listening(address: str = LOOPBACK) -> Iterator[tuple[Doors, Seen]]:
    """Open doors for the length of the block; who came at the refused one is told at its end."""
    seen = Seen()
    with _talking(_command("listen", address)) as process:
        assert process.stdout is not None
        yield Doors(*map(int, process.stdout.readline().split())), seen
        seen.reached += json.loads(process.communicate(timeout=30)[0])["came"]


@dataclass(slots=True)
class Prober:
    """A prober that waits outside for a sandbox to enter."""

    process: subprocess.Popen[str]
    seen: Seen = field(default_factory=Seen)
    """Filled in by :meth:`leave`."""

    def enter(self, cgroup: Path) -> None:
        """Have it join *cgroup* and try both doors from then on.

        Raises:
            RuntimeError: It cannot.
        """
        assert self.process.stdin is not None
        self.process.stdin.write(f"{cgroup}\n")
        self.process.stdin.flush()
        self._expect("inside")

    def _expect(self, line: str) -> None:
        assert self.process.stdout is not None
        if self.process.stdout.readline().rstrip("\n") != line:
            raise RuntimeError(f"the prober: expected it to be {line}, got its end")

    def leave(self) -> Seen:
        """End it, and return what it saw.

        Raises:
            RuntimeError: It failed, or never entered.
        """
        said = self.process.communicate(timeout=120)[0]
        if self.process.returncode != 0 or not said:
            raise RuntimeError("the prober failed")
        for name, count in json.loads(said).items():
            setattr(self.seen, name, count)
        return self.seen


@contextmanager
def waiting(doors: Doors, address: str = LOOPBACK) -> Iterator[Prober]:
    """Start a prober that is to enter a sandbox; at the end of the block it is gone."""
    with _talking(_command("probe", address, doors.permitted, doors.refused)) as process:
        prober = Prober(process)
        prober._expect("ready")
        yield prober


@contextmanager
def probing(cgroup: Path, doors: Doors, address: str = LOOPBACK) -> Iterator[Seen]:
    """Try both doors from inside *cgroup* for the length of the block; filled in at its end."""
    with waiting(doors, address) as prober:
        prober.enter(cgroup)
        yield prober.seen
        prober.leave()


@contextmanager
def _talking(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()


if __name__ == "__main__":
    if sys.argv[1] == "listen":
        _listen(sys.argv[2])
    else:
        _probe(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
