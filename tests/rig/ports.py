# SPDX-License-Identifier: Apache-2.0
"""A port for a server that takes its number from a file, and for nobody else meanwhile."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def reserved_port(address: str = "127.0.0.1") -> Iterator[int]:
    """Keep a TCP port of *address* for the length of the block; who connects is refused.

    A server with SO_REUSEADDR can listen at it, as often as it likes. The kernel gives it to nobody
    who does not ask for this very port: a port that is merely free may be another's by then.
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((address, 0))
        yield held.getsockname()[1]
