# SPDX-License-Identifier: Apache-2.0
"""The control socket's server, for the daemon's poll loop: requests in, answers out, never a block.

The protocol is in docs/control.md, its counterpart :mod:`agentwall.client`. What the requests mean
is the handler's business; here it is decided who may make them.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from agentwall.daemon.callers import (
    NEEDED,
    Caller,
    IsInside,
    Peer,
    Rights,
    permits,
    rights_of,
)
from agentwall.daemon.config_groups import Groups
from agentwall.daemon.connections import Connection, Deferred, Result
from agentwall.daemon.control_messages import (
    DEFECT,
    asked_for,
    decode_request,
    encode_error,
    encode_result,
    shown,
)
from agentwall.daemon.refusals import Refusal, Refusals
from agentwall.errors import AgentwallError, ControlCode, ControlError

MAX_CLIENTS = 64
MAX_UNSENT = 8 << 20
"""Bytes of answers that wait to leave, of all clients together."""
MAX_UNREAD = 8 << 20
"""Bytes of requests under way, of all clients together."""
IDLE_S = 60.0
"""How long a client may say nothing where another waits for its place."""
_ACCEPTS = 16
"""Connections that are accepted at a time, before others have their turn."""

_LOGGER = logging.getLogger(__name__)

Handler = Callable[[Caller, str, Mapping[str, object]], Result | Deferred]
"""Carries out a request, or raises an AgentwallError: a ControlError with its code, any other as
``failed``. The arguments are as they came; :mod:`agentwall.daemon.arguments` reads them."""


class Poller(Protocol):
    """``select.poll`` or ``select.epoll``, whose events are the same numbers."""

    def register(self, fd: int, eventmask: int = ..., /) -> object:
        """Watch *fd*."""

    def modify(self, fd: int, eventmask: int, /) -> object:
        """Watch it for something else."""

    def unregister(self, fd: int, /) -> object:
        """Watch it no more."""


class ControlServer:
    """Serves the clients of one or several listening sockets; never raises for what they do."""

    def __init__(
        self,
        listening: socket.socket | Sequence[socket.socket],
        groups: Groups,
        handler: Handler,
        *,
        is_inside: IsInside,
        on_refusal: Callable[[Refusal], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Serve *listening*: sockets that :mod:`agentwall.daemon.control_socket` made or took.

        Args:
            groups: Who has rights; may be replaced at any time.
            handler: Called for every request that is permitted.
            is_inside: Called for every request with the cgroup of whoever makes it.
            on_refusal: Called for requests that are not permitted, within bounds.
            clock: Monotonic, in seconds.
        """
        sockets = [listening] if isinstance(listening, socket.socket) else listening
        self._listening = {each.fileno(): each for each in sockets}
        self.groups = groups
        self._handler = handler
        self._is_inside = is_inside
        self._clock = clock
        self._poller: Poller | None = None
        self._connections: dict[int, Connection] = {}
        # Without a free descriptor nothing can be accepted, and so nothing turned away either.
        self._spare = _open_spare()
        self._refusals = Refusals(on_refusal, clock())

    def register(self, poller: Poller) -> None:
        """Have *poller* watch this server's descriptors from now on."""
        self._poller = poller
        for fd in self._listening:
            poller.register(fd, select.POLLIN)

    def filenos(self) -> list[int]:
        """Return the descriptors whose events are for :meth:`ready`."""
        return [*self._listening, *self._connections]

    def owns(self, fd: int) -> bool:
        """Say whether events of *fd* are for :meth:`ready`."""
        return fd in self._listening or fd in self._connections

    def ready(self, fd: int, events: int) -> None:
        """Serve the descriptor that poll() returned with *events*."""
        if listening := self._listening.get(fd):
            self._accept(listening)
        elif connection := self._connections.get(fd):
            self._serve(connection, events)

    @property
    def refused(self) -> int:
        """How many requests were refused."""
        return self._refusals.count

    def close(self) -> None:
        """Send what answers the kernel takes at once, and close every connection.

        The listening sockets stay: they are the caller's.
        """
        for connection in list(self._connections.values()):
            with contextlib.suppress(OSError):
                connection.send(self._clock())
            self._drop(connection)
        if self._poller is not None:
            for fd in self._listening:
                self._poller.unregister(fd)
        self._listening.clear()
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(_ACCEPTS):
            try:
                accepted, _ = listening.accept()
            except BlockingIOError:
                return
            except OSError as err:
                # ECONNABORTED and the like are the client's affair.
                if err.errno in (errno.EMFILE, errno.ENFILE):
                    self._turn_away(listening)
                    return
                continue
            self._admit(accepted)

    def _admit(self, accepted: socket.socket) -> None:
        accepted.setblocking(False)
        connection = Connection(accepted, Peer(accepted), self._clock())
        caller = connection.peer.look()
        rights = Rights.NONE if caller is None else self._rights(caller)
        connection.is_stranger = rights is Rights.NONE
        if len(self._connections) >= MAX_CLIENTS and not self._make_room(rights):
            with contextlib.suppress(OSError):
                busy = ControlError(ControlCode.BUSY, f"there are {MAX_CLIENTS} clients already")
                connection.answer(encode_error(busy))
                connection.send(self._clock())
            connection.close()
            return
        self._connections[connection.fileno] = connection
        connection.interest = connection.wanted()
        if self._poller is not None:
            self._poller.register(connection.fileno, connection.interest)

    # Level-triggered poll() would come back at once for a connection that cannot be accepted.
    def _turn_away(self, listening: socket.socket) -> None:
        if self._spare is not None:
            os.close(self._spare)
        with contextlib.suppress(OSError):
            listening.accept()[0].close()
        self._spare = _open_spare()
        _LOGGER.warning("control: a client was turned away: no free descriptors")

    # Whoever has no rights goes first, then whoever is idle, and for root anybody else's client:
    # the switch of 3 a.m. must not wait for a harness.
    def _make_room(self, rights: Rights) -> bool:
        clients = sorted(self._connections.values(), key=lambda each: each.active_s)
        for client in clients:
            if client.is_stranger and rights is not Rights.NONE:
                self._drop(client)
                return True
        for client in clients:
            if client.waiting is None and self._clock() - client.active_s >= IDLE_S:
                self._drop(client)
                return True
        for client in clients:
            if rights is Rights.ALL and client.peer.credentials.uid != 0:
                self._drop(client)
                return True
        return False

    def _serve(self, connection: Connection, events: int) -> None:
        now_s = self._clock()
        try:
            if events & (select.POLLERR | select.POLLNVAL):
                raise BrokenPipeError
            if events & select.POLLOUT:
                connection.send(now_s)
            if events & select.POLLIN:
                connection.receive(now_s)
            elif events & select.POLLHUP:
                raise BrokenPipeError
            if connection.is_idle:
                self._next(connection)
            # Most answers leave at once, without another turn of the loop.
            connection.send(now_s)
        except OSError:
            self._drop(connection)
            return
        self._settle(connection)

    def _settle(self, connection: Connection) -> None:
        if connection.fileno not in self._connections:
            return
        is_done = connection.is_idle and (
            connection.is_leaving or (connection.has_ended and not connection.has_line())
        )
        if is_done:
            self._drop(connection)
            return
        interest = connection.wanted()
        if interest != connection.interest and self._poller is not None:
            self._poller.modify(connection.fileno, interest)
        connection.interest = interest

    def _next(self, connection: Connection) -> None:
        if connection.is_leaving:
            return
        if connection.is_too_long():
            self._give_up(connection, f"expected a line of at most {connection.max_line} bytes")
        elif connection.has_line():
            self._request(connection)
        elif connection.unread > MAX_UNREAD // MAX_CLIENTS and self._unread() > MAX_UNREAD:
            self._give_up(connection, "too many long requests at once", ControlCode.BUSY)

    def _unread(self) -> int:
        return sum(each.unread for each in self._connections.values())

    # Where its next line would begin cannot be told.
    def _give_up(
        self, connection: Connection, why: str, code: ControlCode = ControlCode.INVALID
    ) -> None:
        if connection.is_stranger:
            self._refuse(connection, None, b"", "no rights here")
            return
        connection.discard()
        connection.is_leaving = True
        self._answer(connection, ControlError(code, why))

    def _request(self, connection: Connection) -> None:
        callers = connection.callers()
        line = connection.take_line()
        if callers is None:
            why = "whoever asks has ended, or cannot be told"
            self._refuse(connection, None, line, why)
            return
        # A request is worth as much as the least of those who had a part in it.
        rights, caller = min(
            ((self._rights(each), each) for each in callers), key=lambda pair: pair[0]
        )
        if rights is Rights.NONE:
            inside = self._is_inside(caller.cgroup)
            why = f"it is in {caller.cgroup}" if inside else "it is in no group with rights"
            self._refuse(connection, caller, line, why)
            return
        try:
            name, arguments = decode_request(line)
            if not permits(rights, name):
                needs = f"that takes {_NEEDS[NEEDED[name]]}"
                self._refusals.tell(caller, name, needs, self._clock())
                raise ControlError(ControlCode.NOT_PERMITTED, f"{name}: {needs}")
            outcome = self._carry_out(caller, name, arguments)
        except ControlError as err:
            self._answer(connection, err)
            return
        if isinstance(outcome, Deferred):
            connection.waiting = outcome
            outcome.wait(lambda result: self._late_answer(connection, outcome, result))
        else:
            self._answer(connection, outcome)

    def _carry_out(
        self, caller: Caller, name: str, arguments: Mapping[str, object]
    ) -> Result | Deferred:
        if name not in NEEDED:
            raise ControlError(ControlCode.INVALID, f"request: no such request: {shown(name)}")
        try:
            return self._handler(caller, name, arguments)
        except ControlError:
            raise
        except AgentwallError as err:
            raise ControlError(ControlCode.FAILED, str(err)) from err
        except Exception as err:
            # A defect in one request must not end the daemon, nor go unseen.
            _LOGGER.exception("control: %s of %s", name, caller)
            raise ControlError(ControlCode.FAILED, f"{name}: {DEFECT}") from err

    def _late_answer(
        self, connection: Connection, deferred: Deferred, outcome: Result | ControlError
    ) -> None:
        if connection.waiting is not deferred:
            return
        connection.waiting = None
        self._answer(connection, outcome)
        # During the request itself it is not yet waiting, and _serve() goes on with it.
        self._settle(connection)

    def _answer(self, connection: Connection, outcome: Result | ControlError) -> None:
        if isinstance(outcome, ControlError):
            line = encode_error(outcome)
        else:
            line = encode_result(outcome)
        self._make_space(connection, len(line))
        connection.answer(line)

    # Slow readers cost memory: whoever has been the slowest goes.
    def _make_space(self, newcomer: Connection, size: int) -> None:
        slow = [each for each in self._connections.values() if each.unsent and each is not newcomer]
        slow.sort(key=lambda each: each.active_s)
        unsent = size + sum(each.unsent for each in slow)
        for each in slow:
            if unsent <= MAX_UNSENT:
                return
            unsent -= each.unsent
            self._drop(each)

    def _refuse(self, connection: Connection, caller: Caller | None, line: bytes, why: str) -> None:
        connection.discard()
        connection.is_leaving = True
        who = connection.peer.credentials if caller is None else caller
        self._refusals.tell(who, asked_for(line), why, self._clock())
        # Why is not for whoever asks: it could learn where the walls are.
        self._answer(connection, ControlError(ControlCode.NOT_PERMITTED, "you have no rights here"))

    def _rights(self, caller: Caller) -> Rights:
        return rights_of(caller, self.groups, self._is_inside)

    def _drop(self, connection: Connection) -> None:
        if self._connections.pop(connection.fileno, None) is None:
            return
        if self._poller is not None:
            self._poller.unregister(connection.fileno)
        connection.close()


def _open_spare() -> int | None:
    try:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


_NEEDS = {
    Rights.READ: "a member of control.readers",
    Rights.OPERATE: "a member of control.operators",
    Rights.ALL: "root",
}
