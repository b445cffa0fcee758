# SPDX-License-Identifier: Apache-2.0
"""Ways out that let the other side call."""

from __future__ import annotations

import socket

from techniques.plan import Plan


def accepted(plan: Plan, local_port: int, family: int, bound: bool = True) -> None:
    """Listen, let the harness call, and answer with the payload.

    With ``bound`` false, listen() chooses the port itself and bind() is never called.
    """
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.settimeout(plan.timeout_s)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if bound:
            listener.bind(("", local_port))
        listener.listen()
        print(f"port {listener.getsockname()[1]}", flush=True)
        plan.pause()
        connection, _ = listener.accept()
        with connection:
            connection.sendall(plan.marker)
            connection.settimeout(plan.timeout_s)
            connection.recv(64)


def simultaneous_open(plan: Plan, to: str, local_port: int) -> None:
    """Call a peer from the port on which peers may call us."""
    with plan.open(to, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with socket.socket(sock.family, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("", local_port))
        sock.bind(("", local_port))
        sock.connect(plan.place(to).address)
        sock.sendall(plan.marker)


def datagram_answered(plan: Plan, local_port: int) -> None:
    """Wait for a datagram from the harness and answer it with the payload."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(plan.timeout_s)
        sock.bind(("", local_port))
        print(f"port {local_port}", flush=True)
        plan.pause()
        _, peer = sock.recvfrom(64)
        sock.sendto(plan.marker, peer)
