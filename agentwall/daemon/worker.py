# SPDX-License-Identifier: Apache-2.0
"""Work that may wait for somebody, done by another thread; its results come back to the loop."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

from agentwall.errors import AgentwallError

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Worker:
    """One thread, which does one thing after the other."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="agentwall-worker")
        self._done: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._wake, self._awaken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def fileno(self) -> int:
        """Return the descriptor that is readable when there is something for :meth:`step`."""
        return self._wake

    def run(self, work: Callable[[], T], then: Callable[[T], None]) -> None:
        """Have *work* done, and *then* called with what it returned, in the caller's own thread.

        What *work* raises is logged by :meth:`step` if it is agentwall's own, and raised if not.
        """

        def finish(future: Future[T]) -> None:
            if future.cancelled():
                return
            self._done.put(lambda: then(future.result()))
            # Full: there is enough in it to wake up for.
            with contextlib.suppress(BlockingIOError):
                os.write(self._awaken, b"!")

        self._thread.submit(work).add_done_callback(finish)

    def step(self) -> None:
        """Go on with what was done."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake, 4096)
        while not self._done.empty():
            try:
                self._done.get()()
            except AgentwallError as err:
                logger.warning("%s", err)

    def close(self) -> None:
        """Give up what was not begun, and wait for what was."""
        self._thread.shutdown(cancel_futures=True)
        os.close(self._wake)
        os.close(self._awaken)
