# SPDX-License-Identifier: Apache-2.0
"""What miners and pools say to each other in each dialect, and talk that only looks like it.

Written after the protocols' documents; no bytes of anybody's capture. Wallets are made up.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from agentwall.detect.conversation import Conversation
from agentwall.net.endpoint import Endpoint, L4Protocol

MONERO = "48" + "edfHu7V9Z84YzzMa6fUueoELZ9ZRXq9VetWzYGzKt52" * 2 + "aBcDeFg"
ETHEREUM = "0x" + "52bc44d5378309ee2abf1539bf71de1b7d7be3b5"
KASPA = "kaspa:" + "qz" * 30 + "0"
HASH = "5f" * 32
WORK = ["0x" + HASH, "0x" + HASH, "0x" + "0" * 8 + "f" * 56]
BLOB = "10" * 76
JOB = {"blob": BLOB, "job_id": "Xq1", "target": "b88d0600", "algo": "rx/0", "height": 3}
SHARE = {"id": "s1", "job_id": "Xq1", "nonce": "0100a0ff", "result": HASH}


@dataclass(frozen=True)
class Dialogue:
    """Both sides' streams, and what they are."""

    dialect: str
    client: bytes
    server: bytes


def lines(*messages: object) -> bytes:
    """Each message in a line, as JSON without white space."""
    return b"".join(json.dumps(m, separators=(",", ":")).encode() + b"\n" for m in messages)


def call(method: str, params: object, ident: object = 1, **more: object) -> dict[str, object]:
    """A request."""
    return {"id": ident, "method": method, "params": params, **more}


def answer(result: object, ident: object = 1) -> dict[str, object]:
    """A response."""
    return {"id": ident, "result": result, "error": None}


def push(method: str, params: object) -> dict[str, object]:
    """A notification."""
    return {"id": None, "method": method, "params": params}


def conversation(client: bytes = b"", server: bytes = b"", /, **more: object) -> Conversation:
    """A conversation of these heads and nothing else, unless *more* says so."""
    base = Conversation(
        client=Endpoint(IPv4Address("10.0.0.2"), 50000, L4Protocol.TCP),
        server=Endpoint(IPv4Address("192.0.2.1"), 3333, L4Protocol.TCP),
        begin_ns=0,
        end_ns=1,
        packets=2,
        client_bytes=len(client),
        server_bytes=len(server),
        client_head=client,
        server_head=server,
    )
    return replace(base, **more)


def http(body: bytes, *headers: str, first: str = "POST / HTTP/1.1") -> bytes:
    """An HTTP message with a counted body."""
    head = [first, *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(head).encode() + body


_SUBSCRIBED = answer([[["mining.set_difficulty", "b4"], ["mining.notify", "ae"]], "08000002", 4])
_NICEHASH = ["lolMiner 1.88", "EthereumStratum/1.0.0"]
_TEMPLATE = {"capabilities": ["coinbasetxn", "workid"]}

DIALOGUES = {
    "stratum v1": Dialogue(
        "stratum-v1",
        lines(
            call("mining.subscribe", ["cgminer/4.12"]),
            call("mining.authorize", ["account.rig7", "hunter2"], 2),
            call("mining.submit", ["account.rig7", "1f", "00000000", "6470", "b2957c02"], 3),
        ),
        lines(
            _SUBSCRIBED,
            answer(True, 2),
            push("mining.set_difficulty", [2048]),
            push("mining.notify", ["1f", HASH, "01", "02", [], "20", "1d", "49", True]),
        ),
    ),
    "stratum v1, configure first": Dialogue(
        "stratum-v1",
        lines(call("mining.configure", [["version-rolling"], {"version-rolling.mask": "1fff"}])),
        lines(answer({"version-rolling": True, "version-rolling.mask": "1fff"})),
    ),
    "stratum v1, white space, method last": Dialogue(
        "stratum-v1",
        b'\r\n { "id" : "a",\t"params" : [ ] , "method" :\n "mining.subscribe" } \r\n',
        b"",
    ),
    "stratum v1, escaped": Dialogue(
        "stratum-v1", rb'{"id":1,"m\u0065thod":"mining\u002esubscribe","params":[]}' + b"\n", b""
    ),
    "stratum v1, several in a line": Dialogue(
        "stratum-v1", b'{"id":1,"method":"hello"} {"id":2,"method":"mining.subscribe"}', b""
    ),
    "stratum v1, a stray bracket first": Dialogue(
        "stratum-v1", b'{\n{"id":2,"method":"mining.subscribe","params":[]}\n', b""
    ),
    "stratum v1, pool only": Dialogue("stratum-v1", b"", lines(_SUBSCRIBED)),
    "nicehash": Dialogue(
        "ethereum-stratum",
        lines(call("mining.subscribe", _NICEHASH), call("mining.authorize", [ETHEREUM, "x"], 2)),
        lines(
            answer([["mining.notify", "ae68", "EthereumStratum/1.0.0"], "080c"]),
            push("mining.notify", ["bf", HASH, HASH, True]),
        ),
    ),
    "ethereum stratum 2": Dialogue(
        "ethereum-stratum-2",
        lines(
            call(
                "mining.hello",
                {
                    "agent": "ethminer-0.17",
                    "host": "pool.example",
                    "port": "4d2",
                    "proto": "EthereumStratum/2.0.0",
                },
            ),
            {"id": 2, "method": "mining.subscribe"},
        ),
        lines(answer({"proto": "EthereumStratum/2.0.0", "encoding": "plain"})),
    ),
    "alephium": Dialogue(
        "alephium",
        lines(call("mining.hello", ["alephium-miner", "pool.example", "1", "AlephiumStratum"])),
        lines(push("mining.notify", [{"jobId": "1", "headerBlob": "00", "targetBlob": "ff"}])),
    ),
    "eth-proxy": Dialogue(
        "eth-proxy",
        lines(
            {"worker": "eth1.0", "jsonrpc": "2.0", "params": [f"{ETHEREUM}/rig", "hunter2"]}
            | {"id": 2, "method": "eth_submitLogin"},
            call("eth_getWork", [], 5),
        ),
        lines({"jsonrpc": "2.0", "id": 0, "result": WORK}),
    ),
    "eth-proxy, pool only": Dialogue(
        "eth-proxy",
        b"",
        lines({"id": 0, "result": WORK}, {"id": 0, "result": WORK})
        + lines({"id": 0, "result": WORK}),
    ),
    "eth getwork": Dialogue(
        "eth-getwork",
        http(lines(call("eth_getWork", [])), "Host: solo.example:8545"),
        http(lines(answer(WORK)), first="HTTP/1.1 200 OK"),
    ),
    "zcash": Dialogue(
        "zcash",
        lines(call("mining.subscribe", ["equihashminer", None, "zec.pool.example", "2142"])),
        lines(
            answer([None, "c208ec77"]),
            push("mining.notify", ["1", "04000000", HASH, HASH, HASH, "5a", "1d", True]),
        ),
    ),
    "kaspa": Dialogue(
        "kaspa",
        lines(call("mining.subscribe", _NICEHASH), call("mining.authorize", [KASPA + ".r", "x"])),
        lines(push("mining.notify", ["7", [1, 2, 3, 4], 1700000000000])),
    ),
    "kawpow": Dialogue(
        "kawpow",
        lines(call("mining.subscribe", ["kawpowminer/1"])),
        lines(push("mining.notify", ["1", HASH, HASH, HASH, True, 2000000, "1b00"])),
    ),
    "ergo": Dialogue(
        "ergo",
        lines(call("mining.subscribe", _NICEHASH)),
        lines(push("mining.notify", ["1", 8, HASH, "", "", "00000002", "28" * 20, "", True])),
    ),
    "xmrig": Dialogue(
        "cryptonote",
        lines(
            {"id": 1, "jsonrpc": "2.0", "method": "login"}
            | {
                "params": {
                    "login": MONERO + ".rig7",
                    "pass": "hunter2",
                    "agent": "XMRig/6.21.0 (Linux x86_64)",
                    "algo": ["cn/1", "rx/0"],
                }
            },
            call("submit", SHARE, 2),
            call("keepalived", {"id": "s1"}, 3),
        ),
        lines(
            answer({"id": "s1", "job": JOB, "status": "OK"}),
            {"jsonrpc": "2.0", "method": "job", "params": JOB},
        ),
    ),
    "cryptonote, wallet only": Dialogue(
        "cryptonote", lines(call("login", {"login": MONERO, "pass": "x"})), b""
    ),
    "cryptonote, account": Dialogue(
        "cryptonote",
        lines(call("login", {"login": "account", "pass": "x"})),
        lines(answer({"id": "s1", "job": JOB, "status": "OK"})),
    ),
    "grin": Dialogue(
        "grin",
        lines(
            {"method": "login", "id": "Stratum", "jsonrpc": "2.0"}
            | {"params": {"login": "account", "pass": "x", "agent": "grin-miner"}},
            {"method": "getjobtemplate", "id": "Stratum", "jsonrpc": "2.0", "params": None},
        ),
        lines(
            {"id": "Stratum", "method": "getjobtemplate", "error": None}
            | {"result": {"pre_pow": "00" * 60, "height": 2, "difficulty": 1, "job_id": 0}}
        ),
    ),
    "beam": Dialogue(
        "beam",
        lines({"method": "login", "api_key": "hunter2", "id": "login", "jsonrpc": "2.0"}),
        lines({"method": "job", "id": "1", "input": HASH, "difficulty": 7, "height": 2}),
    ),
    "ckb": Dialogue(
        "ckb",
        lines(call("ckb_submitLogin", {"login": "account", "agent": "x", "worker": "rig7"})),
        b"",
    ),
    "getblocktemplate": Dialogue(
        "getblocktemplate",
        http(
            lines(call("getblocktemplate", [_TEMPLATE], 0)),
            "Authorization: Basic dXNlcjpodW50ZXIy",
            "Host: pool.example:8332",
            "User-Agent: cgminer 4.12",
            "X-Mining-Extensions: longpoll midstate",
        ),
        lines(answer(None, 0)),
    ),
    "getwork": Dialogue(
        "getwork",
        http(lines(call("getwork", [], 0)), "User-Agent: btcminer/1"),
        http(
            lines(answer({"data": "00" * 128, "target": HASH, "midstate": HASH})),
            first="HTTP/1.1 200 OK",
        ),
    ),
    "monero solo": Dialogue(
        "getblocktemplate",
        http(
            lines(call("getblocktemplate", {"wallet_address": MONERO, "extra_nonce": "00"})),
            first="POST /json_rpc HTTP/1.1",
        ),
        b"",
    ),
}

BENIGN = {
    "a tool call that quotes stratum": lines(
        call("tools/call", {"name": "write", "arguments": {"text": '{"method":"mining.submit"}'}}),
        call("tools/call", {"method": "mining.subscribe", "params": []}),
        {"jsonrpc": "2.0", "result": {"method": "mining.notify", "params": []}},
    ),
    "logs being shipped": lines(
        {"level": "warn", "msg": 'blocked {"id":1,"method":"mining.subscribe"}', "host": "c1"},
        {"level": "info", "method": "POST", "msg": "mining.authorize", "agent": "fluent-bit"},
    ),
    "an application's login": lines(
        {"jsonrpc": "2.0"} | call("login", {"user": "alice", "password": "hunter2"}),
        {"jsonrpc": "2.0"} | call("login", {"login": "alice", "pass": "hunter2"}),
        {"jsonrpc": "2.0"} | call("submit", {"job_id": "train-42", "script": "train.py"}),
        {"jsonrpc": "2.0", "method": "job", "params": {"job_id": "train-42", "state": "RUNNING"}},
    ),
    "electrum": lines(
        call("server.version", ["electrum/4.5", "1.4"]),
        call("blockchain.headers.subscribe", []),
        call("blockchain.scripthash.get_history", [HASH]),
    ),
    "a language server": b"Content-Length: 62\r\n\r\n"
    + b'{"jsonrpc":"2.0","id":1,"method":"mining.subscribe","params":1}',
    "ddp": lines(
        {"msg": "connect", "version": "1", "support": ["1"]},
        {"msg": "method", "method": "login", "params": [{"user": {"email": "a@example.org"}}]},
    ),
    "mail": b"EHLO mx.example\r\nDATA\r\nSubject: mining\r\n\r\n"
    + b'{"id":1,"method":"mining.subscribe","params":[]}\r\n.\r\n',
    "a document over http": http(
        b'<pre>\n{"id": 1, "method": "mining.subscribe", "params": []}\n</pre>',
        first="HTTP/1.1 200 OK",
    ),
    "a fixture over http": http(
        b'{"id": 1, "method": "mining.subscribe", "params": []}', first="HTTP/1.1 200 OK"
    ),
    "metrics": b"# TYPE mining_submit counter\nmining_submit 3\n",
}
