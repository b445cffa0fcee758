# SPDX-License-Identifier: Apache-2.0
"""The probes' code, compiled on the host in a child process: ``compile_child``.

bcc and LLVM take over a hundred MiB, so they never come into this process; it gets instructions,
and the child ends.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

from agentwall.errors import ProbesRefusedError
from agentwall.probes import loading
from agentwall.probes.code import MAPS, Code
from agentwall.probes.libraries import PROGRAMS

INTERPRETERS: tuple[str, ...] = ("/usr/bin/python3",)
"""Of the distribution, whose bcc is made for no other; the first that is there is used."""
SOURCES = Path(__file__).parents[1] / "_bpf" / "probes"
"""``tls.c`` and what it includes, put there by ``make bpf``."""
TIMEOUT_S = 60.0
"""It takes half a second where nothing else runs."""

_CHILD = Path(__file__).with_name("compile_child.py")
_UPROBES = Path("/sys/bus/event_source/devices/uprobe/type")
# A directory that was left behind is found, too, but has no origin.
_FIND_BCC = (
    "import importlib.util, sys; found = importlib.util.find_spec('bcc'); "
    "sys.exit(found is None or found.origin is None)"
)
_FIND_TIMEOUT_S = 10.0
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
_AT_ONCE = 65536
_MAX_ANSWER = 4 << 20
"""In bytes; it has 80 KiB."""
_LOG_BYTES = 8192
_END_S = 2.0


def why_not(*, interpreters: Sequence[str] = INTERPRETERS, sources: Path = SOURCES) -> str | None:
    """Return in one line what is missing here to compile and attach probes; None: nothing known.

    Runs the interpreter once, for some 20 ms, and does not import bcc.
    """
    try:
        interpreter = _interpreter(interpreters)
        child = [interpreter, "-I", "-c", _FIND_BCC]
        done = subprocess.run(
            child,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=_ENVIRONMENT,
            cwd="/",
            timeout=_FIND_TIMEOUT_S,
            check=False,
        )
    except ProbesRefusedError as err:
        return str(err)
    except (OSError, subprocess.TimeoutExpired) as err:
        return f"{interpreter}: {str(err).lower()}"
    if done.returncode:
        return f"{interpreter}: expected bcc (package python3-bpfcc), got none"
    if not (sources / "tls.c").is_file():
        return f"{sources / 'tls.c'}: expected the source of the probes, got none"
    if not _UPROBES.exists():
        return f"{_UPROBES}: expected uprobes in this kernel, got none (CONFIG_UPROBE_EVENTS)"
    return None


def _interpreter(candidates: Sequence[str]) -> str:
    for path in candidates:
        if os.access(path, os.X_OK):
            return path
    raise ProbesRefusedError(f"{', '.join(candidates)}: expected an interpreter, got none")


def digest(*, sources: Path = SOURCES) -> str:
    """Return the SHA-256, in hexadecimal, of all that the code depends on here but bcc itself.

    That is the sources, how they are compiled, and this kernel, whose helpers bcc asks for. Another
    bcc may make other code of them, and what was made before is as good.

    Raises:
        OSError: A source cannot be read.
    """
    found = hashlib.sha256()
    for path in (_CHILD, *sorted(sources.rglob("*.[ch]"))):
        text = path.read_bytes()
        found.update(f"{path.relative_to(path.parents[1])}:{len(text)}:".encode() + text)
    kernel = os.uname()
    for word in (*PROGRAMS, *MAPS, kernel.release, kernel.version, kernel.machine):
        found.update(f"{len(word)}:{word}".encode())
    return found.hexdigest()


class Compilation:
    """One compilation. Order of use: :meth:`start`, :meth:`result`, :meth:`close`.

    Nothing waits but :meth:`wait`: :meth:`result` is asked when :meth:`fileno` is readable or
    :attr:`deadline_s` is over.
    """

    def __init__(
        self,
        *,
        interpreters: Sequence[str] = INTERPRETERS,
        sources: Path = SOURCES,
        programs: Sequence[str] = PROGRAMS,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self.deadline_s = 0.0
        """``time.monotonic()`` at which :meth:`result` kills the child."""
        self._interpreters = interpreters
        self._sources = sources
        self._programs = tuple(programs)
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._log = -1
        self._answer = bytearray()
        self._has_ended = False

    def start(self) -> None:
        """Start the child, which compiles at once.

        Raises:
            ProbesRefusedError: No interpreter is there, or there are too many processes already.
        """
        assert self._process is None
        interpreter = _interpreter(self._interpreters)
        request = {
            "source_dir": str(self._sources),
            "programs": self._programs,
            "maps": MAPS,
            "cookies": loading.has_cookies(),
        }
        self.deadline_s = time.monotonic() + self._timeout_s
        try:
            self._channel, asked = socket.socketpair()
            with asked:
                self._channel.setblocking(False)
                # It holds, too, what an interpreter says that cannot even run the script.
                self._log = os.memfd_create("agentwall-compile")
                words = [str(_CHILD), str(asked.fileno()), json.dumps(request)]
                self._process = subprocess.Popen(
                    [interpreter, "-I", "-B", *words],
                    stdin=subprocess.DEVNULL,
                    stdout=self._log,
                    stderr=self._log,
                    pass_fds=(asked.fileno(),),
                    env=_ENVIRONMENT,
                    cwd="/",
                    process_group=0,
                )
        except OSError as err:
            self.close()
            raise ProbesRefusedError(f"{interpreter}: {(err.strerror or '').lower()}") from err

    def fileno(self) -> int:
        """Return the descriptor that is readable when :meth:`result` has something to do."""
        assert self._channel is not None
        return self._channel.fileno()

    def result(self) -> Code | None:
        """Return the code once the child has ended; None: not yet.

        Raises:
            ProbesRefusedError: bcc is missing, the source does not compile, or it took too long.
        """
        assert self._channel is not None
        while not self._has_ended and self._take_part():
            pass
        assert self._process is not None
        if not self._has_ended:
            if time.monotonic() < self.deadline_s:
                return None
            self._refuse(f"compiling took longer than {self._timeout_s:g} s")
        if not self._answer:
            self._refuse(f"the compiling process {self._end()} without an answer")
        line, _, instructions = bytes(self._answer).partition(b"\n")
        try:
            head = json.loads(line)
            if head["ok"]:
                code = Code.decode(head, instructions, self._programs)
                self.close()
                return code
            error, log = str(head["error"]), str(head["log"])
        except (ValueError, KeyError, TypeError) as err:
            self._refuse(f"the compiling process {self._end()} with an answer of {err}")
        self._refuse(error, log)

    # Whether there may be more. After the end of file the child's memory is gone.
    def _take_part(self) -> bool:
        assert self._channel is not None
        try:
            part = self._channel.recv(_AT_ONCE)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            part = b""
        self._answer += part
        self._has_ended = not part or len(self._answer) > _MAX_ANSWER
        return not self._has_ended

    def _end(self) -> str:
        assert self._process is not None
        try:
            code = self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            return "closed its socket"
        return f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"

    def _refuse(self, what: str, log: str | None = None) -> NoReturn:
        if log is None:
            size = os.fstat(self._log).st_size
            log = os.pread(self._log, _LOG_BYTES, max(size - _LOG_BYTES, 0)).decode(
                errors="replace"
            )
            last = log.strip().rpartition("\n")[2]
            what = f"{what}: {last}" if last else what
        self.close()
        raise ProbesRefusedError(what, log)

    def wait(self) -> Code:
        """Wait for :meth:`result`; raises what it does."""
        while (code := self.result()) is None:
            poll = select.poll()
            poll.register(self.fileno(), select.POLLIN)
            poll.poll(max(0.0, self.deadline_s - time.monotonic()) * 1000 + 1)
        return code

    def close(self) -> None:
        """End the child, if it is still there, and give all back; may be called at any time."""
        if self._process is not None:
            if self._process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_S)
            self._process = None
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._log >= 0:
            os.close(self._log)
            self._log = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
