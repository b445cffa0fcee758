# SPDX-License-Identifier: Apache-2.0
"""``agentwall run`` and what only decoders can read: cut once they have, and the log says when."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rig.lab import PERMITTED, Lab, lab
from rig.listeners import Session, sink, tcp_server
from rig.process import wait_until
from rig.talking import ESCAPED, POOL, WEB, run, talk

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def here() -> Iterator[Lab]:
    with lab() as made:
        yield made


@pytest.mark.parametrize("size", [0, 1, 7])
def test_escaped_json(here: Lab, tmp_path: Path, size: int) -> None:
    """What only a decoder can read is cut by it: the pool need not answer. The log says so."""
    with tcp_server(here.far, PERMITTED, POOL, session=lambda: sink) as pool:
        done, found = run(here, tmp_path, *talk(ESCAPED, size=size))
        [detection] = found
        pool.wait(detection["bytes_left"])

    told = json.loads(done.stdout)["told"]
    assert told in ("ConnectionAbortedError", "ConnectionResetError", "BrokenPipeError")
    assert (detection["stage"], detection["verdict"]) == ("decoder", "deny")
    # A piece may pass while the one before is being decoded.
    assert detection["bytes_left"] <= len(pool.received) <= len(ESCAPED)
    assert size or detection["bytes_left"] == len(ESCAPED)


UPGRADE = (
    b"GET /proxy HTTP/1.1\r\nHost: ws.example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + base64.b64encode(bytes(16)) + b"\r\n\r\n"
)
SWITCHING = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: ICX+Yqv66kxgM0FcWaLWlFLwTAI=\r\n\r\n"
)
AUTH = json.dumps(
    {"type": "auth", "params": {"site_key": "k" * 32, "type": "anonymous", "user": None}}
).encode()


def masked(payload: bytes, key: bytes = b"\x11\x22\x33\x44") -> bytes:
    """Return a client's text frame (RFC 6455 section 5.2)."""
    size = (
        bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2)
    )
    hidden = bytes(byte ^ key[at % 4] for at, byte in enumerate(payload))
    return b"\x81" + size + key + hidden


BROWSE = """
import json, socket, sys, time
address, port, size = sys.argv[1], *map(int, sys.argv[2:4])
upgrade, frame = map(bytes.fromhex, sys.argv[4:])
sock = socket.create_connection((address, port), timeout=60)
try:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for at in range(0, len(upgrade), size):
        sock.sendall(upgrade[at : at + size])
        time.sleep(0.001)
    assert sock.recv(4096).startswith(b"HTTP/1.1 101 ")
    sock.sendall(frame)
    told = "answered" if sock.recv(4096) else "closed"
except OSError as err:
    told = type(err).__name__
print(json.dumps({"told": told}))
"""


@pytest.mark.parametrize("size", [1, 10, 1000])
def test_masked_frames(here: Lab, tmp_path: Path, size: int) -> None:
    """A browser's miner, whose words are masked, is unmasked by a decoder and cut."""

    def begin() -> Session:
        said = bytearray()

        def converse(data: bytes) -> bytes:
            said.extend(data)
            # What a miner then says is not answered: it is cut first, however long that takes.
            return SWITCHING if len(said) == len(UPGRADE) else b""

        return converse

    words = (PERMITTED, str(WEB), str(size), UPGRADE.hex(), masked(AUTH).hex())
    command = (sys.executable, "-c", BROWSE, *words)
    with tcp_server(here.far, PERMITTED, WEB, session=begin) as server:
        done, found = run(here, tmp_path, *command)
        [detection] = found
        server.wait(detection["bytes_left"])

    assert json.loads(done.stdout)["told"] in ("ConnectionAbortedError", "ConnectionResetError")
    assert (detection["class"], detection["stage"]) == ("mining", "decoder")
    assert detection["verdict"] == "deny"
    assert detection["bytes_left"] == len(server.received)


def test_wait(here: Lab, tmp_path: Path) -> None:
    """Ordinary JSON that is looked at by decoders arrives whole, both ways."""
    line = b'{"id": 7, "method": "tools/list", "params": {}}\n'
    with tcp_server(here.far, PERMITTED, WEB) as server:
        done, found = run(here, tmp_path, *talk(line * 40, port=WEB, size=301))
        wait_until(lambda: len(server.received) == 40 * len(line), what="all lines")

    assert json.loads(done.stdout)["told"] == "answered", done.stderr
    assert found == []
