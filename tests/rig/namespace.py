# SPDX-License-Identifier: Apache-2.0
"""Network namespaces of the test's own, and ways to do something inside one.

Commands go through ``nsenter --net``: ``ip netns exec`` would remount /sys, and cgroupfs with it.
"""

from __future__ import annotations

import ctypes
import ipaddress
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rig.cgroup import in_cgroup
from rig.process import run_checked, stop

T = TypeVar("T")

NETNS_DIRECTORY = Path("/run/netns")
"""Where iproute2 keeps the files that stand for namespaces."""

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Namespace:
    """A network namespace by its name below /run/netns."""

    name: str

    @property
    def path(self) -> Path:
        """The file that stands for the namespace."""
        return NETNS_DIRECTORY / self.name

    def inside(self, *command: str | Path) -> list[str]:
        """Return *command* as run in this namespace, in the caller's cgroup and mounts."""
        return ["nsenter", f"--net={self.path}", "--", *map(str, command)]

    def command(self, *command: str | Path, cgroup: Path | None = None) -> list[str]:
        """Return *command* as run in this namespace and in *cgroup*."""
        return self.inside(*(in_cgroup(cgroup, *command) if cgroup else command))

    def run(
        self,
        *command: str | Path,
        cgroup: Path | None = None,
        text: str | None = None,
        timeout_s: float = 120.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run *command* to its end here, *text* being its stdin; the exit code is not judged.

        Raises:
            subprocess.TimeoutExpired: It took longer than *timeout_s*, and was killed.
        """
        with self.process(*command, cgroup=cgroup) as child:
            out, err = child.communicate(text, timeout=timeout_s)
            return subprocess.CompletedProcess(child.args, child.returncode, out, err)

    @contextmanager
    def process(
        self, *command: str | Path, cgroup: Path | None = None
    ) -> Iterator[subprocess.Popen[str]]:
        """Run *command* here beside the block, its streams being pipes; end it after the block."""
        child = subprocess.Popen(
            self.command(*command, cgroup=cgroup),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            yield child
        finally:
            stop(child)
            for stream in (child.stdin, child.stdout, child.stderr):
                if stream is not None:
                    with suppress(BrokenPipeError):
                        stream.close()

    def call(self, function: Callable[[], T]) -> T:
        """Call *function* in this namespace, on a thread of its own, and return what it returns.

        Sockets it makes stay in the namespace; the calling thread never enters it.
        """
        outcome: list[T] = []
        errors: list[BaseException] = []

        def enter_and_call() -> None:
            try:
                _enter(self.path)
                outcome.append(function())
            except BaseException as err:  # noqa: BLE001 - raised again by the caller's thread
                errors.append(err)

        thread = threading.Thread(target=enter_and_call, name=f"in {self.name}")
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return outcome[0]

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """Return a new socket of this namespace."""
        return self.call(lambda: socket.socket(family, kind, protocol))

    def set(self, key: str, value: object) -> None:
        """Write one of this namespace's sysctls, such as ``net/ipv4/ip_forward``."""
        self.call(lambda: Path("/proc/sys", key).write_text(f"{value}\n"))

    def listens(self, port: int, address: str | None = None) -> bool:
        """True once something listens on TCP *port* in this namespace, at *address* if given."""
        tables = self.call(
            lambda: [Path("/proc/thread-self/net", t).read_text() for t in ("tcp", "tcp6")]
        )
        wanted = f"{_in_table(address) if address else ''}:{port:04X}"
        return any(
            fields[1].endswith(wanted) and fields[3] == "0A"
            for table in tables
            for fields in map(str.split, table.splitlines()[1:])
        )

    def ip(self, *arguments: str) -> str:
        """Run iproute2's ``ip`` on this namespace and return what it prints."""
        return run_checked("ip", "-n", self.name, *arguments)


def _in_table(address: str) -> str:
    """Return *address* as /proc/net/tcp and tcp6 have it: words of four octets in host order."""
    packed = ipaddress.ip_address(address).packed
    words = (packed[at : at + 4] for at in range(0, len(packed), 4))
    return "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words)


def _enter(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _set_namespace(fd, str(path))
    finally:
        os.close(fd)


def _set_namespace(fd: int, name: str) -> None:
    if _libc.setns(fd, _CLONE_NEWNET) != 0:
        err = ctypes.get_errno()
        raise OSError(err, os.strerror(err), name)


@contextmanager
def in_netns(name: str) -> Iterator[None]:
    """Let the calling thread, and no other, be in the namespace *name* for the block."""
    with open("/proc/thread-self/ns/net", "rb") as home:
        _enter(NETNS_DIRECTORY / name)
        try:
            yield
        finally:
            _set_namespace(home.fileno(), "home")


@contextmanager
def temp_netns(label: str) -> Iterator[Namespace]:
    """Make a namespace with lo up; kill what is left in it at the end and delete it."""
    namespace = _unused(label)
    run_checked("ip", "netns", "add", namespace.name)
    try:
        # Before any device exists: addresses are usable at once, and nothing is asked of routers.
        for kind in ("all", "default"):
            namespace.set(f"net/ipv6/conf/{kind}/accept_dad", 0)
            namespace.set(f"net/ipv6/conf/{kind}/accept_ra", 0)
            namespace.set(f"net/ipv6/conf/{kind}/router_solicitations", 0)
        namespace.ip("link", "set", "lo", "up")
        yield namespace
    finally:
        _delete(namespace)


def _unused(label: str) -> Namespace:
    while True:
        namespace = Namespace(f"agentwall-test-{os.getpid()}-{next(_numbers)}-{label}")
        # One may be there still of a process that had this one's id, and was killed.
        if not namespace.path.exists():
            return namespace


def _delete(namespace: Namespace) -> None:
    for pid in run_checked("ip", "netns", "pids", namespace.name).split():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    run_checked("ip", "netns", "del", namespace.name)
