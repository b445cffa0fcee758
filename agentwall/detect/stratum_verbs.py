# SPDX-License-Identifier: Apache-2.0
"""What one message of a mining protocol is called and looks like: messages in, clues out.

Only the method at the top level counts, and the shape of what belongs to it: a message that quotes
another is not that other. Sources: the Stratum v1 protocol of slushpool, BIP 22, BIP 23, BIP 310,
ZIP 301, EIP-1571, the protocol documents of xmrig-proxy, Grin (RFC 0006), Beam, Nervos CKB.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from agentwall.detect.wallets import is_wallet
from agentwall.flow.finding import Confidence

HIGH, MEDIUM, LOW = Confidence.HIGH, Confidence.MEDIUM, Confidence.LOW


class Carrier(enum.Enum):
    """What a message came in."""

    LINE = "line"
    HTTP = "http"
    WEBSOCKET = "websocket"


@dataclass(frozen=True, slots=True)
class Clue:
    """What one message says for a dialect."""

    dialect: str
    confidence: Confidence | None
    """None: nothing by itself, but tells the dialect where others are sure of the family."""
    what: str
    """The method, or the shape."""
    rank: int = 0
    """How much the dialect is narrowed down: the highest names it."""


FAMILIES = {
    **dict.fromkeys(("stratum-v1", "ethereum-stratum", "ethereum-stratum-2", "zcash"), "stratum"),
    **dict.fromkeys(("kaspa", "kawpow", "ergo", "alephium"), "stratum"),
    **dict.fromkeys(("cryptonote", "coinhive", "grin", "beam"), "login"),
    **dict.fromkeys(("eth-proxy", "eth-getwork"), "ethereum"),
    **dict.fromkeys(("getwork", "getblocktemplate"), "work"),
    "ckb": "ckb",
}
"""Dialects that narrow each other down."""

_MINER = re.compile(
    r"(?i)\b(?:[a-z0-9_-]{0,24}(?:(?<![ae])miner|xmrig|xmr-stak)(?:[_-][a-z0-9_-]{0,24})?|minerd"
    r"|t-rex|claymore|ewbf|nanominer|nicehash|excavator|miniz|rigel|wildrig|srbpolaris|p2pool"
    r"|xmr-node-proxy|p2pminer|cast_xmr|jce_cn|xmr)\b"
)
_STRONG = {
    *("mining.subscribe", "mining.authorize", "mining.configure", "mining.submit"),
    *("mining.extranonce.subscribe", "mining.suggest_difficulty", "mining.suggest_target"),
    *("mining.get_transactions", "mining.multi_version", "mining.notify", "mining.set_difficulty"),
    *("mining.set_target", "mining.set_extranonce", "mining.set_version_mask"),
    *("mining.auth", "mining.get_job", "mining.hashrate", "mining.submit_hashrate"),
    "mining.set_cleanjobs",
}
_LESSER = {"mining.ping", "mining.reconnect", "mining.capabilities"}
_EIP_1571 = {"mining.noop", "mining.bye", "mining.set"}
_ETHEREUM = {
    "eth_submitLogin": HIGH,
    "eth_submitWork": HIGH,
    "eth_submitHashrate": HIGH,
    "eth_getWork": MEDIUM,
}
_CKB = {
    "ckb_submitLogin": HIGH,
    "ckb_submitWork": HIGH,
    "ckb_submitHashrate": HIGH,
    "ckb_getWork": MEDIUM,
}
_HEX = re.compile(r"(?:0x)?[0-9A-Fa-f]+")
_LEAST_BLOCK = 160
"""Hexadecimal digits: a Bitcoin block's header is 80 bytes."""
_LEAST_SOLUTION = 200
"""Of an Equihash proof; 144,5 has 100 bytes, 200,9 has 1344."""


def is_hex(value: object, *sizes: int) -> bool:
    """Say whether *value* is text of so many hexadecimal digits, ``0x`` not counted."""
    if not isinstance(value, str) or not _HEX.fullmatch(value):
        return False
    return len(value.removeprefix("0x")) in sizes if sizes else True


def is_miner(agent: object) -> bool:
    """Say whether software calls itself a miner, or is known for one."""
    return isinstance(agent, str) and bool(_MINER.search(agent[:256]))


def verb_clues(message: dict[str, object], carrier: Carrier) -> list[Clue]:
    """Say what the method of *message* stands for; nothing for most messages in the world."""
    method, params = message.get("method"), message.get("params")
    if not isinstance(method, str):
        return _typed(message)
    if method.startswith("mining."):
        return _mining(method, params)
    if method in _ETHEREUM:
        dialect = "eth-getwork" if carrier is Carrier.HTTP else "eth-proxy"
        return [Clue(dialect, _ETHEREUM[method], method)]
    if method in _CKB:
        return [Clue("ckb", _CKB[method], method)]
    rule = _RULES.get(method)
    fields = params if isinstance(params, dict) else {}
    return rule(message, fields) if rule else []


def _mining(method: str, params: object) -> list[Clue]:
    if method == "mining.hello":
        dialect = "alephium" if isinstance(params, list) else "ethereum-stratum-2"
        return [Clue(dialect, HIGH, method, 2)]
    if method in _EIP_1571:
        return [Clue("ethereum-stratum-2", MEDIUM, method, 1)]
    if method in _LESSER:
        return [Clue("stratum-v1", MEDIUM, method)]
    if method not in _STRONG:
        return [Clue("stratum-v1", LOW, method)]
    items = params if isinstance(params, list) else []
    dialect, rank = _narrow(method, items)
    return [Clue(dialect, HIGH, method, rank)]


def _narrow(method: str, items: list[object]) -> tuple[str, int]:
    match method:
        case "mining.notify":
            return _notify(items)
        case "mining.subscribe" if any(_is_nicehash(item) for item in items):
            return "ethereum-stratum", 1
        case "mining.subscribe" if len(items) >= 4 and isinstance(items[2], str):
            return "zcash", 2  # ZIP 301: software, session, host, port
        case "mining.authorize" if items and str(items[0]).startswith("kaspa"):
            return "kaspa", 2
        case "mining.submit" if len(items) == 5 and _is_long(items[4], _LEAST_SOLUTION):
            return "zcash", 3
    return "stratum-v1", 0


def _notify(items: list[object]) -> tuple[str, int]:
    match items:
        case [str(), [int(), int(), int(), int()], int()]:
            return "kaspa", 3
        case [str(), seed, head, bool()] if is_hex(seed, 64) and is_hex(head, 64):
            return "ethereum-stratum", 3
        case [str(), head, seed, target, bool(), int(), str()] if all(
            is_hex(item, 64) for item in (head, seed, target)
        ):
            return "kawpow", 3
        case [_, "04000000", *rest] if len(rest) >= 6:
            return "zcash", 3
        case [_, int(), head, _, _, _, str(bound), *_] if is_hex(head, 64) and bound.isdecimal():
            return "ergo", 3
        case [dict(job), *_] if "headerBlob" in job:
            return "alephium", 3
    return "stratum-v1", 0


def _is_nicehash(item: object) -> bool:
    return isinstance(item, str) and item.startswith("EthereumStratum/1")


def _is_long(item: object, least: int) -> bool:
    return isinstance(item, str) and len(item) >= least and is_hex(item)


# A login with a password alone is what any application has: it needs a wallet, a miner's name or a
# list of algorithms, or the other side's job.
def _login(message: dict[str, object], fields: dict[str, object]) -> list[Clue]:
    if isinstance(message.get("api_key"), str):
        return [Clue("beam", MEDIUM, "login", 1)]
    login, algorithms = fields.get("login"), fields.get("algo")
    if not isinstance(login, str):
        return []
    dialect, rank = ("grin", 1) if message.get("id") == "Stratum" else ("cryptonote", 0)
    lists = isinstance(algorithms, list) and all(isinstance(one, str) for one in algorithms)
    if is_miner(fields.get("agent")) or (lists and algorithms) or is_wallet(login):
        return [Clue(dialect, HIGH, "login", rank)]
    return [Clue(dialect, MEDIUM if rank else None, "login", rank)]


def _submit(_: dict[str, object], fields: dict[str, object]) -> list[Clue]:
    if is_share(fields):
        return [Clue("cryptonote", HIGH, "submit")]
    if "edge_bits" in fields and isinstance(fields.get("pow"), list):
        return [Clue("grin", HIGH, "submit", 2)]
    return []


def _job(message: dict[str, object], fields: dict[str, object]) -> list[Clue]:
    if is_job(fields):
        return [Clue("cryptonote", HIGH, "job")]
    if is_hex(fields.get("pre_pow")) and "difficulty" in fields:
        return [Clue("grin", HIGH, "job", 2)]
    if is_hex(message.get("input"), 64) and "difficulty" in message:
        return [Clue("beam", HIGH, "job", 2)]
    return []


def _solution(message: dict[str, object], _: dict[str, object]) -> list[Clue]:
    if is_hex(message.get("nonce")) and is_hex(message.get("output")):
        return [Clue("beam", HIGH, "solution", 2)]
    return []


def _keepalive(_: dict[str, object], fields: dict[str, object]) -> list[Clue]:
    return [Clue("cryptonote", LOW, "keepalived")] if "id" in fields else []


def _job_template(message: dict[str, object], _: dict[str, object]) -> list[Clue]:
    return [Clue("grin", MEDIUM, "getjobtemplate", 2)]


def _block_template(_: dict[str, object], fields: dict[str, object]) -> list[Clue]:
    pays = isinstance(fields.get("wallet_address"), str)
    return [Clue("getblocktemplate", HIGH if pays else MEDIUM, "getblocktemplate", 1)]


def _submit_block(message: dict[str, object], _: dict[str, object]) -> list[Clue]:
    params = message.get("params")
    block = params[0] if isinstance(params, list) and params else None
    return [
        Clue("getblocktemplate", HIGH if _is_long(block, _LEAST_BLOCK) else LOW, "submitblock", 1)
    ]


def _work(message: dict[str, object], _: dict[str, object]) -> list[Clue]:
    params = message.get("params")
    block = params[0] if isinstance(params, list) and params else None
    return [Clue("getwork", HIGH if _is_long(block, _LEAST_BLOCK) else LOW, "getwork", 1)]


# Merged mining, and Bitcoin SV's way.
def _other_work(message: dict[str, object], _: dict[str, object]) -> list[Clue]:
    return [Clue("getblocktemplate", MEDIUM, str(message["method"]), 1)]


_RULES = {
    "login": _login,
    "submit": _submit,
    "job": _job,
    "solution": _solution,
    "keepalived": _keepalive,
    "getjobtemplate": _job_template,
    "getblocktemplate": _block_template,
    "get_block_template": _block_template,
    "submitblock": _submit_block,
    "submit_block": _submit_block,
    **dict.fromkeys(("createauxblock", "getauxblock", "submitauxblock"), _other_work),
    **dict.fromkeys(("getminingcandidate", "submitminingsolution"), _other_work),
    "getwork": _work,
}


# Coinhive's ``type`` and webminerpool's ``identifier`` in place of a method.
def _typed(message: dict[str, object]) -> list[Clue]:
    kind, params = message.get("type"), message.get("params")
    if isinstance(kind, str) and isinstance(params, dict):
        if kind == "auth" and isinstance(params.get("site_key"), str):
            return [Clue("coinhive", HIGH, "auth", 1)]
        if (kind == "submit" and is_share(params)) or (kind == "job" and is_job(params)):
            return [Clue("coinhive", HIGH, kind, 1)]
        if kind in ("authed", "hash_accepted") and isinstance(params.get("hashes"), int):
            return [Clue("coinhive", LOW, kind, 1)]
    named = message.get("identifier")
    if named == "handshake" and isinstance(message.get("login"), str) and "pool" in message:
        return [Clue("coinhive", HIGH, "handshake", 1)]
    if (named == "job" and is_job(message)) or (named == "solved" and is_share(message)):
        return [Clue("coinhive", HIGH, str(named), 1)]
    return []


def is_share(fields: dict[str, object]) -> bool:
    """Say whether *fields* are a CryptoNote share: job, nonce of 4 or 8 bytes, hash of 32."""
    return (
        isinstance(fields.get("job_id"), str | int)
        and is_hex(fields.get("nonce"), 8, 16)
        and is_hex(fields.get("result"), 64)
    )


def is_job(fields: dict[str, object]) -> bool:
    """Say whether *fields* are a CryptoNote job: a block's blob, its name, and a target."""
    return (
        _is_long(fields.get("blob"), 144)
        and isinstance(fields.get("job_id"), str | int)
        and is_hex(fields.get("target"), *range(2, 17), 64)
    )
