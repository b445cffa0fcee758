# SPDX-License-Identifier: Apache-2.0
"""Who a task was: the kernel's word at the hook joined with what /proc said later. Pure."""

from __future__ import annotations

from dataclasses import replace

from agentwall.flow.record import Process, ProcessSource, Task

MAX_ARGV_CHARS = 4096
"""Of all arguments together, so that one event stays far below a reader's line limit."""


def describe_task(task: Task, found: Process | None) -> Process:
    """Return the process that events name for *task*.

    The name is always the kernel's, taken at the hook: /proc is read later, and a thread has a
    name of its own.
    """
    comm = task.comm.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")
    if found is not None and task.pid:
        argv = None if found.argv is None else clamp_arguments(found.argv)
        told = (task.pid, task.uid, comm or found.comm, argv)
        if told == (found.pid, found.uid, found.comm, found.argv):
            return found
        return replace(found, pid=told[0], uid=told[1], comm=told[2], argv=told[3])
    source = ProcessSource.KERNEL if task.pid else ProcessSource.NONE
    return Process(
        pid=task.pid, ppid=None, uid=task.uid, comm=comm, exe=None, argv=None, source=source
    )


def clamp_arguments(argv: tuple[str, ...]) -> tuple[str, ...]:
    """Return *argv*, cut after :data:`MAX_ARGV_CHARS`; a last argument says how much was cut."""
    left = MAX_ARGV_CHARS
    for index, argument in enumerate(argv):
        if len(argument) > left or not left:
            cut = sum(map(len, argv[index:])) - left
            return (*argv[:index], argument[:left], f"[{cut} more characters]")
        # One for the separator, so that empty arguments count too.
        left = max(left - len(argument) - 1, 0)
    return argv
