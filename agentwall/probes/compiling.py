# SPDX-License-Identifier: Apache-2.0
"""The probes' programs, compiled on the host in a child process: ``compile_child``.

bcc and LLVM take over a hundred MiB, so they never come into this process; it gets descriptors of
the loaded programs, and the child ends.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from agentwall.errors import ProbesRefusedError
from agentwall.probes.libraries import PROGRAMS

INTERPRETERS: tuple[str, ...] = ("/usr/bin/python3",)
"""Of the distribution, whose bcc is made for no other; the first that is there is used."""
SOURCES = Path(__file__).parents[1] / "_bpf" / "probes"
"""``tls.c`` and what it includes, put there by ``make bpf``."""
TIMEOUT_S = 60.0
"""From the request on; it takes half a second where nothing else runs."""

_CHILD = Path(__file__).with_name("compile_child.py")
_UPROBES = Path("/sys/bus/event_source/devices/uprobe/type")
# A directory that was left behind is found, too, but has no origin.
_FIND_BCC = (
    "import importlib.util, sys; found = importlib.util.find_spec('bcc'); "
    "sys.exit(found is None or found.origin is None)"
)
_FIND_TIMEOUT_S = 10.0
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
_ANSWER_BYTES = 65536
_LOG_BYTES = 8192
_MOST_DESCRIPTORS = 253
"""``SCM_MAX_FD``, include/net/scm.h."""
_DESCRIPTOR_BYTES = array.array("i").itemsize
_END_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """What a compilation gave; whoever has it closes it."""

    fds: Mapping[str, int]
    """By the names of ``libraries.PROGRAMS``: descriptors of programs of type kprobe."""
    bcc: str
    """Its version."""
    seconds: float
    """To import bcc, compile and load."""
    peak_kib: int
    """The most memory that the child had."""
    has_cookies: bool
    """Whether they ask for the cookie of their probe: where they do not (before Linux 5.15) a call
    of a library that is probed twice is read twice."""

    def close(self) -> None:
        """Give the descriptors back; programs that are attached stay."""
        for fd in self.fds.values():
            os.close(fd)


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


class Compilation:
    """One compilation. Order of use: :meth:`start`, :meth:`send`, :meth:`result`, :meth:`close`.

    Nothing waits but :meth:`wait`: the child is started early, as it imports bcc meanwhile, and
    :meth:`result` is asked when :meth:`fileno` is readable or :attr:`deadline_s` is over.
    """

    def __init__(
        self,
        *,
        interpreters: Sequence[str] = INTERPRETERS,
        sources: Path = SOURCES,
        programs: Sequence[str] = PROGRAMS,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        assert 0 < len(programs) <= _MOST_DESCRIPTORS
        self.deadline_s = 0.0
        """``time.monotonic()`` at which :meth:`result` kills the child."""
        self._interpreters = interpreters
        self._sources = sources
        self._programs = tuple(programs)
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._log = -1
        self._answer: dict[str, Any] | None = None
        self._has_ended = False
        self._fds: list[int] = []

    def start(self) -> None:
        """Start the child.

        Raises:
            ProbesRefusedError: No interpreter is there, or there are too many processes already.
        """
        assert self._process is None
        interpreter = _interpreter(self._interpreters)
        self.deadline_s = time.monotonic() + self._timeout_s
        try:
            self._channel, asked = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with asked:
                self._channel.setblocking(False)
                # It holds, too, what an interpreter says that cannot even run the script.
                self._log = os.memfd_create("agentwall-compile")
                self._process = subprocess.Popen(
                    [interpreter, "-I", "-B", str(_CHILD), str(asked.fileno())],
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

    def send(self, pin_dir: Path) -> None:
        """Say where the wall's maps ``aw_plain_*`` are pinned; the child compiles then."""
        assert self._channel is not None
        # What its parent did meanwhile is not the child's time.
        self.deadline_s = time.monotonic() + self._timeout_s
        request = {
            "pin_dir": str(pin_dir),
            "source_dir": str(self._sources),
            "programs": self._programs,
        }
        # A child that is gone already has left its reason, which result() gives.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._channel.send(json.dumps(request).encode())

    def fileno(self) -> int:
        """Return the descriptor that is readable when :meth:`result` has something to do."""
        assert self._channel is not None
        return self._channel.fileno()

    def result(self) -> Programs | None:
        """Return the programs once the child has ended; None: not yet. They are the caller's then.

        Raises:
            ProbesRefusedError: bcc is missing, the source does not compile, the kernel refuses a
                program, a map is not pinned, or it took too long.
        """
        assert self._channel is not None
        while self._take_message():
            pass
        assert self._process is not None
        if not self._has_ended:
            if time.monotonic() < self.deadline_s:
                return None
            self._refuse(f"compiling took longer than {self._timeout_s:g} s")
        answer = self._answer
        if answer is None:
            self._refuse(f"the compiling process {self._end()} without an answer")
        if not answer["ok"]:
            self._refuse(answer["error"], answer["log"])
        if len(self._fds) != len(self._programs):
            self._refuse(f"expected {len(self._programs)} programs, got {len(self._fds)}")
        programs = Programs(
            fds=dict(zip(self._programs, self._fds, strict=True)),
            bcc=answer["bcc"],
            seconds=answer["seconds"],
            peak_kib=answer["peak_kib"],
            has_cookies=answer["cookies"],
        )
        self._fds = []
        self.close()
        return programs

    # Whether there may be more. After the end of file the child's memory is gone.
    def _take_message(self) -> bool:
        assert self._channel is not None
        room = socket.CMSG_LEN(_MOST_DESCRIPTORS * _DESCRIPTOR_BYTES)
        try:
            # Not recv_fds(), which passes no flags on (Python 3.11).
            text, rights, _, _ = self._channel.recvmsg(_ANSWER_BYTES, room, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True  # it ended with the request unread; what it has said comes next
        for _, _, data in rights:
            self._fds += array.array("i", data)
        if not text:
            self._has_ended = True
            return False
        self._answer = json.loads(text)
        return True

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

    def wait(self) -> Programs:
        """Wait for :meth:`result`; raises what it does."""
        while (programs := self.result()) is None:
            poll = select.poll()
            poll.register(self.fileno(), select.POLLIN)
            poll.poll(max(0.0, self.deadline_s - time.monotonic()) * 1000 + 1)
        return programs

    def close(self) -> None:
        """End the child, if it is still there, and give all back; may be called at any time."""
        for fd in self._fds:
            os.close(fd)
        self._fds = []
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
