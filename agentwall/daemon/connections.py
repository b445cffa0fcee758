# SPDX-License-Identifier: Apache-2.0
"""One client of the control socket: lines in, lines out, nothing that blocks, all of it bounded.

:mod:`agentwall.daemon.control` accepts connections and answers requests.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Mapping

from agentwall.client import MAX_REQUEST
from agentwall.daemon.callers import Caller, Credentials, Peer, find_sender, receive
from agentwall.errors import ControlError

MAX_SENDERS = 4
"""Processes that may have had a part in what is not answered yet."""
MAX_STRANGER_LINE = 4096
"""Bytes of a line of whoever has no rights, read only to say in the log what it asked for."""
_PIECE = 1 << 16

Result = Mapping[str, object]
"""JSON values only."""


class Deferred:
    """An answer that comes later. The daemon makes one, returns it, and completes it once.

    Only from the thread that runs the poll loop.
    """

    def __init__(self) -> None:
        self._outcome: Result | ControlError | None = None
        self._answer: Callable[[Result | ControlError], None] | None = None
        self.is_wanted = True
        """Whether somebody still waits; what was begun may be given up otherwise."""

    def complete(self, result: Result) -> None:
        """Answer with *result*."""
        self._settle(result)

    def fail(self, error: ControlError) -> None:
        """Answer with *error*."""
        self._settle(error)

    def wait(self, answer: Callable[[Result | ControlError], None]) -> None:
        """Have *answer* called with what comes, at once if it is there."""
        self._answer = answer
        if self._outcome is not None:
            answer(self._outcome)

    def forget(self) -> None:
        """Note that nobody waits any more."""
        self.is_wanted = False
        self._answer = None

    def _settle(self, outcome: Result | ControlError) -> None:
        if self._outcome is not None:
            raise RuntimeError("a deferred answer was given twice")
        self._outcome = outcome
        if self._answer is not None:
            self._answer(outcome)


class Connection:
    """One client. Requests are answered one after the other: at most one answer waits to leave."""

    def __init__(self, connection: socket.socket, peer: Peer, now_s: float) -> None:
        self._socket = connection
        self._incoming = bytearray()
        self._outgoing = memoryview(b"")
        self._senders: set[Credentials] = set()
        self._is_unknown = False
        self._scanned = 0
        self.peer = peer
        self.fileno = connection.fileno()
        self.waiting: Deferred | None = None
        """The answer that is to come before the next request is looked at."""
        self.has_ended = False
        """The client sends nothing more; what it sent is still answered."""
        self.is_leaving = False
        """It is closed as soon as its answer has left."""
        self.active_s = now_s
        """When bytes last went either way."""
        self.is_stranger = False
        """It had no rights when it connected."""
        self.interest = 0
        """What it is registered for with the poller."""

    @property
    def unread(self) -> int:
        """Bytes that were received and not looked at."""
        return len(self._incoming)

    @property
    def unsent(self) -> int:
        """Bytes of an answer that have not left."""
        return len(self._outgoing)

    @property
    def is_idle(self) -> bool:
        """Nothing is under way but perhaps the beginning of a request."""
        return not self.unsent and self.waiting is None

    def wanted(self) -> int:
        """Return the poll events this connection waits for."""
        if self.waiting is not None:
            # Nothing but its end, which poll() tells unasked.
            return 0
        if self.unsent or self.has_line():
            # Writable at once where a line waits: every client has its turn, one line a turn.
            return select.POLLOUT
        return 0 if self.has_ended else select.POLLIN

    @property
    def max_line(self) -> int:
        """How long a line may be."""
        return MAX_STRANGER_LINE if self.is_stranger else MAX_REQUEST

    def has_line(self) -> bool:
        """Say whether a whole line waits to be looked at."""
        found = self._incoming.find(b"\n", self._scanned)
        if found < 0:
            # Or a line that comes byte by byte is searched from its start each time.
            self._scanned = len(self._incoming)
        return found >= 0

    def is_too_long(self) -> bool:
        """Say whether the line under way is longer than lines may be."""
        end = self._incoming.find(b"\n", self._scanned)
        return (len(self._incoming) if end < 0 else end + 1) > self.max_line

    def take_line(self) -> bytes:
        """Return the next line, without its end; there has to be one."""
        end = self._incoming.index(b"\n")
        line = bytes(self._incoming[:end])
        del self._incoming[: end + 1]
        self._scanned = 0
        return line

    def discard(self) -> None:
        """Forget what was received."""
        self._incoming.clear()
        self._scanned = 0

    def receive(self, now_s: float) -> None:
        """Take in a piece of what is there.

        Raises:
            OSError: The connection is broken.
        """
        try:
            data, sender = receive(self._socket, _PIECE)
        except BlockingIOError:
            return
        if not data:
            self.has_ended = True
            return
        if not self._incoming:
            self._senders.clear()
            self._is_unknown = False
        if sender is None or len(self._senders) >= MAX_SENDERS:
            self._is_unknown = True
        elif sender.pid != self.peer.credentials.pid:
            self._senders.add(sender)
        self._incoming += data
        self.active_s = now_s

    def callers(self) -> list[Caller] | None:
        """Return everybody who had a part in the next line; None if one of them cannot be told.

        Whoever connected has one always. Before :meth:`take_line`.
        """
        if self._is_unknown:
            return None
        found = []
        for caller in (self.peer.look(), *map(find_sender, self._senders)):
            if caller is None:
                return None
            found.append(caller)
        return found

    def answer(self, line: bytes) -> None:
        """Have *line*, its end included, leave; the one before must have."""
        self._outgoing = memoryview(line)

    def send(self, now_s: float) -> None:
        """Send what the kernel takes of the answer.

        Raises:
            OSError: The connection is broken.
        """
        if not self.unsent:
            return
        try:
            sent = self._socket.send(self._outgoing, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return
        self._outgoing = self._outgoing[sent:]
        self.active_s = now_s

    def close(self) -> None:
        """Close the connection, and tell whoever works on an answer that nobody waits."""
        if self.waiting is not None:
            self.waiting.forget()
            self.waiting = None
        self._outgoing = memoryview(b"")
        self._socket.close()
        self.peer.close()
