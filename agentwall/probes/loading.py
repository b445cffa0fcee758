# SPDX-License-Identifier: Apache-2.0
"""The probes' programs, from their code to descriptors: with a wall's maps, by its pins."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from agentwall.errors import KernelError, VerifierError
from agentwall.probes import perf
from agentwall.probes.code import INSTRUCTION, Code, map_loads

_PROG_LOAD, _OBJ_GET = 5, 7
"""``enum bpf_cmd``."""
_KPROBE = 2
"""BPF_PROG_TYPE_KPROBE of ``enum bpf_prog_type``."""
_LICENCE = b"Dual BSD/GPL"
"""Of ``bpf/probes/tls.c``, as the kernel spells it."""
_NAME_LEN = 15
_LOG_BYTES = 1 << 20
_KEPT_LOG = 8192
"""Of its end."""
_ATTEMPTS = 5
"""The verifier gives up when a signal comes."""
_NO_REASON = ("processed ", "HINT:", "verification time", "stack depth", "insns processed")
_ASKS_FOR_COOKIE = b"".join(
    INSTRUCTION.pack(opcode, 0, 0, immediate)
    for opcode, immediate in (
        (0x85, 174),  # bpf_get_attach_cookie()
        (0xB7, 0),  # r0 = 0
        (0x95, 0),
    )
)


class _Load(ctypes.Structure):
    # union bpf_attr, BPF_PROG_LOAD up to prog_name
    _fields_ = (
        ("prog_type", ctypes.c_uint32),
        ("insn_cnt", ctypes.c_uint32),
        ("insns", ctypes.c_uint64),
        ("license", ctypes.c_uint64),
        ("log_level", ctypes.c_uint32),
        ("log_size", ctypes.c_uint32),
        ("log_buf", ctypes.c_uint64),
        ("kern_version", ctypes.c_uint32),
        ("prog_flags", ctypes.c_uint32),
        ("prog_name", ctypes.c_char * 16),
    )


class _Get(ctypes.Structure):
    # union bpf_attr, BPF_OBJ_GET
    _fields_ = (
        ("pathname", ctypes.c_uint64),
        ("bpf_fd", ctypes.c_uint32),
        ("file_flags", ctypes.c_uint32),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """Loaded programs; whoever has them closes them."""

    fds: Mapping[str, int]
    """By their names: descriptors of programs of type kprobe."""
    bcc: str
    """The version that compiled them."""
    compile_s: float
    """What that took."""

    def close(self) -> None:
        """Give the descriptors back; programs that are attached stay."""
        for fd in self.fds.values():
            os.close(fd)


def has_cookies() -> bool:
    """Say whether programs can ask for the cookie of their probe (Linux 5.15): tried."""
    try:
        os.close(_load("aw_cookie", _ASKS_FOR_COOKIE))
    except KernelError:
        return False
    return True


class Loading:
    """Programs that are being loaded, one a :meth:`step`, which takes the verifier some ms."""

    def __init__(self, code: Code, pin_dir: Path) -> None:
        """Open the maps.

        Args:
            code: What to load.
            pin_dir: Where the wall's maps are pinned, by their names.

        Raises:
            KernelError: One is not there.
        """
        self._code = code
        self._left = list(code.programs.items())
        self._fds: dict[str, int] = {}
        self._maps: list[int] = []
        try:
            for name in code.maps:
                self._maps.append(_open(pin_dir / name))
        except BaseException:
            self.close()
            raise

    def step(self) -> Programs | None:
        """Load one more; return all when there is none left, which are the caller's then.

        Raises:
            VerifierError: The kernel refuses a program, for what is in it.
            KernelError: It refuses it for another reason.
        """
        if self._left:
            name, instructions = self._left[0]
            self._fds[name] = _load(name, self._with_maps(instructions))
            del self._left[0]
        if self._left:
            return None
        code = self._code
        programs = Programs(fds=self._fds, bcc=code.bcc, compile_s=code.seconds)
        self._fds = {}
        self.close()
        return programs

    def _with_maps(self, instructions: bytes) -> bytes:
        made = bytearray(instructions)
        for at, place in map_loads(instructions):
            opcode, registers, offset, _ = INSTRUCTION.unpack_from(made, at)
            INSTRUCTION.pack_into(made, at, opcode, registers, offset, self._maps[place])
        return bytes(made)

    def close(self) -> None:
        """Give back what is open; may be called at any time."""
        for fd in (*self._maps, *self._fds.values()):
            os.close(fd)
        self._maps, self._fds = [], {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def load(code: Code, pin_dir: Path) -> Programs:
    """Load all at once, as :class:`Loading` does: some 30 ms.

    Raises:
        KernelError: As there.
    """
    with Loading(code, pin_dir) as loading:
        while (programs := loading.step()) is None:
            pass
        return programs


def _open(path: Path) -> int:
    name = ctypes.create_string_buffer(os.fsencode(path))
    return perf.bpf(_OBJ_GET, _Get(ctypes.addressof(name), 0, 0), f"{path}: open pinned map")


def _load(name: str, instructions: bytes) -> int:
    """Load one program.

    Raises:
        KernelError: The kernel refuses it.
    """
    what = f"load {name}"
    code = ctypes.create_string_buffer(instructions, len(instructions))
    licence = ctypes.create_string_buffer(_LICENCE)
    asked = _Load(
        prog_type=_KPROBE,
        insn_cnt=len(instructions) // INSTRUCTION.size,
        insns=ctypes.addressof(code),
        license=ctypes.addressof(licence),
        prog_name=name.encode()[:_NAME_LEN],
    )
    try:
        return _tried(asked, what)
    except KernelError as err:
        refusal = err
    # Once more, for the reason.
    log = ctypes.create_string_buffer(_LOG_BYTES)
    asked.log_level, asked.log_size, asked.log_buf = 1, _LOG_BYTES, ctypes.addressof(log)
    try:
        return _tried(asked, what)
    except KernelError:
        said = log.value.decode(errors="replace")
    if not said.strip():
        raise refusal
    reason = f"{what}: {_reason(said)}"
    raise VerifierError(refusal.errno or errno.EINVAL, reason, said[-_KEPT_LOG:]) from refusal


def _tried(asked: _Load, what: str) -> int:
    for _ in range(_ATTEMPTS - 1):
        try:
            return perf.bpf(_PROG_LOAD, asked, what)
        except KernelError as err:
            if err.errno != errno.EAGAIN:
                raise
    return perf.bpf(_PROG_LOAD, asked, what)


def _reason(log: str) -> str:
    """Return the last line that says anything but how much was looked at."""
    lines = [line.strip() for line in log.splitlines()]
    useful = [line for line in lines if line and not line.startswith(_NO_REASON)]
    return useful[-1] if useful else "no reason given"
