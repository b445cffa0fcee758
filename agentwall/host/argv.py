# SPDX-License-Identifier: Apache-2.0
"""Read the arguments of processes whose sandbox may make the reader wait, and do not wait long.

Arguments lie in the memory of the process, and whoever reads them needs its lock. The process can
have that held for as long as it likes: a thread of it reads a page of a FUSE file through
/proc/self/mem, another calls mmap(2). Only the end of the reader's process ends such a read, so
another thread reads, and is left behind where it waits. What else agentwall's loops read of a
process (status, stat, comm, exe, cgroup, mountinfo, ns, fd, net) needs no lock that it can hold.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict

MAX_BYTES = 4096
MAX_LEFT_BEHIND = 16
"""Threads, and so sandboxes, that may wait at a time. From then on nobody's arguments are read."""

_LOOK_S = 0.02
"""Between two looks at a reader that does not come back."""
_LOOKS = 10
"""Where the processors are busy, who got no turn is waited for; who waits in the kernel is not."""
_FREE_S = 0.00025
"""What a read may take in any case, several times what it does."""
_OWN_S, _OWN_SHARE = 0.2, 0.03
"""What one sandbox may make the reader wait: at once, and of all time."""
_ALL_S, _ALL_SHARE = 1.0, 0.2
"""The same for all together: one of them alone takes nothing from the others."""
_MAX_SLOW = 1024
"""Sandboxes remembered for having been slow."""


class Patience:
    """Time that somebody may make others wait: at most *most_s* at once, *share* of all time."""

    __slots__ = ("_left_s", "_most_s", "_share", "_since_s")

    def __init__(self, most_s: float, share: float) -> None:
        self._most_s = self._left_s = most_s
        self._share = share
        self._since_s = 0.0

    def left_s(self, now_s: float) -> float:
        """Return what is left; below 0: the last one took more than there was."""
        left_s = self._left_s + max(0.0, now_s - self._since_s) * self._share
        return min(self._most_s, left_s)

    def is_whole(self, now_s: float) -> bool:
        """Say whether nothing is known of it any more."""
        return self.left_s(now_s) >= self._most_s

    def spend(self, spent_s: float, now_s: float) -> None:
        """Take *spent_s* away."""
        self._left_s = self.left_s(now_s) - spent_s
        self._since_s = now_s


class ArgvReader:
    """Reads command lines for one thread, which waits 20 ms for one whose lock is held.

    A sandbox that makes it wait has little time for that, and nothing is read while a thread waits
    for a process of it. Call :meth:`close` at the end.
    """

    def __init__(self) -> None:
        self._idle: _Hand | None = None
        self._behind: dict[str, _Hand] = {}
        self._slow: OrderedDict[str, Patience] = OrderedDict()
        self._all = Patience(_ALL_S, _ALL_SHARE)

    @property
    def left_behind(self) -> int:
        """How many threads wait."""
        self._take_back()
        return len(self._behind)

    def read(self, pid: int, sandbox: str) -> bytes | None:
        """Return the start of a process's arguments, each ended by a zero byte.

        Args:
            pid: In the caller's PID namespace.
            sandbox: Whose process it is, as it is known so far, whatever names it.

        Returns:
            At most 4 096 bytes; none of a process that is ending. None: not to be had in time.

        Raises:
            OSError: There is no such process.
        """
        if self._behind:
            self._take_back()
        begun_s = time.monotonic()
        if not self._may_read(sandbox, begun_s):
            return None
        try:
            hand = self._idle or _Hand()
        except RuntimeError:
            # No thread can be made: somebody fills the host with processes.
            return None
        self._idle = None
        found = hand.read(pid)
        if found is None:
            self._behind[sandbox] = hand
        else:
            self._idle = hand
        now_s = time.monotonic()
        if now_s - begun_s > _FREE_S:
            self._charge(sandbox, now_s - begun_s - _FREE_S, now_s)
        if isinstance(found, OSError):
            raise found
        return found

    def close(self) -> None:
        """End the threads; who waits ends as soon as it can."""
        for hand in (*self._behind.values(), self._idle):
            if hand is not None:
                hand.close()
        self._behind, self._idle = {}, None

    def _may_read(self, sandbox: str, now_s: float) -> bool:
        if sandbox in self._behind or len(self._behind) >= MAX_LEFT_BEHIND:
            return False
        own = self._slow.get(sandbox)
        if own is not None and own.left_s(now_s) <= 0:
            return False
        return self._all.left_s(now_s) > 0

    def _charge(self, sandbox: str, spent_s: float, now_s: float) -> None:
        self._all.spend(spent_s, now_s)
        own = self._slow.get(sandbox)
        if own is None:
            own = self._slow[sandbox] = Patience(_OWN_S, _OWN_SHARE)
        own.spend(spent_s, now_s)
        self._slow.move_to_end(sandbox)
        while self._slow and (
            len(self._slow) > _MAX_SLOW or next(iter(self._slow.values())).is_whole(now_s)
        ):
            self._slow.popitem(last=False)

    def _take_back(self) -> None:
        for sandbox, hand in list(self._behind.items()):
            if hand.is_back():
                del self._behind[sandbox]
                if self._idle is None:
                    self._idle = hand
                else:
                    hand.close()


class _Hand:
    """A thread that reads for one other; each of the two locks is let go by one, taken by one."""

    __slots__ = ("_asked", "_found", "_pid", "_returned", "_thread")

    def __init__(self) -> None:
        self._pid = 0
        self._found: bytes | OSError = b""
        self._asked, self._returned = threading.Lock(), threading.Lock()
        self._asked.acquire()
        self._returned.acquire()
        # The interpreter does not wait for a daemon thread when it ends.
        self._thread = threading.Thread(target=self._work, name="agentwall-argv", daemon=True)
        self._thread.start()

    def read(self, pid: int) -> bytes | OSError | None:
        """Return what was found, or None: it waits, and is not to be asked before it is back."""
        self._pid = pid
        self._asked.release()
        for _ in range(_LOOKS):
            if self._returned.acquire(timeout=_LOOK_S):
                return self._found
            if self._waits_in_kernel():
                break
        return None

    def is_back(self) -> bool:
        """Say whether it may be asked again; once only."""
        return self._returned.acquire(blocking=False)

    def close(self) -> None:
        """End it, as soon as it has read what it reads."""
        self._pid = 0
        # Not locked: it has not had its turn since it was asked, and then finds nothing to read.
        if self._asked.locked():
            self._asked.release()

    def _waits_in_kernel(self) -> bool:
        try:
            stat = _read(f"/proc/self/task/{self._thread.native_id}/stat")
        except OSError:
            return True
        # Neither runnable nor waiting for its turn in the interpreter: proc(5), state.
        return stat.rpartition(b")")[2].split()[:1] == [b"D"]

    def _work(self) -> None:
        while True:
            self._asked.acquire()
            if not self._pid:
                return
            try:
                self._found = _read(f"/proc/{self._pid}/cmdline")
            except OSError as err:
                self._found = err
            self._returned.release()


def _read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, MAX_BYTES)
    finally:
        os.close(descriptor)
