# SPDX-License-Identifier: Apache-2.0
"""Process 1 of a sandbox: confines itself, starts the command, reaps, passes signals on.

It has no more rights than the command, and outlives agentwall: when that is killed the command
goes on behind the wall, and when the command ends the warden does, and with it, as the kernel has
it for process 1 of a PID namespace, every process left in the sandbox.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass

from agentwall.errors import HostError
from agentwall.host import libc
from agentwall.host.identity import Identity
from agentwall.host.messages import Word, receive, send
from agentwall.host.namespaces import Confinement, enter_confinement
from agentwall.host.privileges import drop_privileges, protect_memory
from agentwall.host.seccomp import install_filter
from agentwall.host.signals import SignalQueue

_GROUP_KILL_S = 2.0
"""How much later than the warden agentwall may read one signal to a process group: it may be busy,
and so may the machine."""
_GROUP_KILL_WAIT_MS = 3
_EXIT_FAILED = 125


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A command and everything it starts with."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    identity: Identity
    confinement: Confinement
    kept_capabilities: tuple[str, ...]
    families: frozenset[int] | None
    """The only socket families whose sockets it may make; None: all, and io_uring."""
    kept_descriptors: tuple[int, ...]
    """Those of 0-2 that are open, too."""


def run_warden(launch: Launch, channel: socket.socket, signals: SignalQueue) -> None:
    """Be process 1 of a sandbox until its command ends; never returns to the caller's code.

    To be called right after fork(), with *signals* blocked. Whatever happens ends in _exit(2), so
    that nothing of the parent's clean-up is run twice.
    """
    try:
        if _confine(launch, channel, signals):
            _Warden(launch, channel, signals).serve()
            os._exit(0)
    except (OSError, HostError) as err:
        send(channel, Word.FAILED, text=str(err.strerror if isinstance(err, OSError) else err))
    finally:
        os._exit(_EXIT_FAILED)


def _confine(launch: Launch, channel: socket.socket, signals: SignalQueue) -> bool:
    if receive(channel) is None:
        return False
    enter_confinement(launch.confinement)
    libc.close_others((*launch.kept_descriptors, channel.fileno(), signals.fileno()))
    drop_privileges(launch.identity, launch.kept_capabilities)
    install_filter(launch.families)
    # The command has the same user: it must not reach the channel through this process.
    protect_memory()
    send(channel, Word.READY)
    return receive(channel) is not None


class _Warden:
    def __init__(self, launch: Launch, channel: socket.socket, signals: SignalQueue) -> None:
        self._launch = launch
        self._channel = channel
        self._signals = signals
        self._seen: dict[signal.Signals, float] = {}
        self._command = 0
        self._has_ended = False

    def serve(self) -> None:
        """Start the command and see it through."""
        self._command, errno = _start(self._launch, self._signals)
        if errno:
            send(self._channel, Word.NOT_EXECUTED, errno)
            return
        send(self._channel, Word.RUNNING)
        # A reader of the command's output sees its end when the command ends, not the warden.
        libc.close_others((self._channel.fileno(), self._signals.fileno()))
        poller = select.poll()
        poller.register(self._signals.fileno(), select.POLLIN)
        poller.register(self._channel.fileno(), select.POLLIN)
        is_attended = True
        while not (self._has_ended and not is_attended):
            ready = {descriptor for descriptor, _ in poller.poll()}
            if self._signals.fileno() in ready:
                self._read_signals()
            if is_attended and self._channel.fileno() in ready and not self._obey():
                is_attended = False
                poller.unregister(self._channel.fileno())

    def _read_signals(self) -> None:
        for received in self._signals.read():
            if received.number == signal.SIGCHLD:
                self._reap()
            elif not received.is_from_kernel:
                self._seen[received.number] = time.monotonic()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid == self._command:
                self._tell(status)

    def _tell(self, status: int) -> None:
        if os.WIFSTOPPED(status):
            send(self._channel, Word.STOPPED, os.WSTOPSIG(status))
        else:
            self._has_ended = True
            send(self._channel, Word.EXITED, status)

    def _obey(self) -> bool:
        message = receive(self._channel)
        if message is None:
            return False
        if message.word is Word.SIGNAL and not self._has_ended:
            self._pass_on(signal.Signals(message.number))
        return True

    def _pass_on(self, number: signal.Signals) -> None:
        # kill(2) to a process group reaches agentwall, the warden and the command: passing it on
        # would make it arrive twice. The warden tells by having received it as well.
        poller = select.poll()
        poller.register(self._signals.fileno(), select.POLLIN)
        if number not in self._seen and poller.poll(_GROUP_KILL_WAIT_MS):
            self._read_signals()
        seen_s = self._seen.pop(number, None)
        was_for_group = seen_s is not None and time.monotonic() - seen_s < _GROUP_KILL_S
        if self._has_ended or (was_for_group and self._is_in_group()):
            return
        os.kill(self._command, number)

    def _is_in_group(self) -> bool:
        # A group whose leader is outside the PID namespace is 0 here, for all who are in it.
        return os.getpgid(self._command) == os.getpgrp()


def _start(launch: Launch, signals: SignalQueue) -> tuple[int, int]:
    """Fork the command; return its pid and 0, or the errno of a failed execve()."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if not pid:
        try:
            errno = _execute(launch, signals)
            os.write(writer, errno.to_bytes(4, "little"))
        finally:
            os._exit(_EXIT_FAILED)
    os.close(writer)
    answer = os.read(reader, 4)
    os.close(reader)
    errno = int.from_bytes(answer, "little")
    if errno:
        os.waitpid(pid, 0)  # or it would be named among what the command left behind
    return pid, errno


def _execute(launch: Launch, signals: SignalQueue) -> int:
    # Python ignores these two; a command expects the defaults.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, signals.old_mask)
    return libc.execvpe(launch.argv, launch.environment)
