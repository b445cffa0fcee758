# SPDX-License-Identifier: Apache-2.0
"""What process 1 of a sandbox (``warden``) and ``launch`` tell each other, a packet a message."""

from __future__ import annotations

import enum
import socket
from dataclasses import dataclass

_MAX_BYTES = 4096


class Word(enum.Enum):
    """What a message says. Down is to the warden, up is from it."""

    CONFINE = "confine"
    """Down: the warden is in its cgroup and may set up its namespaces."""
    RUN = "run"
    """Down: start the command."""
    SIGNAL = "signal"
    """Down: pass a signal on; *number* says which."""
    READY = "ready"
    """Up: confined, without privileges, the command not yet started."""
    FAILED = "failed"
    """Up: confinement failed; *text* says why."""
    RUNNING = "running"
    """Up: the command's program was executed."""
    NOT_EXECUTED = "not-executed"
    """Up: it was not; *number* is the errno."""
    STOPPED = "stopped"
    """Up: a signal stopped the command; *number* says which."""
    EXITED = "exited"
    """Up: the command ended; *number* is its wait status."""


@dataclass(frozen=True, slots=True)
class Message:
    """One packet."""

    word: Word
    number: int = 0
    text: str = ""


def make_channel() -> tuple[socket.socket, socket.socket]:
    """Return both ends of a channel that keeps packets apart."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(channel: socket.socket, word: Word, number: int = 0, text: str = "") -> None:
    """Send one message; do nothing if the other end has gone."""
    packet = f"{word.value} {number} {text}".encode("utf-8", "replace")[:_MAX_BYTES]
    try:
        channel.send(packet, socket.MSG_NOSIGNAL)
    except (BrokenPipeError, ConnectionResetError):
        return


def receive(channel: socket.socket) -> Message | None:
    """Wait for one message; return None when the other end has gone."""
    try:
        packet = channel.recv(_MAX_BYTES)
    except ConnectionResetError:
        return None
    if not packet:
        return None
    word, number, text = packet.decode("utf-8", "replace").split(" ", 2)
    return Message(Word(word), int(number), text)
