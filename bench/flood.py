# SPDX-License-Identifier: Apache-2.0
"""``python -m bench.flood KIND COUNT``: does what makes the wall report COUNT events of one kind.

Runs inside the sandbox, so it is the only one here that is refused anything.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Callable, Mapping
from typing import TypeVar

from bench.ground import FAR_ADDRESS, LOCAL_ADDRESS

REFUSED_ADDRESS = "192.0.2.1"
_REFUSED_NAME = "refused.example.net"
_DNS_PORT = 53
_FIRST_PORT = 1024
_T = TypeVar("_T")


def _send_to_ports(address: str, count: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        for port in range(_FIRST_PORT, _FIRST_PORT + count):
            client.sendto(b"flow", (address, port))


def send_by_address(count: int) -> None:
    """Begin a flow to each of *count* ports, permitted by address, where nobody listens."""
    _send_to_ports(FAR_ADDRESS, count)


def send_by_name(count: int) -> None:
    """Begin a flow to each of *count* ports, permitted by name."""
    _send_to_ports(LOCAL_ADDRESS, count)


def connect_where_refused(count: int) -> None:
    """Try *count* connections that no rule permits."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
        for port in range(_FIRST_PORT, _FIRST_PORT + count):
            _expect_refusal(client.connect, (REFUSED_ADDRESS, port))


def ask_what_is_refused(count: int) -> None:
    """Ask *count* times for a name that no rule permits, where nothing answers in its place."""
    name = b"".join(bytes([len(label)]) + label.encode() for label in _REFUSED_NAME.split("."))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect((FAR_ADDRESS, _DNS_PORT))
        for number in range(count):
            head = struct.pack("!6H", number & 0xFFFF, 0x0100, 1, 0, 0, 0)
            question = head + name + b"\0" + struct.pack("!2H", 1, 1)
            _expect_refusal(client.send, question)


def _expect_refusal(attempt: Callable[[_T], object], argument: _T) -> None:
    try:
        attempt(argument)
    except PermissionError:
        return
    raise RuntimeError("expected a refusal, got none")


KINDS: Mapping[str, Callable[[int], None]] = {
    "by-address": send_by_address,
    "by-name": send_by_name,
    "refused": connect_where_refused,
    "question": ask_what_is_refused,
}

if __name__ == "__main__":
    KINDS[sys.argv[1]](int(sys.argv[2]))
