# SPDX-License-Identifier: Apache-2.0
"""A mining pool's first words, in Stratum v1 and in CryptoNote's dialect, without any hashing.

Stratum v1 answers ``mining.subscribe``, ``mining.authorize`` and ``mining.submit`` and announces
one job, all in the shapes of BIP 310 and of the Stratum v1 protocol of slushpool. The job's fields
are those of Bitcoin's block 1, so every length and encoding is real.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rig.listeners import Server, tcp_server
from rig.namespace import Namespace

_JOB = [
    "1f",
    # Hash of block 0, in the word order that Stratum uses.
    "0a8ce26f72b3f1b646a2a6c14ff763ae65831e939c085ae10019d66800000000",
    "01000000010000000000000000000000000000000000000000000000000000000000000000ffffffff0704ffff001d",
    "ffffffff0100f2052a0100000043410496b538e853519c726a2c91e61ec11600ae1390813a627c66fb8be7947be63c"
    "52da7589379515d4e0a604f8141781e62294721166bf621e73a82cbf2342c858eeac00000000",
    [],
    "00000001",
    "1d00ffff",
    "4966bc61",
    True,
]


class StratumSession:
    """What one miner talks to: one JSON object a line, both ways."""

    def __init__(self) -> None:
        self._rest = b""

    def __call__(self, data: bytes) -> bytes:
        """Return the pool's answers to *data*, which may hold part of a line or several."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return b"".join(self._answer(line) for line in lines if line.strip())

    def _answer(self, line: bytes) -> bytes:
        try:
            request = json.loads(line)
            ident, method = request["id"], request["method"]
        except (ValueError, KeyError, TypeError):
            return _lines({"id": None, "result": None, "error": [20, "Other/Unknown", None]})
        match method:
            case "mining.subscribe":
                channels = [["mining.set_difficulty", "b4b6693b"], ["mining.notify", "ae6812eb"]]
                return _lines({"id": ident, "result": [channels, "08000002", 4], "error": None})
            case "mining.authorize":
                return _lines(
                    {"id": ident, "result": True, "error": None},
                    {"id": None, "method": "mining.set_difficulty", "params": [2048]},
                    {"id": None, "method": "mining.notify", "params": _JOB},
                )
            case "mining.submit":
                error = [23, "Low difficulty share", None]
                return _lines({"id": ident, "result": None, "error": error})
            case _:
                return _lines({"id": ident, "result": None, "error": [20, "Other/Unknown", None]})


class CryptonoteSession:
    """What a CryptoNote miner talks to: a login is answered with a job, all else with OK."""

    def __init__(self) -> None:
        self._rest = b""

    def __call__(self, data: bytes) -> bytes:
        """Return the pool's answers to *data*, which may hold part of a line or several."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return b"".join(self._answer(json.loads(line)) for line in lines if line.strip())

    def _answer(self, request: dict[str, object]) -> bytes:
        result: dict[str, object] = {"status": "OK"}
        if request["method"] == "login":
            job = {"blob": "10" * 76, "job_id": "Xq1", "target": "b88d0600", "id": "s1"}
            result |= {"id": "s1", "job": job}
        return _lines({"id": request["id"], "jsonrpc": "2.0", "error": None, "result": result})


def _lines(*messages: dict[str, object]) -> bytes:
    return b"".join(json.dumps(message).encode() + b"\n" for message in messages)


@contextmanager
def stratum_server(namespace: Namespace, address: str, port: int = 3333) -> Iterator[Server]:
    """Run a pool at *address*; the server remembers what miners said."""
    session: Callable[[], StratumSession] = StratumSession
    with tcp_server(namespace, address, port, session=session) as server:
        yield server
