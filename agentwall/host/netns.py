# SPDX-License-Identifier: Apache-2.0
"""Network namespaces, the caller's and others': their identity, who shares them, and which
addresses are their own."""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Literal, TypeVar

from agentwall.errors import HostError, UnsupportedFeatureError
from agentwall.host import libc
from agentwall.net.endpoint import IPAddress

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000

_SO_NETNS_COOKIE = 71
"""``include/uapi/asm-generic/socket.h``; Python has no name for it."""
_COOKIE_BYTES = 8
_ANY_PORT = 0


def netns_cookie() -> int:
    """Return the cookie of the caller's network namespace: never 0, and never used again.

    Raises:
        UnsupportedFeatureError: The kernel has no such cookie (before 5.14).
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as fresh:
        try:
            raw = fresh.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, _COOKIE_BYTES)
        except OSError as err:
            raise UnsupportedFeatureError(
                err.errno or errno.ENOPROTOOPT,
                "network namespace cookie: expected Linux 5.14 or later, which policies with a "
                f"dns key need; got {err.strerror or err}",
            ) from err
    return int.from_bytes(raw, sys.byteorder)


def netns_id(pid: int | Literal["self"]) -> tuple[int, int] | None:
    """Return what tells the network namespace of a process from others; None if it has gone."""
    try:
        found = os.stat(f"/proc/{pid}/ns/net")
    except OSError:
        return None
    return found.st_dev, found.st_ino


def answers_through_lo(servers: Iterable[IPAddress]) -> bool:
    """Say whether one of *servers* is not on loopback and yet this host itself.

    Such a server, a node's own DNS cache for one, sends its answers through ``lo``.
    """
    return any(not server.is_loopback and _is_own(server) for server in servers)


def _is_own(address: IPAddress) -> bool:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
            # bind() takes addresses of this host only. Where sysctl ip_nonlocal_bind says
            # otherwise, every server counts as its own.
            probe.bind((str(address), _ANY_PORT))
    except OSError:
        return False
    return True


def in_netns_of(pid: int, function: Callable[[], T]) -> T:
    """Call *function* in the network namespace of process *pid* and return what it returns.

    It runs on a thread that ends with it, so the caller stays where it is; sockets that it makes
    stay in that namespace. Whether *pid* still is the process that was meant is for the caller to
    know, and to check afterwards.

    Raises:
        HostError: The process has gone, or its namespace may not be entered.
    """
    outcome: list[T] = []
    errors: list[BaseException] = []

    def enter_and_call(descriptor: int) -> None:
        try:
            _enter(descriptor, pid)
            outcome.append(function())
        except BaseException as err:  # noqa: BLE001 - raised again by the caller's thread
            errors.append(err)

    try:
        descriptor = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as err:
        raise HostError(f"network namespace of process {pid}: {err.strerror}") from err
    try:
        thread = threading.Thread(target=enter_and_call, args=(descriptor,), name="netns")
        thread.start()
        thread.join()
    finally:
        os.close(descriptor)
    if errors:
        raise errors[0]
    return outcome[0]


def _enter(descriptor: int, pid: int) -> None:
    try:
        libc.setns(descriptor, _CLONE_NEWNET)
    except OSError as err:
        raise HostError(f"network namespace of process {pid}: {err.strerror}") from err


def netns_cookie_of(pid: int) -> int:
    """Return the cookie of the network namespace of process *pid*, as :func:`netns_cookie`.

    Raises:
        HostError: As :func:`in_netns_of`.
        UnsupportedFeatureError: As :func:`netns_cookie`.
    """
    return in_netns_of(pid, netns_cookie)


def has_own_netns_of(pid: int) -> bool:
    """Say whether the network namespace of process *pid* is known to be another than the host's.

    The host's is that of process 1 or, where that one may not be asked, of kthreadd. Of a process
    that has gone nothing is known.
    """
    theirs = netns_id(pid)
    hosts = netns_id(1) or netns_id(2)
    return None not in (theirs, hosts) and theirs != hosts


def answers_through_lo_of(pid: int, servers: Iterable[IPAddress]) -> bool:
    """Do as :func:`answers_through_lo` in the network namespace of process *pid*.

    Raises:
        HostError: As :func:`in_netns_of`.
    """
    wanted = tuple(servers)
    if all(server.is_loopback for server in wanted):
        return False
    return in_netns_of(pid, lambda: answers_through_lo(wanted))
