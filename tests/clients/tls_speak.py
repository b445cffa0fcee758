# SPDX-License-Identifier: Apache-2.0
"""A client of Python's ssl: tls_speak.py blocking|asyncio HOST PORT UNTIL PIECES NAME TEXT.

Sends TEXT in PIECES writes, copies what comes back to stdout, exits with 0 once UNTIL was in it and
with 1 if the connection ends before. NAME is asked for in the handshake unless it is empty.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import ssl
import sys


def main(mode: str, host: str, port: str, until: str, pieces: str, name: str, text: str) -> int:
    """Run the client; return the exit code."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    writes = cut(text.encode(), int(pieces))
    try:
        if mode == "asyncio":
            asyncio.run(_stream(context, host, int(port), until.encode(), writes, name))
        else:
            _block(context, host, int(port), until.encode(), writes, name)
    except (EOFError, OSError) as err:
        print(f"tls_speak: {err!r}", file=sys.stderr)
        return 1
    return 0


def cut(text: bytes, pieces: int) -> list[bytes]:
    """Return *text* in so many pieces of about one size; less if it is shorter."""
    ends = [len(text) * i // pieces for i in range(pieces + 1)]
    return [text[a:b] for a, b in itertools.pairwise(ends) if b > a]


def _show(data: bytes) -> None:
    if not data:
        raise EOFError("the connection ended")
    sys.stdout.buffer.write(data)
    sys.stdout.flush()


def _block(
    context: ssl.SSLContext, host: str, port: int, until: bytes, writes: list[bytes], name: str
) -> None:
    with (
        socket.create_connection((host, port)) as raw,
        context.wrap_socket(raw, server_hostname=name or None) as wrapped,
    ):
        for write in writes:
            wrapped.sendall(write)
        answers = b""
        while until not in answers:
            data = wrapped.recv(65536)
            _show(data)
            answers += data


async def _stream(
    context: ssl.SSLContext, host: str, port: int, until: bytes, writes: list[bytes], name: str
) -> None:
    reader, writer = await asyncio.open_connection(
        host, port, ssl=context, server_hostname=name or ""
    )
    for write in writes:
        writer.write(write)
        await writer.drain()
    answers = b""
    while until not in answers:
        data = await reader.read(65536)
        _show(data)
        answers += data
    writer.transport.abort()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
