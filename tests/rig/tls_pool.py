# SPDX-License-Identifier: Apache-2.0
"""What a pool says to miners of several dialects, also over HTTP, and what miners say to it.

One port for all: Stratum v1 and CryptoNote as rig.stratum answers them, Ethereum's eth-proxy, and
each of these, getwork and getblocktemplate as JSON in HTTP. Nothing is hashed.
"""

from __future__ import annotations

import json
from enum import Enum

from rig.dialogues import BLOB, ETHEREUM, HASH, JOB, MONERO, SHARE, WORK
from rig.stratum import CryptonoteSession, StratumSession


class Form(Enum):
    """How a client says what it says."""

    LINES = "lines"
    """As a stream of lines."""
    POST = "post"
    """As the body of an HTTP request."""
    HEADERS = "headers"
    """As headers of HTTP requests."""


_LOGIN = {
    "login": MONERO,
    "pass": "x",
    "agent": "XMRig/6.21.0 (Linux x86_64)",
    "algo": ["cn/1", "rx/0"],
}
MINING: dict[Form, dict[str, tuple[str, ...]]] = {
    Form.LINES: {
        "stratum-v1": (
            '{"id": 1, "method": "mining.subscribe", "params": ["cgminer/4.12"]}',
            '{"id": 2, "method": "mining.authorize", "params": ["account.rig7", "x"]}',
            '{"id": 3, "method": "mining.submit", '
            '"params": ["account.rig7", "1f", "00000000", "6470", "b2957c02"]}',
        ),
        "cryptonote": (
            json.dumps({"id": 1, "jsonrpc": "2.0", "method": "login", "params": _LOGIN}),
            json.dumps({"id": 2, "jsonrpc": "2.0", "method": "submit", "params": SHARE}),
        ),
        "eth-proxy": (
            '{"id": 1, "jsonrpc": "2.0", "method": "eth_submitLogin", "worker": "rig7", '
            f'"params": ["{ETHEREUM}", "x"]}}',
            '{"id": 2, "jsonrpc": "2.0", "method": "eth_getWork", "params": []}',
        ),
    },
    Form.POST: {
        "getblocktemplate": (
            '{"id": 1, "method": "getblocktemplate", "params": [{"capabilities": ["workid"]}]}',
        ),
        "eth-getwork": ('{"id": 1, "jsonrpc": "2.0", "method": "eth_getWork", "params": []}',),
        "stratum-v1": ('{"id": 1, "method": "mining.subscribe", "params": ["cgminer/4.12"]}',),
    },
    Form.HEADERS: {"getwork": ("X-Mining-Extensions: longpoll midstate rollntime",)},
}
"""What miners say, by form and the dialect that the shipped signatures call it."""

CHAT: dict[Form, tuple[str, ...]] = {
    Form.LINES: (
        '{"id": 1, "jsonrpc": "2.0", "method": "textDocument/hover", "params": {"line": 3}}',
        '{"id": 2, "method": "search", "params": {"q": "{\\"method\\": \\"mining.subscribe\\"}"}}',
    ),
    Form.POST: (
        '{"id": 1, "method": "tools/call", "params": {"arguments": {"method": "mining.notify"}}}',
    ),
    Form.HEADERS: ("X-Note: X-Mining-Extensions",),
}
"""What no miner says, in each form; some of it quotes miners."""

_BUILD = {"Version": "20.10.24", "ApiVersion": "1.41", "MinAPIVersion": "1.12", "Os": "linux"}


class PoolSession:
    """What one client talks to; lines may come in any pieces, HTTP requests too."""

    def __init__(self) -> None:
        self._rest = b""
        self._is_http: bool | None = None
        self._stratum = StratumSession()
        self._cryptonote = CryptonoteSession()
        self.messages: list[str] = []
        """Each line that arrived whole; of HTTP the request line, then headers, then the body's."""

    def __call__(self, data: bytes) -> bytes:
        """Return the pool's answers to *data*."""
        self._rest += data
        if self._is_http is None and len(self._rest) >= 5:
            self._is_http = self._rest.startswith((b"GET /", b"HEAD ", b"POST ", b"PUT /"))
        return self._answer_http() if self._is_http else self._answer_lines()

    def _answer_lines(self) -> bytes:
        *lines, self._rest = self._rest.split(b"\n")
        return b"".join(self._answer(line) for line in lines if line.strip())

    def _answer_http(self) -> bytes:
        answers = b""
        while b"\r\n\r\n" in self._rest:
            head, _, rest = self._rest.partition(b"\r\n\r\n")
            size = _content_length(head)
            if len(rest) < size:
                # curl waits for a word before it sends a long body.
                break
            body, self._rest = rest[:size], rest[size:]
            self.messages += head.decode(errors="replace").split("\r\n")
            answers += self._response(head, body)
        return answers

    def _response(self, head: bytes, body: bytes) -> bytes:
        kind = b"application/json"
        content = b"".join(self._answer(line) for line in body.split(b"\n") if line.strip())
        path = head.split(b" ", 2)[1]
        if b"info/refs" in path:
            kind = b"application/x-git-upload-pack-advertisement"
            refs = b"%s HEAD\x00agent=git/2\n" % (b"5f" * 20)
            content = b"001e# service=git-upload-pack\n0000%04x%s0000" % (len(refs) + 4, refs)
        elif not body:
            content = json.dumps(_BUILD).encode()
        fields = (
            b"HTTP/1.1 200 OK",
            b"Content-Type: %s",
            b"Content-Length: %d",
            b"Api-Version: 1.41",
        )
        answer = b"\r\n".join((*fields, b"", b"")) % (kind, len(content))
        return answer if head.startswith(b"HEAD") else answer + content

    def _answer(self, line: bytes) -> bytes:
        self.messages.append(line.decode(errors="replace"))
        try:
            request = json.loads(line)
            method, ident = request["method"], request["id"]
        except (ValueError, KeyError, TypeError):
            return self._stratum(line + b"\n")
        if method in ("login", "submit", "keepalived"):
            return self._cryptonote(line + b"\n")
        if result := _RESULTS.get(method):
            return json.dumps({"id": ident, "jsonrpc": "2.0", "result": result}).encode() + b"\n"
        return self._stratum(line + b"\n")


_RESULTS: dict[object, object] = {
    "eth_submitLogin": True,
    "eth_getWork": WORK,
    "eth_submitWork": True,
    "eth_submitHashrate": True,
    "getwork": {"data": "00" * 128, "midstate": HASH, "target": "ff" * 32},
    "getblocktemplate": {"version": 2, "previousblockhash": HASH, "coinbasetxn": {"data": "01"}},
    "get_block_template": {"blocktemplate_blob": BLOB, "difficulty": 480045, "height": 3},
    "getjob": JOB,
}


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0
