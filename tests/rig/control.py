# SPDX-License-Identifier: Apache-2.0
"""A real ControlServer on a real socket, with a handler of the test's own, in a thread."""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from agentwall.daemon.callers import Caller
from agentwall.daemon.config_groups import Groups
from agentwall.daemon.connections import Deferred, Result
from agentwall.daemon.control import ControlServer
from agentwall.daemon.control_socket import make_control_socket
from agentwall.daemon.refusals import Refusal
from rig.cli import environment

TIMEOUT_S = 60.0
NOBODY = Groups(readers=None, operators=None)

_ASK = """
import socket, sys
with socket.socket(socket.AF_UNIX) as asking:
    asking.settimeout(60)
    asking.connect(sys.argv[1])
    try:
        asking.sendall(sys.argv[2].encode() + b"\\n")
    except BrokenPipeError:
        pass
    print(asking.makefile().readline())
"""


@dataclass
class Clock:
    """What the server takes for the time."""

    now_s: float = 0.0


@dataclass
class Served:
    """A server that runs, and what came of it."""

    path: Path
    server: ControlServer
    clock: Clock
    calls: list[tuple[Caller, str, Mapping[str, object]]] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    turns: int = 0
    """How often poll() returned."""
    _jobs: list[Callable[[], None]] = field(default_factory=list)
    _wake: socket.socket | None = None

    def connect(self) -> socket.socket:
        """Return a connection."""
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(TIMEOUT_S)
        connection.connect(str(self.path))
        return connection

    def ask(self, line: str | bytes, *prefix: str | Path) -> dict[str, object]:
        """Send one line from a process of its own, run by *prefix*, and return the answer."""
        text = line.decode() if isinstance(line, bytes) else line
        done = subprocess.run(
            [*map(str, prefix), sys.executable, "-I", "-c", _ASK, str(self.path), text],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if not done.stdout.strip():
            raise ConnectionError(done.stderr)
        answer = json.loads(done.stdout)
        assert isinstance(answer, dict)
        return answer

    def in_loop(self, job: Callable[[], None]) -> None:
        """Have the thread of the poll loop do something."""
        done = threading.Event()

        def run() -> None:
            job()
            done.set()

        self._jobs.append(run)
        assert self._wake is not None
        self._wake.send(b"x")
        assert done.wait(TIMEOUT_S)


@contextmanager
def serving(
    path: Path,
    handler: Callable[[Caller, str, Mapping[str, object]], Result | Deferred] | None = None,
    *,
    groups: Groups = NOBODY,
    is_inside: Callable[[str], bool] = lambda _: False,
) -> Iterator[Served]:
    """Serve at *path* until the end; *handler* answers with the request's name otherwise."""
    control = make_control_socket(path, groups)
    calls: list[tuple[Caller, str, Mapping[str, object]]] = []
    refusals: list[Refusal] = []

    def handle(caller: Caller, name: str, arguments: Mapping[str, object]) -> Result | Deferred:
        calls.append((caller, name, arguments))
        return handler(caller, name, arguments) if handler else {"request": name}

    clock = Clock()
    server = ControlServer(
        control.socket,
        groups,
        handle,
        is_inside=is_inside,
        on_refusal=refusals.append,
        clock=lambda: clock.now_s,
    )
    ours, theirs = socket.socketpair()
    served = Served(path, server, clock, calls, refusals, _wake=ours)
    thread = threading.Thread(target=_loop, args=(served, theirs))
    thread.start()
    try:
        yield served
    finally:
        ours.close()
        thread.join(TIMEOUT_S)
        theirs.close()
        control.close()
        assert not thread.is_alive()


def _loop(served: Served, wake: socket.socket) -> None:
    poller = select.poll()
    served.server.register(poller)
    poller.register(wake, select.POLLIN)
    while True:
        for fd, events in poller.poll():
            served.turns += 1
            if fd != wake.fileno():
                served.server.ready(fd, events)
            elif not wake.recv(1):
                served.server.close()
                return
            else:
                served._jobs.pop(0)()


def request(name: str, **arguments: object) -> bytes:
    """Return the line of a request."""
    document = {"schema": "agentwall.control/1", "request": name, **arguments}
    return json.dumps(document).encode() + b"\n"


def read_line(connection: socket.socket) -> dict[str, object]:
    """Return the next answer.

    Raises:
        ConnectionError: There is none.
    """
    line = b""
    while not line.endswith(b"\n"):
        piece = connection.recv(1)
        if not piece:
            raise ConnectionError("the connection ended")
        line += piece
    answer = json.loads(line)
    assert isinstance(answer, dict)
    return answer
