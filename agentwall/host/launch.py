# SPDX-License-Identifier: Apache-2.0
"""Start a command in its cgroup, behind its namespaces, and stay in touch with it.

:func:`prepare` leaves the sandbox ready but for the command, whose first instruction waits for
:meth:`Sandboxed.start`; in between the caller can still give up. Counterpart: ``warden``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import sys

from agentwall.errors import HostError
from agentwall.host.cgroup import Cgroup
from agentwall.host.messages import Message, Word, make_channel, receive, send
from agentwall.host.namespaces import children_in_new_pid_namespace
from agentwall.host.signals import SignalQueue
from agentwall.host.warden import Launch, run_warden

EXIT_NOT_EXECUTABLE = 126
EXIT_NOT_FOUND = 127


class Sandboxed:
    """A sandbox whose process 1 is running."""

    def __init__(self, pid: int, channel: socket.socket) -> None:
        self.pid = pid
        """Of process 1, as the host counts."""
        self.exit_code: int | None = None
        """What the shell would say of the command, once it has ended."""
        self.not_executed: str | None = None
        """Why the command's program could not be executed."""
        self._channel = channel
        self._descriptor = os.pidfd_open(pid)
        self._has_ended = False

    def fileno(self) -> int:
        """Return the descriptor that is readable when :meth:`read` has something to say."""
        return self._channel.fileno()

    def start(self) -> None:
        """Let the command's first instruction run."""
        send(self._channel, Word.RUN)

    def pass_on(self, number: signal.Signals) -> None:
        """Send the command a signal, unless it has already had it with its process group."""
        send(self._channel, Word.SIGNAL, number)

    def read(self) -> Message | None:
        """Wait for the next message of the warden; None means that it is gone.

        Sets :attr:`exit_code` when the command has ended.
        """
        message = receive(self._channel)
        if message is None:
            # Process 1 was killed, and the kernel killed all others with it.
            self.exit_code = 128 + signal.SIGKILL if self.exit_code is None else self.exit_code
        elif message.word is Word.EXITED:
            self.exit_code = _shell_code(message.number)
        elif message.word is Word.NOT_EXECUTED:
            self.not_executed = os.strerror(message.number)
            is_missing = message.number in (errno.ENOENT, errno.ENOTDIR)
            self.exit_code = EXIT_NOT_FOUND if is_missing else EXIT_NOT_EXECUTABLE
        return message

    def end(self) -> None:
        """Kill whatever still runs in the sandbox and wait until it is gone; once is enough."""
        if self._has_ended:
            return
        self._has_ended = True
        self._channel.close()
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)
        # Reaped only after every other process of the PID namespace.
        select.select([self._descriptor], [], [])
        os.close(self._descriptor)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


def _shell_code(status: int) -> int:
    if os.WIFSIGNALED(status):
        return 128 + os.WTERMSIG(status)
    return os.WEXITSTATUS(status)


def prepare(launch: Launch, cgroup: Cgroup, signals: SignalQueue) -> Sandboxed:
    """Fork process 1 of a sandbox into *cgroup* and confine it.

    Raises:
        HostError: A namespace, a mount or giving up a privilege was refused; nothing is left.
    """
    ours, theirs = make_channel()
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        with children_in_new_pid_namespace():
            pid = os.fork()
            if not pid:
                ours.close()
                run_warden(launch, theirs, signals)
    except OSError as err:
        ours.close()
        raise HostError(f"a PID namespace for the command: {err.strerror}") from err
    finally:
        theirs.close()
    sandboxed = Sandboxed(pid, ours)
    try:
        cgroup.add(pid)
        send(ours, Word.CONFINE)
        _expect_ready(sandboxed)
    except HostError:
        sandboxed.end()
        raise
    return sandboxed


def _expect_ready(sandboxed: Sandboxed) -> None:
    message = sandboxed.read()
    if message is None:
        raise HostError("confining the command: the sandbox's first process died")
    if message.word is not Word.READY:
        raise HostError(f"confining the command: {message.text}")
