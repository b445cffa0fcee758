# SPDX-License-Identifier: Apache-2.0
"""What a mining session tells of itself: software, who is paid, for which pool, how much work.

Messages in, JSON values out, redacted: wallets and workers at their ends only, passwords never.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from agentwall.detect.redact import printable, redact_message, redact_name
from agentwall.detect.stratum_verbs import Clue
from agentwall.detect.wallets import wallet_in

_MOST = 12
"""Methods, algorithms that are named."""
_NAMED_FIRST = {"mining.authorize", "mining.submit", "eth_submitLogin"}
_SHARES = {
    *("mining.submit", "eth_submitWork", "ckb_submitWork", "submit", "solution", "solved"),
    *("submitblock", "submit_block"),
}
_SEPARATOR = re.compile(r"[./+ ]")
_PORT = re.compile(r"[0-9A-Fa-f]{1,5}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What else is known of the flow that messages came in."""

    hops: tuple[str, ...] = ()
    """Kinds of the proxies that were asked, or ``websocket``, from the outside in."""
    pool: str | None = None
    """What a proxy was asked for, the Host, or the name that the address was resolved from."""
    agent: str | None = None
    """User-Agent."""
    is_midstream: bool = False


def gather(
    messages: Sequence[dict[str, object]],
    best: dict[str, object] | None,
    clues: Sequence[Clue],
    known: Known,
    reveal: bool,
) -> dict[str, object]:
    """Collect the evidence.

    Args:
        messages: Those that gave clues.
        best: The one that is shown.
        clues: All of them.
        known: What else there is.
        reveal: Show wallets and workers whole.
    """
    found: dict[str, object] = {"methods": _distinct([clue.what for clue in clues])}
    for message in messages:
        for key, value in _told(message).items():
            found.setdefault(key, value)
    if known.agent:
        found.setdefault("agent", printable(known.agent))
    if known.pool and (known.hops or "pool" not in found):
        found["pool"] = printable(known.pool)
    for key in ("wallet", "worker"):
        if key in found:
            text = str(found[key])
            found[key] = ascii(text)[1:-1] if reveal else redact_name(text)
    shares = sum(_method(message) in _SHARES for message in messages)
    if shares:
        found["shares"] = shares
    if known.hops:
        found["via"] = list(known.hops)
    if known.is_midstream:
        found["midstream"] = True
    if best is not None:
        found["excerpt"] = redact_message(best)
    return found


def _distinct(texts: list[str]) -> list[str]:
    return [printable(text) for text in dict.fromkeys(texts)][:_MOST]


def _method(message: dict[str, object]) -> str:
    for key in ("method", "type", "identifier"):
        if isinstance(name := message.get(key), str):
            return name
    return ""


# Texts only, and each key only where the message has it.
def _told(message: dict[str, object]) -> dict[str, object]:
    method, params = _method(message), message.get("params")
    fields = params if isinstance(params, dict) else message
    items = params if isinstance(params, list) else []
    told: dict[str, object] = {}
    if agent := _text(fields, "agent") or (_at(items, 0) if method == "mining.subscribe" else ""):
        told["agent"] = printable(agent)
    login = _at(items, 0) if method in _NAMED_FIRST else _text(fields, "login")
    told.update(_who(login or _text(fields, "wallet_address")))
    if worker := _text(message, "worker") or _text(fields, "rigid") or _text(fields, "worker"):
        told["worker"] = worker
    if pool := _pool(method, fields, items):
        told["pool"] = printable(pool)
    if algorithms := _algorithms(message, fields):
        told["algo"] = algorithms
    return told


def _text(fields: dict[str, object], key: str) -> str:
    value = fields.get(key)
    return value[:512] if isinstance(value, str) else ""


def _at(items: list[object], place: int) -> str:
    value = items[place] if place < len(items) else None
    return value[:512] if isinstance(value, str) else ""


# ``wallet.rig``, ``wallet/rig``, ``wallet+difficulty``, ``account.rig``.
def _who(login: str) -> dict[str, str]:
    if not login:
        return {}
    wallet = wallet_in(login)
    if wallet is None:
        return {"worker": login}
    rest = _SEPARATOR.split(login[len(wallet) :].strip("./+ "))[0]
    return {"wallet": wallet, "worker": rest} if rest else {"wallet": wallet}


# ZIP 301 names host and port in the subscription, EIP-1571 in the hello, its port in hexadecimal.
def _pool(method: str, fields: dict[str, object], items: list[object]) -> str:
    if method == "mining.subscribe" and len(items) >= 3:
        host, port = _at(items, 2), items[3] if len(items) > 3 else None
        return f"{host}:{port}" if host and isinstance(port, str | int) and port else host
    if method == "mining.hello":
        host, port = _text(fields, "host"), _text(fields, "port")
        return f"{host}:{int(port, 16)}" if host and _PORT.fullmatch(port) else host
    return _text(fields, "pool") if method == "handshake" else ""


def _algorithms(message: dict[str, object], fields: dict[str, object]) -> list[str]:
    result = message.get("result")
    job = result.get("job") if isinstance(result, dict) else None
    for holder in (fields, job):
        algo = holder.get("algo") if isinstance(holder, dict) else None
        names = algo if isinstance(algo, list) else [algo]
        texts = [name for name in names if isinstance(name, str)]
        if texts:
            return _distinct(texts)
    return []
