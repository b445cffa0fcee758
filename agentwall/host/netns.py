# SPDX-License-Identifier: Apache-2.0
"""The caller's network namespace: its identity, who shares it, and which addresses are its own."""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Iterable
from typing import Literal

from agentwall.errors import UnsupportedFeatureError
from agentwall.net.endpoint import IPAddress

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
