# SPDX-License-Identifier: Apache-2.0
"""A control socket that answers what a test tells it to, and keeps what it was asked."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

Answer = Callable[[dict[str, Any]], dict[str, Any] | bytes | None]
SCHEMA = "agentwall.control/1"


def accepting(request: dict[str, Any]) -> dict[str, Any]:
    """Answer that the wall stands."""
    result = {"sandbox": request.get("container") or "s1", "policy": "p", "phase": None}
    return {"ok": True, "result": {**result, "coverage": "full", "unwatched_ms": 0}}


def refusing(code: str, message: str) -> Answer:
    """Return what answers with an error."""
    return lambda _: {"ok": False, "error": {"code": code, "message": message}}


class ControlRoom:
    """What was asked so far, in order."""

    def __init__(self, path: Path, answer: Answer) -> None:
        self.path = path
        self.answer = answer
        self.requests: list[dict[str, Any]] = []
        self.peers: list[str] = []
        """The cgroup of whoever asked, request by request."""

    def asked(self, name: str) -> list[dict[str, Any]]:
        """Return the requests of one name."""
        return [each for each in self.requests if each["request"] == name]

    def serve(self, connection: socket.socket) -> None:
        """Answer one client; bytes are sent as they are, None leaves without a word."""
        with connection, connection.makefile("rb") as lines, suppress(OSError):
            pid = int.from_bytes(
                connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 4), "little"
            )
            for line in lines:
                request = json.loads(line)
                self.peers.append(Path(f"/proc/{pid}/cgroup").read_text().splitlines()[-1])
                self.requests.append(request)
                answer = self.answer(request)
                if answer is None:
                    return
                if isinstance(answer, dict):
                    answer = json.dumps({"schema": SCHEMA, **answer}).encode() + b"\n"
                connection.sendall(answer)


@contextmanager
def control_room(path: Path, answer: Answer = accepting) -> Iterator[ControlRoom]:
    """Serve a control socket at *path* for the length of the block."""
    room = ControlRoom(path, answer)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    threading.Thread(target=room.serve, args=(connection,), daemon=True).start()

        thread = threading.Thread(target=accept, name="control room")
        thread.start()
        try:
            yield room
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            os.unlink(path)
