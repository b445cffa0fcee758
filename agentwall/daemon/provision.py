# SPDX-License-Identifier: Apache-2.0
"""The probes' programs for a wall: of code that was kept, or else compiled, and kept then.

Compiling takes a second of a processor and 120 MiB, and comes out the same until the kernel or this
program changes: see :mod:`agentwall.host.kept_files`. Kept code that the kernel refuses is compiled
anew.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import select
from pathlib import Path
from types import TracebackType
from typing import Self

from agentwall.errors import KernelError
from agentwall.host import kept_files
from agentwall.host.kept_files import Kind, cache_directory
from agentwall.probes import compiling
from agentwall.probes.code import Code
from agentwall.probes.compiling import Compilation
from agentwall.probes.libraries import PROGRAMS
from agentwall.probes.loading import Loading, Programs

logger = logging.getLogger(__name__)

KIND = Kind(magic=b"AWPROBE\n", version=1, suffix=".probes", made_by="probes/code.py")


def kept_code() -> Code | None:
    """Return what was compiled on this host before, for this kernel; None: nothing of use."""
    directory, digest = cache_directory(), _digest()
    if directory is None or digest is None:
        return None
    return kept_files.load(
        directory, KIND, digest, lambda head, tables: Code.decode(head, tables, PROGRAMS)
    )


def keep_code(code: Code) -> bool:
    """Keep *code* for the next start; say whether that could be done."""
    directory, digest = cache_directory(), _digest()
    if directory is None or digest is None:
        return False
    return kept_files.store(directory, KIND, digest, *code.encode())


def _digest() -> str | None:
    # Who compiles says which source it is that cannot be read.
    with contextlib.suppress(OSError):
        return compiling.digest()
    return None


class Provision:
    """One provision. Order of use: :meth:`start`, :meth:`load_for`, :meth:`result`, :meth:`close`.

    Nothing here waits: :meth:`result` is asked when :meth:`fileno` is readable or
    :attr:`deadline_s` is over.
    """

    def __init__(self) -> None:
        self.is_kept = False
        """Whether what is loaded was kept, and not compiled now."""
        self._code: Code | None = None
        self._compilation: Compilation | None = None
        self._loading: Loading | None = None
        self._pin_dir: Path | None = None
        self._poller = select.epoll()
        # Readable while there is code to load.
        self._turn = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def start(self) -> None:
        """Look for what was kept; where there is nothing, start to compile.

        To be called early: a compilation needs nothing of the wall.

        Raises:
            ProbesRefusedError: There is nobody to compile.
        """
        self._code = kept_code()
        self.is_kept = self._code is not None
        if self._code is None:
            self._compile()

    def _compile(self) -> None:
        self.is_kept = False
        self._compilation = compilation = Compilation()
        compilation.start()
        self._poller.register(compilation.fileno(), select.EPOLLIN)

    @property
    def deadline_s(self) -> float:
        """``time.monotonic()`` at which :meth:`result` gives a compilation up."""
        return self._compilation.deadline_s if self._compilation is not None else math.inf

    def load_for(self, pin_dir: Path) -> None:
        """Say where the wall's maps are pinned; what is there is loaded from now on."""
        self._pin_dir = pin_dir
        self._poller.register(self._turn, select.EPOLLIN)
        if self._code is not None:
            os.eventfd_write(self._turn, 1)

    def fileno(self) -> int:
        """Return the descriptor that is readable when :meth:`result` has something to do."""
        return self._poller.fileno()

    def result(self) -> Programs | None:
        """Go on for some ms at most; return the programs once they are loaded; None: not yet.

        Raises:
            ProbesRefusedError: It cannot be compiled.
            KernelError: The kernel refuses what was compiled, or a map is not there.
        """
        assert self._pin_dir is not None, "load_for() comes first"
        if self._code is None:
            assert self._compilation is not None, "start() comes first"
            self._code = self._compilation.result()
            if self._code is None:
                return None
            self._end_compilation()
            os.eventfd_write(self._turn, 1)
        try:
            if self._loading is None:
                self._loading = Loading(self._code, self._pin_dir)
            programs = self._loading.step()
        except KernelError as err:
            if not self.is_kept:
                raise
            logger.warning("inside TLS: compiled anew: the kernel refuses what was kept: %s", err)
            self._forget()
            self._compile()
            return None
        if programs is not None and not self.is_kept:
            keep_code(self._code)
        return programs

    def _forget(self) -> None:
        if self._loading is not None:
            self._loading.close()
            self._loading = None
        self._code = None
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._turn)

    def _end_compilation(self) -> None:
        # What is closed is in the poller no more.
        if self._compilation is not None:
            self._compilation.close()
            self._compilation = None

    def close(self) -> None:
        """End a compilation, and give all back but what was returned; may be called at any time."""
        if self._poller.closed:
            return
        self._end_compilation()
        self._forget()
        os.close(self._turn)
        self._poller.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
