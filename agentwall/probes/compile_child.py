# SPDX-License-Identifier: Apache-2.0
"""Compiles ``bpf/probes/tls.c`` with bcc and hands over descriptors of the loaded programs.

A script for the distribution's own Python, which has bcc; nothing of agentwall is imported, and
LLVM goes when this process ends. Its parent is ``compiling``. argv[1] is a socket
(``SOCK_SEQPACKET``) that gets one request and gives one answer, both JSON objects:

* request: ``pin_dir``, ``source_dir``, ``programs`` (names, at most 253)
* answer: ``ok`` true, ``bcc``, ``seconds``, ``peak_kib``, ``cookies`` (whether the programs tell
  one probe from another), with the descriptors, in the order of ``programs``, as SCM_RIGHTS
* or: ``ok`` false, ``error`` (a line), ``log`` (the last of what bcc printed)

Descriptor 2 is a file of the parent's where bcc's C++ writes what is wrong.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import sys
import time
from typing import Any

PINNED = (
    *("aw_plain_cgroups", "aw_plain_calls", "aw_plain_connections", "aw_plain_counters"),
    "aw_plain_next",
)
"""The maps of the wall that the source opens. bcc would make one that is missing."""
REQUEST_BYTES = 65536
LOG_BYTES = 8192
"""Of the end of the log."""

_PATH = re.compile(r"[A-Za-z0-9_./+-]+", re.ASCII)
_NO_REASON = ("processed ", "HINT:", "verification time", "stack depth")


class Refused(Exception):
    """What is wrong, in one line."""


class NotLoaded(Refused):
    """The kernel refuses a program."""


def compile_programs(request: dict[str, Any], *, cookies: bool) -> list[int]:
    """Return the descriptors of the loaded programs; they live as long as this process."""
    from bcc import BPF

    pins, sources = request["pin_dir"], request["source_dir"]
    for path in (pins, sources):
        if not _PATH.fullmatch(path):
            raise Refused(f"{path!a}: expected letters, digits and _./+- in it")
    for name in PINNED:
        if not os.path.exists(f"{pins}/{name}"):
            raise Refused(f"{pins}/{name}: expected a pinned map, got none")
    os.environ["BCC_KERNEL_SOURCE"] = f"{sources}/headers"
    flags = [f"-I{sources}", f'-DAW_PIN_DIR="{pins}"', f"-DAW_COOKIES={cookies:d}"]
    try:
        with open(f"{sources}/tls.c", encoding="utf-8") as file:
            module = BPF(text=file.read(), cflags=flags)
    except OSError as err:
        raise Refused(f"{sources}/tls.c: {(err.strerror or '').lower()}") from err
    except Exception as err:
        raise Refused(f"compile tls.c: {reason_of(read_log(), err)}") from err
    descriptors = []
    for name in request["programs"]:
        try:
            descriptors.append(module.load_func(name, BPF.KPROBE).fd)
        except Exception as err:
            raise NotLoaded(f"load {name}: {reason_of(read_log(), err)}") from err
    return descriptors


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


def answer(request: dict[str, Any], began_s: float) -> tuple[dict[str, Any], list[int]]:
    """Compile; return the answer and its descriptors."""
    import bcc

    cookies = True
    try:
        descriptors = compile_programs(request, cookies=True)
    except NotLoaded:
        # Before Linux 5.15.
        os.ftruncate(2, 0)
        os.lseek(2, 0, os.SEEK_SET)
        cookies = False
        descriptors = compile_programs(request, cookies=False)
    return {
        "ok": True,
        "bcc": bcc.__version__,
        "seconds": round(time.monotonic() - began_s, 3),
        "peak_kib": peak_kib(),
        "cookies": cookies,
    }, descriptors


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


def serve(channel: socket.socket) -> None:
    """Answer one request."""
    began_s = time.monotonic()
    be_expendable()
    descriptors: list[int] = []
    try:
        # The slow part that needs no request.
        import bcc  # noqa: F401

        imported_s = time.monotonic() - began_s
        text = channel.recv(REQUEST_BYTES)
        if not text:
            return
        reply, descriptors = answer(json.loads(text), time.monotonic() - imported_s)
    except Refused as err:
        reply = {"ok": False, "error": str(err), "log": read_log()}
    except ImportError as err:
        error = f"{sys.executable}: no bcc (python3-bpfcc): {str(err).lower()}"
        reply = {"ok": False, "error": error, "log": read_log()}
    except Exception as err:  # noqa: BLE001 - bcc may raise anything, and the parent is to know
        error = f"{type(err).__name__}: {err}".splitlines()[0]
        reply = {"ok": False, "error": error, "log": read_log()}
    socket.send_fds(channel, [json.dumps(reply).encode()], descriptors)


if __name__ == "__main__":
    try:
        with socket.socket(fileno=int(sys.argv[1])) as asked:
            serve(asked)
    finally:
        sys.stderr.flush()
        # bcc would tidy up what the kernel takes back anyway.
        os._exit(0)
