# SPDX-License-Identifier: Apache-2.0
"""Compiles ``bpf/probes/tls.c`` with bcc and hands over the programs' instructions.

A script for the distribution's own Python, which has bcc; nothing of agentwall is imported, and
LLVM goes when this process ends. Its parent is ``compiling``. argv[1] is a socket (``SOCK_STREAM``)
for the answer, argv[2] the request, a JSON object:

* request: ``source_dir``, ``programs`` and ``maps`` (names), ``cookies`` (whether this kernel has
  ``bpf_get_attach_cookie()``)
* answer: a JSON object on a line, then all instructions; ``ok`` true, and what ``code.Code.decode``
  takes: an instruction that takes a map has the map's place in ``maps``
* or: ``ok`` false, ``error`` (a line), ``log`` (the last of what bcc printed)

Nothing is loaded here. bcc makes maps of its own of the same names, which end with this process.
Descriptor 2 is a file of the parent's where bcc's C++ writes what is wrong.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import struct
import sys
import time
from typing import Any

LOG_BYTES = 8192
"""Of the end of the log."""

_PATH = re.compile(r"[A-Za-z0-9_./+-]+", re.ASCII)
_NO_REASON = ("processed ", "HINT:", "verification time", "stack depth")
_INSTRUCTION = struct.Struct("=BBhi")
_LOAD_64, _OF_MAP = 0x18, 1


class Refused(Exception):
    """What is wrong, in one line."""


def compile_programs(request: dict[str, Any]) -> list[bytes]:
    """Return the instructions of the programs, in the order of the request."""
    from bcc import BPF
    from bcc.libbcc import lib

    sources = request["source_dir"]
    if not _PATH.fullmatch(sources):
        raise Refused(f"{sources!a}: expected letters, digits and _./+- in it")
    os.environ["BCC_KERNEL_SOURCE"] = f"{sources}/headers"
    flags = [f"-I{sources}", f"-DAW_COOKIES={request['cookies']:d}"]
    try:
        with open(f"{sources}/tls.c", encoding="utf-8") as file:
            module = BPF(text=file.read(), cflags=flags)
    except OSError as err:
        raise Refused(f"{sources}/tls.c: {(err.strerror or '').lower()}") from err
    except Exception as err:
        raise Refused(f"compile tls.c: {reason_of(read_log(), err)}") from err
    places = {
        lib.bpf_table_fd(module.module, name.encode()): place
        for place, name in enumerate(request["maps"])
    }
    found = []
    for name in request["programs"]:
        try:
            instructions = module.dump_func(name)
        except Exception as err:
            raise Refused(f"compile {name}: {reason_of(read_log(), err)}") from err
        found.append(without_descriptors(name, instructions, places))
    return found


def without_descriptors(name: str, instructions: bytes, places: dict[int, int]) -> bytes:
    """Return *instructions* with the place of each map in place of its descriptor."""
    made, at = bytearray(instructions), 0
    while at < len(made):
        opcode, registers, offset, immediate = _INSTRUCTION.unpack_from(made, at)
        if opcode == _LOAD_64 and registers >> 4 == _OF_MAP:
            if immediate not in places:
                raise Refused(f"compile {name}: expected maps of the wall, got another")
            _INSTRUCTION.pack_into(made, at, opcode, registers, offset, places[immediate])
        at += _INSTRUCTION.size * (2 if opcode == _LOAD_64 else 1)
    return bytes(made)


def read_log() -> str:
    """Return the end of what was printed."""
    sys.stderr.flush()
    size = os.fstat(2).st_size
    return os.pread(2, LOG_BYTES, max(size - LOG_BYTES, 0)).decode(errors="replace")


def reason_of(log: str, error: BaseException) -> str:
    """Return the line of *log* that says what is wrong; what *error* says where it has none."""
    lines = [line.strip() for line in log.splitlines()]
    for line in lines:
        if "error: " in line:
            return line.replace("/virtual/main.c", "tls.c")
    useful = [line for line in lines if line and not line.startswith(_NO_REASON)]
    return useful[-1] if useful else str(error).strip() or type(error).__name__


def answer(request: dict[str, Any], began_s: float) -> tuple[dict[str, Any], bytes]:
    """Compile; return the answer and its instructions."""
    import bcc

    found = compile_programs(request)
    return {
        "ok": True,
        "programs": request["programs"],
        "sizes": [len(each) for each in found],
        "maps": request["maps"],
        "cookies": request["cookies"],
        "bcc": bcc.__version__,
        "seconds": round(time.monotonic() - began_s, 3),
        "peak_kib": peak_kib(),
    }, b"".join(found)


def peak_kib() -> int:
    """Return the most memory this process has had; getrusage(2) would count the parent's too."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    return 0


def be_expendable() -> None:
    """Have the kernel end this process, not the daemon it inherits from, where memory is short."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def serve(channel: socket.socket, request: dict[str, Any]) -> None:
    """Answer the request."""
    began_s = time.monotonic()
    be_expendable()
    instructions = b""
    try:
        reply, instructions = answer(request, began_s)
    except Refused as err:
        reply = {"ok": False, "error": str(err), "log": read_log()}
    except ImportError as err:
        error = f"{sys.executable}: no bcc (python3-bpfcc): {str(err).lower()}"
        reply = {"ok": False, "error": error, "log": read_log()}
    except Exception as err:  # noqa: BLE001 - bcc may raise anything, and the parent is to know
        error = f"{type(err).__name__}: {err}".splitlines()[0]
        reply = {"ok": False, "error": error, "log": read_log()}
    channel.sendall(json.dumps(reply).encode() + b"\n" + instructions)


if __name__ == "__main__":
    try:
        with socket.socket(fileno=int(sys.argv[1])) as asked:
            serve(asked, json.loads(sys.argv[2]))
    finally:
        sys.stderr.flush()
        # bcc would tidy up what the kernel takes back anyway.
        os._exit(0)
