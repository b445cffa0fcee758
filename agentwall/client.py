# SPDX-License-Identifier: Apache-2.0
"""Talk to the daemon: what a harness uses to label sandboxes and to learn what was denied.

>>> with Client() as wall:
...     wall.label(sandbox, episode="17", step="3")
...     ...
...     reward = 0.0 if wall.denials(sandbox, episode="17") else score

Nothing beyond the standard library is imported. The protocol is in docs/control.md; the counterpart
is :mod:`agentwall.daemon.control`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import struct
import threading
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass

from agentwall.errors import ControlCode, ControlError, DaemonNotRunningError

SCHEMA = "agentwall.control/1"
CONTROL_SOCKET = "/run/agentwall/control.sock"
MAX_REQUEST, MAX_ANSWER = 1 << 20, 8 << 20
"""Bytes of a line, its end included."""
TIMEOUT_S = 10.0
RELOAD_TIMEOUT_S = 120.0
"""Many rules take long to compile."""
_PIECE = 1 << 16
_DENIED = "permission denied: for root, control.readers and control.operators only"
_ONCE = frozenset({"admit", "stop", "detach"})
"""Requests that are not made again when the connection broke: they may have been carried out."""

NotRunning = DaemonNotRunningError


class Refused(ControlError):
    """Whoever asks has no right to that: ``not-permitted``."""


class NotFound(ControlError):
    """There is no such sandbox: ``not-found``."""


class Invalid(ControlError):
    """The request or one of its arguments is malformed: ``invalid``."""


class Failed(ControlError):
    """It was tried, and failed: ``failed``."""


class Busy(ControlError):
    """There are too many requests already: ``busy``."""


class TimedOut(ControlError):
    """No answer came in time; the daemon may still do it."""


_ERRORS: dict[str, type[ControlError]] = {
    ControlCode.NOT_PERMITTED.value: Refused,
    ControlCode.NOT_FOUND.value: NotFound,
    ControlCode.INVALID.value: Invalid,
    ControlCode.FAILED.value: Failed,
    ControlCode.BUSY.value: Busy,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Denials:
    """What happened in a sandbox, perhaps under some labels only. True if anything was denied."""

    denied: int
    """Attempts that were refused."""
    would_denied: int
    """Attempts that the policy refuses, but its mode let through."""
    lost: int
    """Reports that were lost on the way; what they say is counted, but not listed."""
    complete: bool
    """Whether *denials* lists everything; an old episode's rows are forgotten one day."""
    denials: tuple[Mapping[str, object], ...]
    """``time, remote, name, protocol, rule, file, line, reason, process, count``."""
    detections: tuple[Mapping[str, object], ...]
    """``time, class, dialect, severity, verdict, rule``."""

    def __bool__(self) -> bool:
        cut = any(each.get("verdict") in ("deny", "would-deny") for each in self.detections)
        return bool(self.denied or self.would_denied or cut)

    @property
    def is_clean(self) -> bool:
        """Nothing was denied, nothing detected, and nothing is missing that could say otherwise."""
        return not self and not self.detections and self.complete and not self.lost

    def rules(self) -> tuple[str, ...]:
        """Return what denied, each once: a rule's id, or the reason where no rule matched."""
        named = (str(each.get("rule") or each.get("reason")) for each in self.denials)
        return tuple(dict.fromkeys(named))


class Client:
    """A connection to the daemon; made at the first request and again after the daemon's restart.

    May be used by several threads, one request at a time, and on both sides of a fork. Every method
    raises :class:`NotRunning` where nobody answers and a :class:`ControlError` (:class:`Refused`,
    :class:`NotFound`, :class:`Invalid`, :class:`Failed`, :class:`Busy`, :class:`TimedOut`) where
    the daemon does not do it. A sandbox goes by its id, its container's id or the first four
    characters or more of that, its name, or its cgroup.
    """

    def __init__(
        self, path: str | os.PathLike[str] = CONTROL_SOCKET, *, timeout_s: float = TIMEOUT_S
    ) -> None:
        """Talk to *path*; *timeout_s* holds for one request, its answer included."""
        self._path = os.fspath(path)
        self._timeout_s = timeout_s
        self._socket: socket.socket | None = None
        self._buffer = bytearray()
        self._lock = threading.Lock()
        _clients.add(self)

    def __enter__(self) -> Client:
        with self._lock:
            self._connect(time.monotonic() + self._timeout_s)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next request would make another."""
        with self._lock:
            self._hang_up()

    def status(self) -> dict[str, object]:
        """Return the daemon's state: ``agentwall.status/1``."""
        return self.request("status")

    def sandboxes(self) -> list[dict[str, object]]:
        """Return every sandbox there is."""
        return [dict(each) for each in _rows(self.request("sandbox-list"), "sandboxes")]

    def sandbox(self, sandbox: str) -> dict[str, object]:
        """Return everything about one sandbox."""
        return self.request("sandbox-show", {"sandbox": sandbox})

    def label(
        self, sandbox: str, labels: Mapping[str, str | None] | None = None, /, **more: str | None
    ) -> dict[str, object]:
        """Set labels, and remove those that are None; *labels* are for names such as ``a.b/c``."""
        return self.request(
            "sandbox-label", {"sandbox": sandbox, "labels": {**(labels or {}), **more}}
        )

    def phase(self, sandbox: str, name: str) -> dict[str, object]:
        """Switch the sandbox to another phase of its policy: the label ``phase``."""
        return self.label(sandbox, phase=name)

    def mode(
        self, sandbox: str | None, mode: str, *, reason: str, for_s: float | None = None
    ) -> dict[str, object]:
        """Put ``audit``, ``observe`` or ``enforce`` in place of the policies' mode.

        Args:
            sandbox: None for all of them.
            mode: ``audit`` and ``observe`` let everything through.
            reason: Logged.
            for_s: When it ends by itself, in seconds; at most a day. Only ``enforce`` may go on.
        """
        asked = {"sandbox": sandbox, "mode": mode, "for_s": for_s, "reason": reason}
        return self.request("sandbox-mode", asked)

    def end_mode(self, sandbox: str | None, *, reason: str) -> dict[str, object]:
        """Put the policies' own mode in force again."""
        return self.request("sandbox-mode", {"sandbox": sandbox, "mode": None, "reason": reason})

    def denials(
        self, sandbox: str, labels: Mapping[str, str] | None = None, /, **more: str
    ) -> Denials:
        """Return what was denied in a sandbox while it had all these labels."""
        answer = self.request("denials", {"sandbox": sandbox, "labels": {**(labels or {}), **more}})
        return _read_denials(answer)

    def admit(
        self,
        *,
        pid: int,
        container: str | None = None,
        bundle: str | None = None,
        labels: Mapping[str, str] | None = None,
        policy: str | None = None,
    ) -> dict[str, object]:
        """Put the sandbox of process *pid* under its policy; it is in force at the return.

        Args:
            pid: In the daemon's PID namespace.
            container: The runtime's id.
            bundle: Directory of the OCI bundle.
            labels: OCI labels and annotations.
            policy: Name of one of the scope's; None: the one that matches.
        """
        asked = {"pid": pid, "container": container, "bundle": bundle, "policy": policy}
        return self.request("admit", {**asked, "labels": dict(labels or {})})

    def release(self, sandbox: str) -> dict[str, object]:
        """Let a sandbox go that is empty or ended."""
        return self.request("release", {"sandbox": sandbox})

    def reload(self, *, wait: bool = True) -> dict[str, object]:
        """Read policies and settings again; with *wait*, say what came of it."""
        return self.request("reload", {"wait": wait}, RELOAD_TIMEOUT_S if wait else None)

    def stop(self, *, keep: bool = True) -> dict[str, object]:
        """End the daemon; with *keep*, every sandbox stays behind its wall."""
        return self.request("stop", {"keep": keep})

    def detach(self) -> dict[str, object]:
        """Take the wall away from every sandbox, and end the daemon."""
        return self.request("detach")

    def request(
        self,
        name: str,
        arguments: Mapping[str, object] | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, object]:
        """Make the request *name* and return its result."""
        line = _encode(name, arguments or {})
        wait_s = self._timeout_s if timeout_s is None else timeout_s
        with self._lock:
            try:
                return _read_answer(self._attempt(name, line, time.monotonic() + wait_s))
            except (Refused, NotFound, Invalid, Busy):
                raise
            except TimeoutError:
                # The answer may come yet, and would be taken for that of the next request.
                self._hang_up()
                raise TimedOut(
                    ControlCode.FAILED, f"{self._path}: no answer to {name} within {wait_s:g} s"
                ) from None
            except BaseException:
                self._hang_up()
                raise

    def _attempt(self, name: str, line: bytes, deadline_s: float) -> bytes:
        was_open = self._socket is not None
        try:
            return self._exchange(line, deadline_s)
        except DaemonNotRunningError:
            self._hang_up()
            # The daemon may have been replaced just now.
            if not was_open or name in _ONCE:
                raise
        return self._exchange(line, deadline_s)

    def _exchange(self, line: bytes, deadline_s: float) -> bytes:
        connection = self._connect(deadline_s)
        connection.settimeout(_left_s(deadline_s))
        # What the daemon said before it hung up is still there to be read.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(line)
        return self._read_line(connection, deadline_s)

    def _connect(self, deadline_s: float) -> socket.socket:
        if self._socket is not None and not _has_ended(self._socket):
            return self._socket
        self._hang_up()
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # settimeout() would have connect() give up at once where the queue is full.
            left = struct.pack("ll", int(left_s := _left_s(deadline_s)), int(left_s % 1 * 1e6))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, left)
            connection.connect(self._path)
        except OSError as err:
            connection.close()
            raise self._explain(err) from err
        self._socket = connection
        return connection

    def _explain(self, err: OSError) -> Exception:
        if err.errno == errno.EACCES:
            return Refused(ControlCode.NOT_PERMITTED, f"{self._path}: {_DENIED}")
        if err.errno in (None, errno.EAGAIN):
            return TimedOut(ControlCode.BUSY, f"{self._path}: does not take connections")
        return NotRunning(f"{self._path}: {str(err.strerror).lower()}: is the daemon running?")

    def _read_line(self, connection: socket.socket, deadline_s: float) -> bytes:
        while (end := self._buffer.find(b"\n")) < 0:
            connection.settimeout(_left_s(deadline_s))
            piece = b""
            with contextlib.suppress(ConnectionResetError):
                piece = connection.recv(_PIECE)
            if not piece:
                raise DaemonNotRunningError(f"{self._path}: the daemon left without an answer")
            if len(self._buffer) + len(piece) > MAX_ANSWER:
                raise Failed(ControlCode.FAILED, f"{self._path}: an answer without an end")
            self._buffer += piece
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    def leave_parent(self) -> None:
        """Begin anew; called in a child of fork(), where the lock may be another thread's."""
        self._lock = threading.Lock()
        self._hang_up()

    def _hang_up(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._buffer.clear()


_clients: weakref.WeakSet[Client] = weakref.WeakSet()


def _leave_parents() -> None:
    for client in list(_clients):
        client.leave_parent()


os.register_at_fork(after_in_child=_leave_parents)


def _encode(name: str, arguments: Mapping[str, object]) -> bytes:
    document = {"schema": SCHEMA, "request": name, **arguments}
    try:
        line = json.dumps(document, separators=(",", ":"), allow_nan=False).encode() + b"\n"
    except (TypeError, ValueError) as err:
        raise Invalid(ControlCode.INVALID, f"{name}: {err}") from err
    if len(line) > MAX_REQUEST:
        raise Invalid(ControlCode.INVALID, f"{name}: {len(line)} bytes are too many")
    return line


def _read_answer(line: bytes) -> dict[str, object]:
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError) as err:
        raise Failed(ControlCode.FAILED, f"answer: expected JSON: {err}") from err
    if not isinstance(answer, dict) or answer.get("schema") != SCHEMA:
        raise Failed(ControlCode.FAILED, f"answer: expected schema {SCHEMA}")
    result, error = answer.get("result"), answer.get("error")
    if answer.get("ok") is True and isinstance(result, dict):
        return result
    if not isinstance(error, dict):
        raise Failed(ControlCode.FAILED, "answer: expected a result or an error")
    code = str(error.get("code"))
    known = ControlCode(code) if code in _ERRORS else ControlCode.FAILED
    raise _ERRORS.get(code, Failed)(known, str(error.get("message")))


def _read_denials(answer: Mapping[str, object]) -> Denials:
    return Denials(
        denied=_number(answer, "denied"),
        would_denied=_number(answer, "would_denied"),
        lost=_number(answer, "lost"),
        # An answer that does not say so must not pass for a clean one.
        complete=answer.get("complete") is True,
        denials=_rows(answer, "denials"),
        detections=_rows(answer, "detections"),
    )


def _number(answer: Mapping[str, object], key: str) -> int:
    if isinstance(value := answer.get(key), int):
        return value
    raise Failed(ControlCode.FAILED, f"answer: {key}: expected a number, got {value!r}")


def _rows(answer: Mapping[str, object], key: str) -> tuple[Mapping[str, object], ...]:
    value = answer.get(key)
    if isinstance(value, list) and all(isinstance(each, dict) for each in value):
        return tuple(value)
    raise Failed(ControlCode.FAILED, f"answer: {key}: expected a list of objects")


# The daemon was replaced since, or dropped a connection that was long idle.
def _has_ended(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return not connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _left_s(deadline_s: float) -> float:
    if (left_s := deadline_s - time.monotonic()) <= 0:
        raise TimeoutError
    return left_s
