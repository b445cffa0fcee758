# SPDX-License-Identifier: Apache-2.0
"""The shipped signatures of mining and of its networks: what they find, and what they let be."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentwall.detect.automaton import DEAD
from agentwall.detect.dfa import compile_automaton
from agentwall.detect.scan import scan
from agentwall.detect.signature import Side, Transport
from agentwall.detect.signature_load import load_signatures
from agentwall.flow.finding import DetectionClass

FOLDER = Path(__file__).parents[2] / "policies/signatures"
LOADED = load_signatures(
    (str(FOLDER / name), (FOLDER / name).read_text(encoding="utf-8"))
    for name in ("mining.yaml", "p2p.yaml", "pools.yaml")
)
SIGNATURES = LOADED.signatures
AUTOMATON = compile_automaton(SIGNATURES)
BLANKS = st.text(" \t\r\n", max_size=3)
HASH = hashlib.sha256(b"a share").hexdigest()
WORK = ["0x" + HASH, "0x" + HASH[::-1], "0x00000" + HASH[5:]]
BLOB = "0e0e" + HASH * 2 + HASH[:20]
WALLET = "4" + "7AhVwmTZnRsKpX9Q3cFgJdLbE" * 4
ZIP301 = ["equihashminer", None, "pool.example", "2142"]


def found(data, side=Side.CLIENT, transport=Transport.TCP):
    """Signatures that *data* matches, those that hand over among them."""
    hits = scan(AUTOMATON, transport, side, data, whole=transport is Transport.UDP)
    return [SIGNATURES[i] for hit in hits for i in AUTOMATON.accepts[hit.accept]]


def dialects(data, side=Side.CLIENT, transport=Transport.TCP):
    """Dialects that there is a finding for."""
    return {each.dialect for each in found(data, side, transport) if not each.hand_over}


def bytes_read(data, side):
    """How much of a stream is looked at until nothing can match any more; None if to its end."""
    state = AUTOMATON.starts[Transport.TCP, side]
    for count, octet in enumerate(data, 1):
        state = int(AUTOMATON.next[state, AUTOMATON.classes[octet]])
        if state == DEAD:
            return count
    return None


LINES = [
    *(
        ("stratum-v1", {"id": 1, "method": f"mining.{verb}", "params": ["a", None, {"b": [1]}]})
        for verb in (
            *("subscribe", "authorize", "configure", "submit", "extranonce.subscribe", "notify"),
            *("suggest_difficulty", "suggest_target", "get_transactions", "multi_version"),
            *("set_difficulty", "set_target", "set_extranonce", "set_version_mask", "ping"),
            *("auth", "get_job", "hashrate", "submit_hashrate", "set_cleanjobs"),
        )
    ),
    ("stratum-v1", {"id": 1, "method": "mining.subscribe", "params": ZIP301}),
    ("stratum-v1", {"params": [], "id": "mining.subscribe", "method": "mining.subscribe"}),
    ("stratum-v1", {"id": 0, "result": [[["mining.set_difficulty", "1"]], "1", 8], "error": None}),
    ("stratum-v1", {"error": None, "id": 1, "result": [["mining.notify", "ae"], "08", 4]}),
    ("ethereum-stratum", {"id": 1, "params": ["a/1", "EthereumStratum/1.0.0"]}),
    ("ethereum-stratum", {"result": [["mining.notify", "a", "EthereumStratum/1.0.0"], "08"]}),
    (
        "ethereum-stratum-2",
        {"method": "mining.hello", "params": {"proto": "EthereumStratum/2.0.0"}},
    ),
    ("ethereum-stratum-2", {"id": 0, "result": {"proto": "EthereumStratum/2.0.0"}}),
    ("ethereum-stratum-2", {"method": "mining.set", "params": {"epoch": "dc"}}),
    ("eth-proxy", {"worker": "a", "params": ["0x00", "x"], "id": 2, "method": "eth_submitLogin"}),
    ("eth-proxy", {"id": 5, "method": "eth_getWork", "params": []}),
    ("eth-proxy", {"id": 5, "method": "eth_submitWork", "params": ["0x0", "0x0", "0x0"]}),
    ("eth-proxy", {"id": 5, "method": "eth_submitHashrate", "params": ["0x0", "0x0"]}),
    ("eth-proxy", {"id": 0, "jsonrpc": "2.0", "result": WORK}),
    ("eth-proxy", {"id": 0, "jsonrpc": "2.0", "result": [*WORK, "0xc0ffee"]}),
    ("getwork", {"method": "getwork", "params": [], "id": 0}),
    ("getblocktemplate", {"id": 0, "method": "getblocktemplate", "params": [{"rules": []}]}),
    ("cryptonote", {"id": 1, "method": "login", "params": {"login": WALLET, "pass": "x"}}),
    ("cryptonote", {"method": "login", "params": {"login": "w", "agent": "XMRig/6.21.0"}}),
    ("cryptonote", {"method": "login", "params": {"agent": "cpuminer-multi", "pass": "x"}}),
    ("cryptonote", {"method": "login", "params": {"login": "w", "algo": ["rx/0", "cn/1"]}}),
    ("cryptonote", {"method": "job", "params": {"blob": BLOB, "job_id": "1", "target": "f" * 8}}),
    (
        "cryptonote",
        {"result": {"id": "1", "job": {"target": "f" * 16, "height": 5, "blob": BLOB}}},
    ),
    (
        "cryptonote",
        {"method": "submit", "params": {"job_id": "1", "nonce": "0a0b0c0d", "result": HASH}},
    ),
    ("coinhive", {"type": "auth", "params": {"version": 7, "site_key": "k"}}),
    ("grin", {"id": "Stratum", "method": "getjobtemplate", "params": None}),
    ("grin", {"method": "job", "params": {"difficulty": 1, "job_id": 5, "pre_pow": HASH}}),
    (
        "cryptonote",
        {"method": "login", "id": "Stratum", "params": {"agent": "grin-miner/5", "login": "w"}},
    ),
    ("beam", {"difficulty": 4, "height": 2, "id": "3", "input": HASH, "method": "job"}),
    ("beam", {"method": "solution", "nonce": "0" * 16, "output": HASH * 3}),
    ("ckb", {"id": 1, "method": "ckb_submitLogin", "params": {"login": "w", "worker": "r"}}),
]
WAYS = {
    "plain": b"",
    "blank lines": b"\r\n\n \t\n",
    "mark of the byte order": b"\xef\xbb\xbf",
    "other messages": b'{"id":1,"a":{"b":[{"c":"}\\""},[[1]]]}}\n {"result":true}\r\n',
    "a deep message": b'{"a":' + b"[" * 40 + b"]" * 40 + b"}\n",
    "a batch": b'[{"a":1},',
    "SOCKS4": bytes.fromhex("04010d05cb007107") + b"me\0",
    "SOCKS4a": bytes.fromhex("04010d050000000100") + b"pool.example\0",
    "SOCKS4, answer": bytes.fromhex("005a0d05cb007107"),
    "SOCKS5": bytes.fromhex("05010005010001cb0071070d05"),
    "SOCKS5, name": bytes.fromhex("0502000205010003") + b"\x0cpool.example\x0d\x05",
    "SOCKS5, password": bytes.fromhex("050102 0102")
    + b"me\x02pw\x05\x01\0\x04"
    + bytes(16)
    + b"\1\1",
    "SOCKS5, answer": bytes.fromhex("0500050000010a0000010050"),
    "SOCKS5, answer to a password": bytes.fromhex("0502010005000001") + bytes(6),
    "CONNECT": b"CONNECT pool.example:80 HTTP/1.1\r\nHost: pool.example:80\r\n\r\n",
    "CONNECT, answer": b"HTTP/1.0 200 Connection established\r\nConnection: close\r\n\r\n",
    "PROXY": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
    "WebSocket": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x89\0\x81~\1\x81",
    "WebSocket, later": b'\x81\x09{"a":[1]}\x81\x7f' + bytes(7) + b"\x90",
}


@pytest.mark.parametrize("signature", SIGNATURES, ids=lambda each: each.id)
def test_fixtures(signature):
    """Every signature finds its examples, on each side, and none of its counterexamples."""
    for side in signature.sides:
        for example in signature.examples:
            assert signature in found(example, side, signature.transport)
        for other in signature.counterexamples:
            assert signature not in found(other, side, signature.transport)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("style", [None, (",", ":"), (" , ", "\t: "), (",\r\n", ":\n")])
@pytest.mark.parametrize(("dialect", "message"), LINES)
def test_dialects(dialect, message, style, way):
    """Every dialect is found on either side, however it is written and whatever comes before."""
    text = json.dumps(message, separators=style, indent=2 if style and "\n" in style[1] else None)

    for side in Side:
        assert dialect in dialects(WAYS[way] + text.encode(), side)


POST = b"POST /json_rpc HTTP/1.1\r\nHost: a.example\r\nContent-Type: application/json\r\n\r\n"
PROXIES = b"CONNECT a.example:80 HTTP/1.1\r\n\r\nCONNECT b.example:80 HTTP/1.1\r\nHost: b\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nServer: a\r\nContent-Type: application/json\r\n\r\n"


@pytest.mark.parametrize(
    ("dialect", "stream"),
    [
        ("getwork", POST + b'{"method": "getwork", "params": [], "id":0}'),
        ("getwork", b"POST / HTTP/1.1\r\nHost: a\r\nx-mining-extensions: midstate\r\n\r\n"),
        ("getwork", b"HTTP/1.1 401 No\r\nX-Stratum: stratum+tcp://a:3333\r\n\r\n"),
        (
            "getblocktemplate",
            POST + b'{"params":[{"rules":["segwit"]}],"method":"getblocktemplate"}',
        ),
        (
            "getblocktemplate",
            POST + b'{"id":1}' + POST + b'{"method":"submitblock","params":["0"]}',
        ),
        ("getblocktemplate", POST + b'[{"id":1,"method":"get_block_template"}]'),
        ("getblocktemplate", POST + b'{"id":1,"method":"createauxblock","params":["a"]}'),
        ("getblocktemplate", PROXIES + POST + b'{"METHOD":"getminingcandidate"}'),
        ("stratum-v1", PROXIES + b'{"Method":"mining.subscribe"}'),
        ("stratum-v1", POST + b'{"id":1,"method":"mining.subscribe"}'),
        ("stratum-v1", POST + b'{"id":1}' + POST + b'35\r\n{"method":"mining.submit"}'),
        ("cryptonote", b'{"params":{"pass":"x","rigid":"","agent":"xmr-stak/2.10","login":"w"}}'),
        ("cryptonote", b'{"params":{"login":"w","pass":"x","agent":"lolMiner 1.88"}}'),
        ("getblocktemplate", OK + b'1f3\r\n{"result":{"a":[[1]],"coinbasetxn":{"data":"01"}}}'),
        ("getblocktemplate", OK + b'{"result":{"blocktemplate_blob":"' + BLOB.encode() + b'"}}'),
        ("eth-getwork", POST + b'{"id":1,"jsonrpc":"2.0","method":"eth_getWork"}'),
        ("eth-proxy", OK + b"c\r\n" + json.dumps({"id": 1, "result": WORK}).encode()),
        ("coinhive", b'\x81\x1a{"type":"hash_accepted"}'),
        ("duino-coin", b"JOB,alice,ESP32,key\n"),
        ("panchan", b"pan-chan's mining rig hi!"),
        ("bitcoin", b"\xf9\xbe\xb4\xd9version\0\0\0\0\0f\0\0\0"),
        ("bitcoin", b"\xfb\xc0\xb6\xdbverack\0\0\0\0\0\0"),
        ("bitcoin", b"\x05\x01\0\x05\x01\0\x01\1\1\1\1\x20\x8d\xf9\xbe\xb4\xd9version\0\0\0\0\0"),
        ("monero", bytes.fromhex("0121010101010101e20000000000000001e9030000")),
    ],
)
def test_other_carriers(dialect, stream):
    """HTTP with its bodies, WebSocket frames, and protocols that are not JSON."""
    assert dialect in dialects(stream, Side.CLIENT) & dialects(stream, Side.SERVER)


QUOTE = json.dumps({"id": 1, "method": "mining.subscribe", "params": []})


@pytest.mark.parametrize(
    "stream",
    [
        json.dumps({"level": "warn", "msg": QUOTE}) + "\n",
        json.dumps([{"ts": 1, "line": QUOTE}, {"ts": 2, "line": "eth_submitLogin"}]),
        json.dumps(
            {"method": "tools/call", "params": {"name": "w", "arguments": json.loads(QUOTE)}}
        ),
        json.dumps({"method": "tools/call", "params": {"text": [QUOTE, {"a": json.loads(QUOTE)}]}}),
        json.dumps({"a": {"b": {"c": {"d": {"e": {"f": json.loads(QUOTE)}}}}}}),
        f"Content-Length: {len(QUOTE)}\r\n\r\n{QUOTE}",
        f"EHLO a\r\nMAIL FROM:<a@b.example>\r\nDATA\r\nA miner says\r\n{QUOTE}\r\n.\r\n",
        f"> {QUOTE}",
        f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{QUOTE}",
        f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<pre>\n{QUOTE}\n</pre>",
        f"POST /log HTTP/1.1\r\nHost: a.example\r\n\r\n{json.dumps({'line': QUOTE})}",
        f"POST /_bulk HTTP/1.1\r\nHost: a.example\r\n\r\n{json.dumps({'index': {}})}\n{QUOTE}\n",
        f"POST /mcp HTTP/1.1\r\nHost: a.example\r\n\r\n{json.dumps({'params': [QUOTE]})}",
        f"GET /getblocktemplate?x-mining-extensions: HTTP/1.1\r\nReferer: {QUOTE}\r\n\r\n",
        '{"msg":"method","method":"login","params":[{"user":{"username":"miner"}}],"id":"1"}',
        '{"jsonrpc":"2.0","method":"login","params":{"login":"alice","password":"x"},"id":1}',
        '{"method":"login","params":{"login":"alice","pass":"x","agent":"curl/8"},"id":1}',
        '{"method":"report","params":{"agent":"XMRig/6.21.0","host":"a"},"id":1}',
        '{"method":"submit","params":{"job_id":"17","script":"a.sh","result":"pending"}}',
        '{"method":"submit","params":{"job_id":"17","nonce":"1","result":"' + HASH + '"}}',
        '{"method":"job","params":{"job_id":"17","blob":"s3://a/b","target":"worker-3"}}',
        '{"method":"job","params":{"id":"17","input":"' + HASH + '"}}',
        '{"result":{"job":{"id":1,"blob":"' + HASH * 2 + '"}}}',
        '{"id":1,"method":"blockchain.scripthash.subscribe","params":["' + HASH + '"]}',
        json.dumps({"id": 1, "jsonrpc": "2.0", "result": ["0x" + HASH] * 3}),
        '{"id":1,"method":"eth_getBlockByNumber","params":["latest",false]}',
        '{"id":1,"method":"mining.statistics","params":[]}',
        '{"id":1,"method":"getblock","params":["getwork"]}',
        "JOB,alice,backup\n",
    ],
)
@pytest.mark.parametrize("side", Side)
def test_what_only_speaks_of_mining(stream, side):
    """Logs, documents, tool calls, mail, and what else has a login, a job or a wallet."""
    assert dialects(stream.encode(), side) == set()


@pytest.mark.parametrize(
    ("stream", "most"),
    [
        (bytes.fromhex("160301020001000501fc0303") + bytes(500), 2),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", 1),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x12\4", 5),
        (b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n<html>", 38),
        (b"POST / HTTP/1.1\r\nHost: a.example\r\n\r\nname=value", 39),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<!DOCTYPE html>", 46),
        (b"220 mail.example ESMTP\r\n", 1),
        (b"\x1f\x8b\x08\0\0\0\0\0\0\3", 1),
        (hashlib.sha512(b"noise").digest(), 4),
        (b"*1\r\n$4\r\nPING\r\n", 1),
        (b"{binary \x00\x01\x02", 9),
    ],
)
@pytest.mark.parametrize("side", Side)
def test_other_protocols_are_settled_soon(stream, most, side):
    """Whatever is neither JSON nor the head of an HTTP message costs a few bytes of looking."""
    read = bytes_read(stream, side)

    assert read is not None
    assert read <= most


@pytest.mark.parametrize(
    "stream",
    [
        b'{"m\\u0065thod":"mining.subscribe"}',
        b"GET /proxy HTTP/1.1\r\nUpgrade: websocket\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{",
        PROXIES + b"GET /proxy HTTP/1.1\r\nUpgrade: websocket\r\n\r\n",
        WAYS["SOCKS5"] + b'{"a',
    ],
)
def test_handed_over(stream):
    """Where patterns do not reach, decoders are asked; that is no finding."""
    assert any(each.hand_over for each in found(stream))
    assert dialects(stream) == set()


def test_discovery_of_ethereum():
    """A ping of discv4 is low and experimental; random bytes of its size are nothing."""
    ping = bytes(96) + b"\1\1\xdd\4\xcb\x84\x7f\0\0\1" + bytes(40)
    noise = b"".join(hashlib.sha512(bytes([i])).digest() for i in range(4))

    (signature,) = found(ping, transport=Transport.UDP)
    assert signature.dialect == "ethereum"
    assert not signature.blocks
    assert found(noise, transport=Transport.UDP) == []


def test_room():
    """The automaton leaves most of the kernel's table to others."""
    assert AUTOMATON.states < 6000
    assert AUTOMATON.states * AUTOMATON.width < 700_000


def test_pools():
    """The list of pools is short, dated, and holds registrable names."""
    (pools,) = LOADED.indicators

    assert pools.cls is DetectionClass.MINING
    assert pools.dated == "2026-11-29"
    assert 50 <= len(pools.names) <= 80
    assert all(name.count(".") in (1, 2) for name in pools.names)
    assert list(pools.names) == sorted(set(pools.names))


@st.composite
def spelled(draw, value):
    """JSON of *value* with keys in some order and blanks somewhere."""
    if isinstance(value, dict):
        items = draw(st.permutations(list(value.items())))
        parts = [
            f"{draw(BLANKS)}{json.dumps(key)}{draw(BLANKS)}:{draw(BLANKS)}{draw(spelled(one))}"
            for key, one in items
        ]
        return "{" + f"{draw(BLANKS)},".join(parts) + draw(BLANKS) + "}"
    if isinstance(value, list):
        parts = [f"{draw(BLANKS)}{draw(spelled(one))}{draw(BLANKS)}" for one in value]
        return "[" + ",".join(parts) + "]"
    return json.dumps(value)


def fixed(value):
    """Whether *value* is found only with its keys in an order that its software writes."""
    return any(key in json.dumps(value) for key in ('"nonce"', '"input"', '"site_key"'))


TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(
    data=st.data(),
    case=st.sampled_from([line for line in LINES if not fixed(line[1])]),
    before=st.lists(st.dictionaries(TEXT, ANY, max_size=3), max_size=3),
)
def test_any_spelling(data, case, before):
    """Order of keys, blanks, other keys and lines before do not hide a dialect."""
    dialect, message = case
    message = {**message, "id": data.draw(st.integers() | TEXT | st.none())}
    lines = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in before)
    stream = data.draw(BLANKS) + lines + data.draw(spelled(message))

    assert dialect in dialects(stream.encode())


# Drawn text may be any word that stands in the code, and so a dialect's own method.
METHODS = TEXT.filter(lambda text: not re.search("[a-z]{4}", text)) | st.sampled_from(
    ["login", "submit", "job", "getjob", "subscribe", "initialize", "eth_call", "mining", "getinfo"]
)


@settings(max_examples=300, deadline=None)
@given(
    messages=st.lists(
        st.fixed_dictionaries(
            {"id": st.integers() | TEXT, "method": METHODS},
            optional={"jsonrpc": st.just("2.0"), "params": ANY | st.just([QUOTE]), "result": ANY},
        ),
        min_size=1,
        max_size=4,
    )
)
def test_other_remote_procedure_calls(messages):
    """JSON-RPC with other methods is none, whatever it says in its parameters."""
    stream = "\n".join(json.dumps(message) for message in messages)

    assert dialects(stream.encode(), Side.CLIENT) == set()
    assert dialects(stream.encode(), Side.SERVER) == set()
