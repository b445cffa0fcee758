# SPDX-License-Identifier: Apache-2.0
"""Child processes that do not outlive the block that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

START_TIMEOUT_S = 60.0
"""Generous: on an emulated processor, or a busy one, a server takes its time."""
_STOP_TIMEOUT_S = 5.0


def wait_until(
    condition: Callable[[], object], *, what: str, timeout_s: float = START_TIMEOUT_S
) -> None:
    """Return as soon as *condition* holds.

    Raises:
        TimeoutError: It did not within *timeout_s*; the message says *what* was waited for.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: expected within {timeout_s:g} s, got nothing")
        time.sleep(0.01)


def run_checked(*command: str | Path, text: str | None = None) -> str:
    """Run *command*, which must succeed, and return its stdout.

    Raises:
        RuntimeError: It did not; the message holds what it wrote to stderr.
    """
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(
            f"{' '.join(map(str, command))}: expected exit 0, got {done.returncode}: "
            f"{done.stderr.strip()}"
        )
    return done.stdout


@contextmanager
def running(
    command: Sequence[str | Path],
    *,
    log: Path,
    ready: Callable[[], object] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run *command* for the length of the block, its output going to *log*.

    Waits until *ready* holds. At the end the process and its session are ended, kindly first.

    Raises:
        RuntimeError: It ended before it was ready; the message holds its log.
        TimeoutError: It never became ready.
    """
    with log.open("ab") as output:
        child = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        if ready is not None:
            wait_until(
                lambda: child.poll() is not None or ready(), what=f"{command[-1]}: readiness"
            )
            if child.poll() is not None:
                raise RuntimeError(
                    f"{' '.join(map(str, command))}: expected it to stay, got exit "
                    f"{child.returncode}: {log.read_text(errors='replace')[-2000:]}"
                )
        yield child
    finally:
        stop(child)


def stop(child: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    """End *child*, which leads a session of its own, and everything in that session."""
    if child.poll() is None:
        child.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            child.wait(_STOP_TIMEOUT_S)
    # The group's id cannot have been reused: its leader is ours and not reaped before wait().
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
