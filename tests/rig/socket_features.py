# SPDX-License-Identifier: Apache-2.0
"""What this kernel and this user can do with sockets, found by trying.

The names stand under ``needs`` in the catalogue of evasion techniques.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from functools import cache

MSG_FASTOPEN = 0x20000000
CLONE_NEWUSER = 0x10000000
SYS_IO_URING_SETUP, SYS_IO_URING_REGISTER = 425, 427
IORING_REGISTER_PROBE, IORING_OP_SOCKET, IO_URING_OP_SUPPORTED = 8, 45, 1
CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN = 12, 13, 21
_libc = ctypes.CDLL(None, use_errno=True)


@cache
def missing(name: str) -> str | None:
    """Return why the feature *name* is not there, or None if it is.

    Raises:
        KeyError: No such feature is known.
    """
    try:
        _PROBES[name]()
    except OSError as err:
        return f"{name}: {os.strerror(err.errno) if err.errno else err}"
    return None


def _socket(family: int, kind: int, protocol: int) -> Callable[[], None]:
    return lambda: socket.socket(family, kind, protocol).close()


def _capability(number: int) -> Callable[[], None]:
    def probe() -> None:
        with open("/proc/self/status") as status:
            line = next(text for text in status if text.startswith("CapEff:"))
        if not int(line.split()[1], 16) >> number & 1:
            raise OSError(1, "capability")

    return probe


def _io_uring() -> None:
    os.close(_setup_ring())


def _setup_ring() -> int:
    fd = int(_libc.syscall(SYS_IO_URING_SETUP, 4, ctypes.create_string_buffer(120)))
    if fd < 0:
        raise OSError(ctypes.get_errno(), "io_uring_setup")
    return fd


def _io_uring_socket() -> None:
    fd = _setup_ring()
    try:
        # struct io_uring_probe: 16 bytes, then 8 for each operation: op, resv, u16 flags, resv2.
        probe = ctypes.create_string_buffer(16 + 64 * 8)
        if _libc.syscall(SYS_IO_URING_REGISTER, fd, IORING_REGISTER_PROBE, probe, 64) < 0:
            raise OSError(ctypes.get_errno(), "io_uring_register")
        if not probe.raw[16 + IORING_OP_SOCKET * 8 + 2] & IO_URING_OP_SUPPORTED:
            raise OSError(95, "IORING_OP_SOCKET")
    finally:
        os.close(fd)


def _mptcp_fastopen() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262) as sock:
        sock.setblocking(False)
        try:
            sock.sendto(b"x", MSG_FASTOPEN, ("127.0.0.1", 1))
        except OSError as err:
            if err.errno == errno.EOPNOTSUPP:
                raise


def _user_namespaces() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0 if _libc.unshare(CLONE_NEWUSER) == 0 else ctypes.get_errno())
    _, status = os.waitpid(pid, 0)
    if status:
        raise OSError(os.waitstatus_to_exitcode(status), "unshare")


def _bash() -> None:
    if not shutil.which("bash"):
        raise OSError(2, "bash")


def _nftables() -> None:
    nft = shutil.which("nft", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if not nft or subprocess.run([nft, "list", "tables"], capture_output=True).returncode:
        raise OSError(2, "nft")


_PROBES: dict[str, Callable[[], None]] = {
    "mptcp": _socket(socket.AF_INET, socket.SOCK_STREAM, 262),
    "mptcp_fastopen": _mptcp_fastopen,
    "udplite": _socket(socket.AF_INET, socket.SOCK_DGRAM, 136),
    "sctp": _socket(socket.AF_INET, socket.SOCK_STREAM, 132),
    "io_uring": _io_uring,
    "io_uring_socket": _io_uring_socket,
    "net_admin": _capability(CAP_NET_ADMIN),
    "net_raw": _capability(CAP_NET_RAW),
    "sys_admin": _capability(CAP_SYS_ADMIN),
    "user_namespaces": _user_namespaces,
    "bash": _bash,
    "nftables": _nftables,
}
