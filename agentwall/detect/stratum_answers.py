# SPDX-License-Identifier: Apache-2.0
"""What answers without a method give away, and the headers of HTTP: clues by their shape.

With these, sessions seen from the middle and clients that nobody knows are found. Sources as in
:mod:`agentwall.detect.stratum_verbs`, and the getwork page of the Bitcoin wiki.
"""

from __future__ import annotations

from collections.abc import Mapping

from agentwall.detect.stratum_verbs import (
    HIGH,
    MEDIUM,
    Carrier,
    Clue,
    is_hex,
    is_job,
    is_miner,
)

SOFTWARE = "User-Agent"
"""The clue that whoever asks calls itself a miner: nothing by itself, since miners' sites and
interfaces are visited for other reasons, but makes others surer."""
_TEMPLATE = {"previousblockhash", "curtime", "bits", "transactions"}


def answer_clues(message: dict[str, object], carrier: Carrier) -> list[Clue]:
    """Say what the result of *message* has the shape of."""
    match message.get("result"):
        case dict(result):
            return _object(result)
        case list(result):
            return _list(result, carrier)
    return []


def _object(result: dict[str, object]) -> list[Clue]:
    job = result.get("job")
    if isinstance(job, dict) and is_job(job):
        return [Clue("cryptonote", HIGH, "result.job")]
    if is_job(result):
        return [Clue("cryptonote", HIGH, "result.blob")]
    if is_hex(result.get("pre_pow")) and "difficulty" in result:
        return [Clue("grin", HIGH, "result.pre_pow", 2)]
    proto = result.get("proto")
    if isinstance(proto, str) and proto.startswith("EthereumStratum/2"):
        return [Clue("ethereum-stratum-2", HIGH, "result.proto", 2)]
    if len(_TEMPLATE & result.keys()) >= 3 and not result.keys().isdisjoint(
        {"coinbasevalue", "coinbasetxn"}
    ):
        return [Clue("getblocktemplate", HIGH, "result.curtime")]
    if is_hex(result.get("blocktemplate_blob")):
        return [Clue("getblocktemplate", HIGH, "result.blocktemplate_blob")]
    if is_hex(result.get("data"), 256) and is_hex(result.get("target"), 64):
        return [Clue("getwork", HIGH, "result.data")]
    return []


def _list(result: list[object], carrier: Carrier) -> list[Clue]:
    match result:
        case [[[str(verb), *_], *_], *_] if verb.startswith("mining."):
            return [Clue("stratum-v1", HIGH, f"result.{verb}"), *_nicehash(result)]
        case [[str(verb), str(), *_], str(), *_] if verb.startswith("mining."):
            return [Clue("stratum-v1", HIGH, f"result.{verb}"), *_nicehash(result)]
        case [_, "EthereumStratum/1.0.0", *_]:
            return [Clue("ethereum-stratum", HIGH, "result.EthereumStratum", 1)]
        case [None, nonce] if is_hex(nonce):
            return [Clue("zcash", None, "result.nonce", 2)]
        case [*hashes] if 3 <= len(hashes) <= 4 and _is_work(hashes):
            dialect = "eth-getwork" if carrier is Carrier.HTTP else "eth-proxy"
            return [Clue(dialect, MEDIUM, "result.work")]
    return []


def _nicehash(result: list[object]) -> list[Clue]:
    first = result[0]
    if isinstance(first, list) and "EthereumStratum/1.0.0" in first:
        return [Clue("ethereum-stratum", HIGH, "result.EthereumStratum", 1)]
    return []


# Header's hash, seed's hash, boundary; some pools add the height. Wallets get three hashes too, of
# transactions: only a boundary begins with zeroes, as a share takes more than 2**20 tries.
def _is_work(items: list[object]) -> bool:
    hashes = all(isinstance(i, str) and i.startswith("0x") and is_hex(i, 64) for i in items[:3])
    more = any(is_hex(item, 64) for item in items[3:])
    return hashes and not more and str(items[2]).startswith("0x00000")


def header_clues(headers: Mapping[str, str], target: str) -> list[Clue]:
    """Say what the head of an HTTP message gives away.

    Args:
        headers: By their names in lower case.
        target: Of a request, as it was sent; of a response empty.
    """
    found = []
    if "x-mining-extensions" in headers or "x-mining-hashrate" in headers:
        found.append(Clue("getwork", MEDIUM, "X-Mining-Extensions"))
    if headers.get("x-stratum", "").startswith("stratum"):
        found.append(Clue("getwork", MEDIUM, "X-Stratum"))
    if is_miner(headers.get("user-agent")):
        found.append(Clue("getwork", None, SOFTWARE))
    if "?miner=" in target:
        found.append(Clue("eth-getwork", None, SOFTWARE))
    return found
