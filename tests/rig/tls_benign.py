# SPDX-License-Identifier: Apache-2.0
"""What agents ask of the web and what they get, none of it mining: by seed, always the same.

Pages, APIs, ordinary JSON-RPC, package indexes, repositories, models, chats and logs. Some of it is
about mining and quotes what miners say, as documents, chats, searches and logs do.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

_MODEL_BYTES = 192 * 1024
_SUBSCRIBE = '{"id": 1, "method": "mining.subscribe", "params": ["cgminer/4.12"]}'
_QUOTES = (
    _SUBSCRIBE,
    '{"id":1,"jsonrpc":"2.0","method":"login","params":{"login":"48edfHu7V9Z84YzzMa6fUueoELZ9ZRX",'
    '"pass":"x","agent":"XMRig/6.21.0"}}',
    '{"worker":"rig","jsonrpc":"2.0","params":["0x52bc44d5378309ee2abf1539bf71de1b7d7be3b5","x"],'
    '"id":2,"method":"eth_submitLogin"}',
    "mining.notify, mining.set_difficulty and mining.submit",
    "stratum+tcp://pool.example.com:3333",
    "X-Mining-Extensions: longpoll midstate",
)
_WORDS = (
    *("gradient", "cache", "tensor", "kernel", "socket", "budget", "stratum", "harbour", "river"),
    *("pool", "miner", "block", "share", "nonce", "worker", "proxy", "ledger", "proof", "hash"),
    *("schema", "window", "branch", "commit", "vector", "engine", "garden", "letter", "signal"),
)
_PACKAGES = ("numpy", "requests", "left-pad", "stratum-client", "pool-hashed", "miner-report")
_TOPICS = ("getting-started", "what-a-pool-says", "json-rpc", "changelog", "bip-0022", "faq")
_MODELS = ("tiny-bert", "nano-llm", "whisper-mini")
_AGENTS = (
    "python-requests/2.31.0",
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/124.0",
    "pip/24.0",
    "npm/10.8.2 node/v20.20.2 linux x64",
    "git/2.39.5",
    "OpenAI/Python 1.30.1",
)
_RPC: tuple[tuple[str, object], ...] = (
    ("eth_blockNumber", []),
    ("eth_getBlockByNumber", ["latest", False]),
    ("eth_call", [{"to": "0x52bc44d5378309ee2abf1539bf71de1b7d7be3b5", "data": "0x18160ddd"}, "1"]),
    ("eth_gasPrice", []),
    ("getblockcount", []),
    ("getblockhash", [1000]),
    ("getnetworkhashps", [120]),
    ("initialize", {"protocolVersion": "2024-11-05", "clientInfo": {"name": "agent"}}),
    (
        "tools/call",
        {"name": "http", "arguments": {"method": "mining.subscribe", "body": _QUOTES[1]}},
    ),
    ("textDocument/completion", {"textDocument": {"uri": "file:///pool.py"}, "position": {"l": 3}}),
    ("aria2.addUri", [["https://files.example.com/a.iso"]]),
    ("search", {"query": "mining.notify"}),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One HTTP request."""

    kind: str
    method: str
    path: str
    headers: tuple[tuple[str, str], ...] = ()
    body: str = ""
    closes: bool = False
    """The connection ends with it."""

    def text(self, host: str) -> bytes:
        """Return it as it is sent to *host*."""
        fields = [f"{self.method} {self.path} HTTP/1.1", f"Host: {host}"]
        fields += [f"{name}: {value}" for name, value in self.headers]
        if self.body:
            fields.append(f"Content-Length: {len(self.body.encode())}")
        return "\r\n".join((*fields, "", self.body)).encode()


def benign_files(seed: int) -> dict[str, bytes]:
    """Return what a server has for :func:`benign_requests`: path without the slash -> content."""
    dice = random.Random(seed)
    files = {f"docs/{topic}.html": _page(dice, topic) for topic in _TOPICS}
    for package in _PACKAGES:
        files[f"simple/{package}/index.html"] = _index(dice, package)
        files[f"npm/{package}"] = _json({"name": package, "dist-tags": {"latest": "1.1.0"}})
    for model in _MODELS:
        where = f"models/{model}/resolve/main"
        files[f"{where}/config.json"] = _json({"architectures": [model], "hidden_size": 64})
        header = _json(
            {"w": {"dtype": "F32", "shape": [_MODEL_BYTES // 4], "data_offsets": [0, 4]}}
        )
        size = len(header).to_bytes(8, "little")
        files[f"{where}/model.safetensors"] = size + header + dice.randbytes(_MODEL_BYTES)
    for number in range(8):
        files[f"api/v1/items/{number}"] = _json({"items": [_item(dice) for _ in range(20)]})
    files["repository.git/info/refs"] = f"{dice.randbytes(20).hex()}\trefs/heads/main\n".encode()
    files["repository.git/HEAD"] = b"ref: refs/heads/main\n"
    files["rpc"] = _json({"jsonrpc": "2.0", "id": 1, "result": "0x12a05f2"})
    files["graphql"] = _json({"data": {"viewer": {"login": "agent", "id": "1"}}})
    files["search"] = _json({"hits": [{"text": text} for text in _QUOTES]})
    files["v1/chat/completions"] = _json(_completion(dice))
    files["events"] = _json({"accepted": 1})
    files["_bulk"] = _json({"errors": False, "items": []})
    return files


def benign_requests(seed: int, count: int) -> list[Request]:
    """Return *count* requests; the first ones are the same whatever the count."""
    dice = random.Random(seed)
    return [_request(dice) for _ in range(count)]


def _request(dice: random.Random) -> Request:
    kind = dice.choice(list(_KINDS))
    method, path, body, more = _KINDS[kind](dice)
    headers = [("User-Agent", dice.choice(_AGENTS)), ("Accept", "*/*")]
    if dice.random() < 0.5:
        headers.append(("Cookie", f"session={dice.randbytes(dice.randrange(8, 60)).hex()}"))
    if dice.random() < 0.3:
        headers.append(("Authorization", f"Bearer {dice.randbytes(24).hex()}"))
    headers += more
    if body and not any(name == "Content-Type" for name, _ in more):
        headers.append(("Content-Type", "application/json"))
    return Request(
        kind=kind,
        method=method,
        path=path,
        headers=tuple(headers),
        body=body,
        closes=dice.random() < 0.3,
    )


_Made = tuple[str, str, str, list[tuple[str, str]]]


def _get(path: str, *more: tuple[str, str]) -> _Made:
    return "GET", path, "", [*more]


def _rpc(dice: random.Random) -> _Made:
    calls = []
    for _ in range(dice.choice((1, 1, 1, 3))):
        method, params = dice.choice(_RPC)
        call = [("jsonrpc", "2.0"), ("id", dice.randrange(1000)), ("method", method)]
        call.append(("params", params))
        dice.shuffle(call)
        calls.append(dict(call))
    return "POST", "/rpc", json.dumps(calls if len(calls) > 1 else calls[0]), []


def _chat(dice: random.Random) -> _Made:
    messages = [{"role": "system", "content": "You are a helpful assistant."}]
    for _ in range(dice.randrange(1, 4)):
        asked = f"{_sentence(dice)} What does `{dice.choice(_QUOTES)}` mean?"
        messages.append({"role": "user", "content": asked})
    body = {"model": "m", "messages": messages, "stream": dice.random() < 0.5}
    return "POST", "/v1/chat/completions", json.dumps(body), []


def _log(dice: random.Random) -> _Made:
    # Elasticsearch's bulk format: a line says what the next one is.
    lines = []
    for _ in range(dice.randrange(1, 6)):
        entry = {"message": f"seen: {dice.choice(_QUOTES)}", "level": "info", "host": _word(dice)}
        lines += [json.dumps({"index": {"_index": "logs"}}), json.dumps(entry)]
    return "POST", "/_bulk", "\n".join((*lines, "")), [("Content-Type", "application/x-ndjson")]


def _event(dice: random.Random) -> _Made:
    body = {"event": _word(dice), "method": "mining", "properties": {"method": "mining.submit"}}
    return "POST", "/events", json.dumps(body), []


def _graphql(dice: random.Random) -> _Made:
    query = f"query {{ repository(name: {json.dumps(_word(dice))}) {{ id login miner }} }}"
    return "POST", "/graphql", json.dumps({"query": query, "variables": {"method": "login"}}), []


def _download(dice: random.Random) -> _Made:
    where = f"/models/{dice.choice(_MODELS)}/resolve/main"
    if dice.random() < 0.6:
        return _get(f"{where}/config.json")
    begin = dice.randrange(_MODEL_BYTES)
    return _get(f"{where}/model.safetensors", ("Range", f"bytes={begin}-{begin + 20_000}"))


_KINDS: dict[str, Callable[[random.Random], _Made]] = {
    "page": lambda dice: _get(f"/docs/{dice.choice(_TOPICS)}.html"),
    "api": lambda dice: _get(f"/api/v1/items/{dice.randrange(8)}?page={dice.randrange(99)}"),
    "search": lambda dice: _get(f"/search?q={quote(dice.choice(_QUOTES))}"),
    "index": lambda dice: _get(f"/simple/{dice.choice(_PACKAGES)}/"),
    "registry": lambda dice: _get(f"/npm/{dice.choice(_PACKAGES)}"),
    "git": lambda dice: _get("/repository.git/info/refs?service=git-upload-pack"),
    "download": _download,
    "rpc": _rpc,
    "chat": _chat,
    "log": _log,
    "event": _event,
    "graphql": _graphql,
}


def _word(dice: random.Random) -> str:
    return dice.choice(_WORDS)


def _sentence(dice: random.Random) -> str:
    return " ".join(_word(dice) for _ in range(dice.randrange(4, 20))).capitalize() + "."


def _item(dice: random.Random) -> dict[str, object]:
    return {"id": dice.randrange(10**6), "job_id": dice.randbytes(4).hex(), "text": _sentence(dice)}


def _page(dice: random.Random, topic: str) -> bytes:
    paragraphs = [f"<p>{_sentence(dice)}</p>" for _ in range(dice.randrange(5, 40))]
    paragraphs.insert(2, f"<pre>{chr(10).join(_QUOTES)}</pre>")
    head = f"<!doctype html><html><head><title>{topic}</title></head><body>"
    return "\n".join((head, *paragraphs, "</body></html>")).encode()


def _index(dice: random.Random, package: str) -> bytes:
    names = [f"{package}-1.{n}.0.tar.gz" for n in range(dice.randrange(3, 30))]
    links = [f'<a href="/f/{name}#sha256={dice.randbytes(32).hex()}">{name}</a>' for name in names]
    return "\n".join(("<!DOCTYPE html><html><body>", *links, "</body></html>")).encode()


def _completion(dice: random.Random) -> dict[str, object]:
    content = f"A miner begins with {_SUBSCRIBE}. {_sentence(dice)}"
    choice = {"index": 0, "message": {"role": "assistant", "content": content}}
    return {"id": "c-1", "object": "chat.completion", "choices": [choice]}


def _json(value: object) -> bytes:
    return json.dumps(value).encode()
