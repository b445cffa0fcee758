# SPDX-License-Identifier: Apache-2.0
"""Only a method at the top level, with the shape that belongs to it, is a clue."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rig.dialogues import BLOB, HASH, JOB, MONERO, SHARE, call

from agentwall.detect.stratum_answers import answer_clues
from agentwall.detect.stratum_verbs import Carrier, is_hex, is_miner, verb_clues
from agentwall.flow.finding import Confidence

HIGH, MEDIUM, LOW = Confidence.HIGH, Confidence.MEDIUM, Confidence.LOW


@pytest.mark.parametrize(
    ("message", "dialect", "confidence"),
    [
        (call("mining.subscribe", []), "stratum-v1", HIGH),
        (call("mining.subscribe", ["a", None, "host", 3333]), "zcash", HIGH),
        (call("mining.submit", ["w", "j", "t", "n", "5f" * 1344]), "zcash", HIGH),
        (call("mining.hello", {}), "ethereum-stratum-2", HIGH),
        (call("mining.hello", []), "alephium", HIGH),
        (call("mining.bye", None), "ethereum-stratum-2", MEDIUM),
        (call("eth_submitHashrate", []), "eth-proxy", HIGH),
        (call("ckb_getWork", []), "ckb", MEDIUM),
        (call("login", {"login": "a", "agent": "xmr-stak/2"}), "cryptonote", HIGH),
        (call("login", {"login": "a", "algo": ["rx/0"]}), "cryptonote", HIGH),
        (call("login", {"login": MONERO}), "cryptonote", HIGH),
        (call("login", {"login": "a", "pass": "b"}), "cryptonote", None),
        (call("login", {"login": "a"}, "Stratum"), "grin", MEDIUM),
        ({"method": "login", "api_key": "a"}, "beam", MEDIUM),
        (call("submit", SHARE), "cryptonote", HIGH),
        (call("submit", {"edge_bits": 32, "pow": [1], "nonce": 2}), "grin", HIGH),
        (call("job", JOB), "cryptonote", HIGH),
        ({"method": "job", "input": HASH, "difficulty": 1}, "beam", HIGH),
        ({"method": "solution", "nonce": "ab", "output": "cd"}, "beam", HIGH),
        (call("job", {"pre_pow": "00", "difficulty": 1}), "grin", HIGH),
        (call("keepalived", {"id": "a"}), "cryptonote", LOW),
        (call("getblocktemplate", [{"rules": []}]), "getblocktemplate", MEDIUM),
        (call("get_block_template", {"wallet_address": "a"}), "getblocktemplate", HIGH),
        (call("submitblock", ["00" * 80]), "getblocktemplate", HIGH),
        (call("submitblock", ["x"]), "getblocktemplate", LOW),
        (call("createauxblock", ["x"]), "getblocktemplate", MEDIUM),
        (call("getminingcandidate", []), "getblocktemplate", MEDIUM),
        (call("mining.auth", ["a", "b"]), "stratum-v1", HIGH),
        (call("getwork", []), "getwork", LOW),
        (call("getwork", ["00" * 128]), "getwork", HIGH),
        ({"type": "submit", "params": SHARE}, "coinhive", HIGH),
        ({"type": "authed", "params": {"hashes": 0}}, "coinhive", LOW),
        ({"identifier": "handshake", "login": "a", "pool": "b"}, "coinhive", HIGH),
        ({"identifier": "solved", **SHARE}, "coinhive", HIGH),
    ],
)
def test_clue(message, dialect, confidence):
    """Each verb speaks for its dialect, as surely as its shape allows."""
    (clue,) = verb_clues(message, Carrier.LINE)

    assert (clue.dialect, clue.confidence) == (dialect, confidence)


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"method": None},
        {"method": ["mining.subscribe"]},
        {"params": {"method": "mining.subscribe"}},
        call("tools/call", {"method": "mining.subscribe"}),
        call("login", {"user": "a", "password": "b"}),
        call("login", [{"user": "a"}]),
        call("submit", {"job_id": "train-42", "script": "train.py"}),
        call("submit", {"job_id": "1", "nonce": "0100a0ff", "result": "no"}),
        call("job", {"blob": BLOB, "job_id": "1"}),
        call("job", {"job_id": "1", "target": "ff"}),
        call("keepalived", []),
        {"type": "auth", "params": {"user": "a"}},
        {"type": "submit", "params": {"job_id": 1}},
        {"identifier": "job"},
    ],
)
def test_no_clue(message):
    """Words that other protocols use too are none without the shape."""
    assert verb_clues(message, Carrier.LINE) == []


def test_carrier():
    """Over HTTP, Ethereum's verbs are those of getwork."""
    message = call("eth_getWork", [])

    assert [c.dialect for c in verb_clues(message, Carrier.HTTP)] == ["eth-getwork"]
    assert [c.dialect for c in verb_clues(message, Carrier.WEBSOCKET)] == ["eth-proxy"]


def test_words():
    """Hexadecimal text of a size, and names of miners."""
    assert is_hex("0x" + HASH, 64)
    assert is_hex("ABCDEF")
    assert not any(is_hex(value, 64) for value in ("5f", 5, None, "", "z" * 64, HASH + "\n"))
    for agent in ("XMRig/6.21", "cgminer 4", "xmr/1.0", "lolMiner 1.88", "nsgminer/0.9", "t-rex"):
        assert is_miner(agent)
    for agent in ("curl/8", "fluent-bit", "examinership", "examiner/2", "Mozilla/5.0", None, 7, ""):
        assert not is_miner(agent)


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=9) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=12,
)
METHOD = st.sampled_from(
    [
        *("mining.notify", "mining.subscribe", "mining.submit", "mining.hello", "login", "submit"),
        *("job", "getwork", "submitblock", "solution", "eth_getWork", "getblocktemplate"),
    ]
)


@given(method=METHOD, params=VALUE, result=VALUE, key=st.sampled_from(["type", "identifier"]))
def test_any_values(method, params, result, key):
    """Whatever values stand where others belong, clues come out."""
    for message in ({"method": method, "params": params}, {key: method, "params": params}):
        verb_clues(message, Carrier.LINE)
        answer_clues({"result": result}, Carrier.HTTP)
        answer_clues({"result": [[result], params]}, Carrier.LINE)
