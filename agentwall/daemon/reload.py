# SPDX-License-Identifier: Apache-2.0
"""Reads editions in a process of their own, while the daemon goes on with its work."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import time
from dataclasses import dataclass

from agentwall.daemon.edition import Edition, Rejected, Request
from agentwall.errors import HostError

TIMEOUT_S = 120.0
"""A hundred thousand rules take five seconds."""
_SCRIPT = (
    "import sys; sys.path[:] = sys.argv[1:]; from agentwall.daemon.edition_read import main; main()"
)
"""Finds this very agentwall, however it was installed, whatever the environment says."""
_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of the last reload."""

    time_ns: int
    """UTC."""
    applied: bool
    what: str
    """In one line: what is different now, or which edition stayed in force."""
    problems: tuple[str, ...] = ()


class EditionReader:
    """One reading at a time."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe = -1
        self._answer = bytearray()
        self._deadline_s = 0.0

    @property
    def is_busy(self) -> bool:
        """Whether a reading is under way."""
        return self._process is not None

    def fileno(self) -> int:
        """Return the descriptor that is readable while there is something for :meth:`step`."""
        return self._pipe

    def start(self) -> None:
        """Begin to read; :meth:`step` says when that is done.

        Raises:
            HostError: There are too many processes or descriptors already.
        """
        assert self._process is None
        self._answer.clear()
        self._deadline_s = time.monotonic() + TIMEOUT_S
        try:
            self._pipe, answers = os.pipe2(os.O_CLOEXEC)
        except OSError as err:
            raise HostError(f"reading process: {err.strerror}") from err
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", _SCRIPT, *sys.path],
                stdin=subprocess.PIPE,
                stdout=answers,
                env=_environment(),
            )
        except OSError as err:
            os.close(self._pipe)
            self._pipe = -1
            raise HostError(f"reading process: {err.strerror}") from err
        finally:
            os.close(answers)
        assert self._process.stdin is not None
        # Far less than a pipe holds, so this does not wait.
        with contextlib.suppress(BrokenPipeError), self._process.stdin as pipe:
            pipe.write(pickle.dumps(self._request))

    def step(self) -> Edition | Rejected | None:
        """Take what is there; return the answer once it is complete, else None."""
        piece = os.read(self._pipe, _READ_BYTES)
        if piece:
            self._answer += piece
            return None
        return self._finish()

    def expire(self, now_s: float) -> Rejected | None:
        """Give up a reading that takes too long."""
        if self._process is None or now_s < self._deadline_s:
            return None
        self.close()
        return _failed(f"reading took longer than {TIMEOUT_S:g} s")

    def close(self) -> None:
        """Give up a reading that is under way; nobody is to hear of it any more."""
        if self._process is not None:
            self._process.kill()
            self._finish()

    def wait(self) -> Edition | Rejected:
        """Read now, and wait for it."""
        if not self.is_busy:
            self.start()
        while True:
            found = self.step()
            if found is not None:
                return found

    def _finish(self) -> Edition | Rejected:
        assert self._process is not None
        os.close(self._pipe)
        self._pipe = -1
        code = self._process.wait()
        self._process = None
        answer, self._answer = bytes(self._answer), bytearray()
        if code != 0:
            return _failed(f"the reading process ended with code {code}")
        try:
            found = pickle.loads(answer)
        except Exception as err:  # noqa: BLE001 - unpickling may raise anything
            return _failed(f"the reading process answered what nobody understands: {err!r}")
        if isinstance(found, Edition | Rejected):
            return found
        return _failed("the reading process answered with neither an edition nor problems")


def _failed(why: str) -> Rejected:
    return Rejected(problems=(why,), is_usage=False)


def _environment() -> dict[str, str]:
    return {name: os.environ[name] for name in ("PATH", "LANG", "TZ") if name in os.environ}
