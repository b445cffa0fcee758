# SPDX-License-Identifier: Apache-2.0
"""Where in a function's first instructions a probe costs least.

Under a probe on x86-64 the kernel carries out some instructions itself, and steps through others,
with a debug exception more: in the virtual machine of docs/benchmarks.md the trap then takes 9 us
instead of 0.7, presumably because that exception leaves the guest. arch/x86/kernel/uprobes.c has
which: ``branch_setup_xol_ops`` and ``push_setup_xol_ops``. A kernel that steps through them too is
no worse off. Counterpart: :mod:`agentwall.probes.attached`.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator, Mapping

from agentwall.flow.tls import TlsLibrary
from agentwall.probes.libraries import places_of

LONGEST = 64
"""Octets of a function that are looked at."""

# Exact encodings, so that the next one begins where each ends. None of them jumps, nor writes to a
# register or memory in which one of three arguments is.
_PASSED = re.compile(
    rb"(?:"
    rb"\xf3\x0f\x1e\xfa"  # endbr64
    rb"|\x48\x83\xec."  # sub $imm8, %rsp
    rb"|\x48\x81\xec...."  # sub $imm32, %rsp
    rb"|\x64\x48\x8b\x04\x25\x28\x00\x00\x00"  # mov %fs:0x28, %rax
    rb"|\x48\x89\x44\x24."  # mov %rax, imm8(%rsp)
    rb"|\x31[\xc0\xc9]"  # xor of %eax, or %ecx, with itself
    rb"|\x45\x31[\xc0\xc9]"  # xor of %r8d, or %r9d
    rb"|\x48?\x85[\xc0-\xff]"  # test of two registers
    rb"|\x48\x83\x7f.."  # cmpq $imm8, imm8(%rdi)
    rb")*",
    re.DOTALL,
)
_READS, _WRITES = ("SSL_read", "SSL_read_ex"), ("SSL_write", "SSL_write_ex")
_PASSED_ON = re.compile(rb"(?:\xf3\x0f\x1e\xfa)?\x48\x83\xec\x08\xe8....", re.DOTALL)
_PUSH = re.compile(rb"\x41?[\x50-\x57]")
_CARRIED_OUT = re.compile(
    rb"[\x50-\x57]"  # push
    rb"|\x41[\x50-\x57]"
    rb"|[\x70-\x7f]"  # jcc
    rb"|\x0f[\x80-\x8f]"
    rb"|[\xe8\xe9\xeb]"  # call, jmp
    rb"|\x90"  # nop
)


def cheapest_places(
    fd: int, library: TlsLibrary, offsets: Mapping[str, int]
) -> Iterator[tuple[str, int, str, bool]]:
    """Yield what ``libraries.places_of`` does, entries where they cost least.

    A function that has a probe at its return keeps that of its entry beside it: one trap is both.
    Reads and writes of OpenSSL have theirs where they come together, if that is known.

    Args:
        fd: The library, open for reading.
        library: Which one it is.
        offsets: Where in the file its functions begin, by symbol.
    """
    places = list(places_of(library, offsets))
    reads, writes = (_inner(fd, offsets, names) for names in (_READS, _WRITES))
    if reads is not None and _PUSH.match(_code(fd, reads)):
        places = [each for each in places if each[0] not in _READS]
        yield "SSL_read_ex", reads, "aw_hear_ex_back", True
        yield "SSL_read_ex", reads, "aw_hear_ex", False
    if writes is not None:
        places = [each for each in places if each[0] not in _WRITES]
        yield "SSL_write_ex", writes + cheapest(_code(fd, writes)), "aw_say_ex", False
    returning = {offset for _, offset, _, is_return in places if is_return}
    for symbol, offset, program, is_return in places:
        at = offset if offset in returning else offset + cheapest(_code(fd, offset))
        yield symbol, at, program, is_return


def _inner(fd: int, offsets: Mapping[str, int], names: tuple[str, str]) -> int | None:
    """Return where the function is that both *names* call, if that is sure.

    ``ssl_read_internal`` and ``ssl_write_internal`` of OpenSSL 3.0 take and return what
    SSL_read_ex(3) and SSL_write_ex(3) do. No name leads to them, so it must be the one function
    that the latter calls, with its arguments where they were, and SSL_read(3) must call it too. A
    BIO_f_ssl(3) calls it as well, and goes through neither of the exported ones.
    """
    if not all(name in offsets for name in names):
        return None
    outer, extended = (_code(fd, offsets[name]) for name in names)
    call = _PASSED_ON.match(extended)
    if call is None:
        return None
    inner = _target(offsets[names[1]], extended, call.end())
    calls = (m.end() + 4 for m in re.finditer(rb"\xe8(?=....)", outer, re.DOTALL))
    return inner if inner in [_target(offsets[names[0]], outer, end) for end in calls] else None


def _target(offset: int, code: bytes, end: int) -> int:
    return offset + end + int.from_bytes(code[end - 4 : end], "little", signed=True)


def _code(fd: int, offset: int) -> bytes:
    if platform.machine() != "x86_64":
        return b""
    try:
        return os.pread(fd, LONGEST, offset)
    except (OSError, ValueError, OverflowError):
        return b""  # whoever attaches says what is wrong with the file


def cheapest(code: bytes) -> int:
    """Return where in a function to probe its entry: octets from its beginning, mostly 0.

    There the first three arguments are in their registers still, and the stack pointer is lower.
    Not for a probe at the return, which finds the return address on top of the stack.

    Args:
        code: Of the function, from its first octet on, for x86-64.
    """
    passed = _PASSED.match(code[:LONGEST])
    assert passed is not None
    return passed.end() if _CARRIED_OUT.match(code[:LONGEST], passed.end()) else 0
