# SPDX-License-Identifier: Apache-2.0
"""Work that may wait for ever, because a sandbox decides how long: nothing here waits for it.

Other than :class:`agentwall.daemon.worker.Worker`, whose work always ends, this can be left behind
in the middle of something, and says when it hangs.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeVar

from agentwall.errors import AgentwallError

logger = logging.getLogger(__name__)

GIVES_WAY_S = 0.02
"""How long one piece of work that nobody waits for is put off while the loop has something to do.
Until then it is begun when the loop has nothing to do, be that for a moment."""
MOST_PUT_OFF = 8
"""Pieces of work, not counting what may wait: where there are more, none is put off."""
_MOMENT_S = 0.0005
"""Between two looks at whether it has."""

T = TypeVar("T")
_Work = Callable[[], Callable[[], None]]


class SideThread:
    """One thread, which does one thing after the other.

    Two threads that compute take the interpreter from each other, and each call of the kernel has
    the loop wait for it anew. So what nobody waits for is begun while the loop waits itself.
    """

    def __init__(self, name: str) -> None:
        # Each entry stands for one piece of work in either queue.
        self._asked: SimpleQueue[None] = SimpleQueue()
        self._now: deque[tuple[_Work, bool]] = deque()
        self._later: deque[tuple[_Work, bool]] = deque()
        self.is_loop_busy = False
        """Whether the loop has something to do: for the loop to say."""
        # Of work that somebody waits for: how much was asked for, and how much was begun.
        self._awaited = self._begun = 0
        self._done: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._wake, self._awaken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._begun_s: float | None = None
        self._is_closed = False
        # The interpreter does not wait for a daemon thread when it ends.
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def fileno(self) -> int:
        """Return the descriptor that is readable when there is something for :meth:`step`."""
        return self._wake

    @property
    def waiting(self) -> int:
        """How much has been asked for and not begun, what may wait not included."""
        return len(self._now)

    def busy_s(self) -> float:
        """Return for how long it has been at what it does now; 0: it does nothing."""
        begun_s = self._begun_s
        return 0.0 if begun_s is None else time.monotonic() - begun_s

    def run(
        self,
        work: Callable[[], T],
        then: Callable[[T], None] | None = None,
        *,
        failed: Callable[[], None] | None = None,
        may_wait: bool = False,
        is_urgent: bool = False,
        is_awaited: bool = False,
    ) -> None:
        """Have *work* done, and *then* called with what it returned, in the caller's own thread.

        Args:
            work: An AgentwallError or OSError of it is logged by :meth:`step`.
            then: None: nobody wants to know.
            failed: Called instead of *then* when there is an error.
            may_wait: Whatever else there is comes before.
            is_urgent: It comes before whatever else there is.
            is_awaited: Somebody waits for it, as always for what is urgent: nothing gives way to
                the loop until it is begun.
        """
        is_awaited |= is_urgent

        def do() -> Callable[[], None]:
            try:
                found = work()
            except (AgentwallError, OSError) as err:
                return lambda problem=err: _fail(problem, failed)  # type: ignore[misc]
            except Exception as err:  # noqa: BLE001 - raised in the caller's thread
                return lambda problem=err: _raise(problem)  # type: ignore[misc]
            return (lambda: then(found)) if then is not None else _nothing

        self._awaited += is_awaited
        if is_urgent:
            self._now.appendleft((do, is_awaited))
        else:
            (self._later if may_wait else self._now).append((do, is_awaited))
        self._asked.put(None)

    def _work(self) -> None:
        while True:
            self._asked.get()
            if self.is_loop_busy:
                self._give_way()
            if self._is_closed:
                return
            work, is_awaited = (self._now or self._later).popleft()
            self._begun += is_awaited
            self._begun_s = time.monotonic()
            finish = work()
            self._begun_s = None
            if self._is_closed:
                return
            self._done.put(finish)
            self._signal()

    def _give_way(self) -> None:
        """Wait until the loop has nothing to do, or there is something to do at once."""
        until_s = time.monotonic() + GIVES_WAY_S
        while self._may_wait() and time.monotonic() < until_s:
            time.sleep(_MOMENT_S)

    def _may_wait(self) -> bool:
        is_awaited = self._awaited != self._begun
        is_late = is_awaited or len(self._now) > MOST_PUT_OFF or self._is_closed
        return self.is_loop_busy and not is_late

    def step(self) -> None:
        """Go on with what was done."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake, 4096)
        while not self._done.empty():
            try:
                self._done.get()()
            except BaseException:
                # The rest is for the next time.
                self._signal()
                raise

    def _signal(self) -> None:
        # Full: there is enough in it to wake up for.
        with contextlib.suppress(BlockingIOError):
            os.write(self._awaken, b"!")

    def close(self, patience_s: float) -> bool:
        """Give up what was not begun, and wait a while for what was.

        Returns:
            Whether it has ended; else it is left behind, and what it uses must stay open.
        """
        self._is_closed = True
        self._asked.put(None)
        self._thread.join(patience_s)
        if self._thread.is_alive():
            return False
        os.close(self._wake)
        os.close(self._awaken)
        return True


def _fail(problem: Exception, failed: Callable[[], None] | None) -> None:
    logger.warning("%s", problem)
    if failed is not None:
        failed()


def _raise(problem: Exception) -> None:
    raise problem


def _nothing() -> None:
    pass
