# SPDX-License-Identifier: Apache-2.0
"""DNS servers on a sandbox's loopback that ask in its name: systemd-resolved's kind and Docker's.

They are no part of the sandbox, so what they send on no hook of its cgroup sees.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from rig.listeners import Session, udp_server
from rig.namespace import Namespace
from rig.process import run_checked
from rig.zone import DOCKER_PORT, DOCKER_STUB, RESOLVER, STUB

FORWARD_TIMEOUT_S = 30.0
_TRANSLATION = f"""
table ip docker {{
    chain output {{
        type nat hook output priority -100;
        ip daddr {DOCKER_STUB} udp dport 53 dnat to {DOCKER_STUB}:{DOCKER_PORT}
    }}
}}
"""


@contextmanager
def deputies(near: Namespace) -> Iterator[None]:
    """Serve STUB, and DOCKER_STUB at another port: see :func:`translation`."""

    def session() -> Session:
        return lambda question: _forward(near, question)

    with ExitStack() as stack:
        stack.enter_context(udp_server(near, STUB, 53, session=session))
        stack.enter_context(udp_server(near, DOCKER_STUB, DOCKER_PORT, session=session))
        yield


@contextmanager
def translation(near: Namespace) -> Iterator[None]:
    """Rewrite port 53 of DOCKER_STUB, as Docker does; needs nftables.

    Meanwhile the namespace tracks connections, and so keeps fragments back.
    """
    run_checked(*near.inside("nft", "-f", "-"), text=_TRANSLATION)
    try:
        yield
    finally:
        run_checked(*near.inside("nft", "delete", "table", "ip", "docker"))


def _forward(near: Namespace, question: bytes) -> bytes:
    with near.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(FORWARD_TIMEOUT_S)
        sock.sendto(question, (RESOLVER, 53))
        try:
            return sock.recv(1 << 16)
        except TimeoutError:
            return b""
