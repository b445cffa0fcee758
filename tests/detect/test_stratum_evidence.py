# SPDX-License-Identifier: Apache-2.0
"""The evidence tells software, wallet, worker, pool, algorithms and shares, of every dialect."""

from __future__ import annotations

import json

import pytest
from rig.dialogues import ETHEREUM, MONERO, call

from agentwall.detect.stratum_evidence import Known, gather


def told(*messages: dict[str, object], known: Known | None = None) -> dict[str, object]:
    """The evidence of these messages, revealed."""
    found = gather(messages, None, (), known or Known(), reveal=True)
    assert json.dumps(found)
    return found


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (call("mining.subscribe", ["cgminer/4"]), {"agent": "cgminer/4"}),
        (
            call("mining.subscribe", ["x", None, "zec.example", "2142"]),
            {"agent": "x", "pool": "zec.example:2142"},
        ),
        (
            call("mining.hello", {"agent": "x", "host": "a.example", "port": "4d2"}),
            {"agent": "x", "pool": "a.example:1234"},
        ),
        (call("mining.authorize", ["account.rig", "pw"]), {"worker": "account.rig"}),
        (
            call("mining.authorize", [f"{MONERO}.rig", "pw"]),
            {"wallet": MONERO, "worker": "rig"},
        ),
        (
            call("eth_submitLogin", [f"{ETHEREUM}/rig/a@example.org"], worker="eth1.0"),
            {"wallet": ETHEREUM, "worker": "eth1.0"},
        ),
        (
            call("login", {"login": f"{MONERO}+5000", "rigid": "r7", "algo": ["rx/0", 7]}),
            {"wallet": MONERO, "worker": "r7", "algo": ["rx/0"]},
        ),
        (call("mining.submit", ["a", "b"]), {"worker": "a", "shares": 1}),
        (
            {"identifier": "handshake", "pool": "a.example", "login": "w"},
            {"pool": "a.example", "worker": "w"},
        ),
        (call("mining.subscribe", [1, 2, 3, 4]), {}),
        (call("login", {"login": 7, "agent": []}), {}),
    ],
)
def test_told(message, expected):
    """Each dialect says it in its own place; values of other types are passed over."""
    assert told(message) == {"methods": [], **expected}


def test_known():
    """What a proxy was asked for goes before what the miner says, which goes before the Host."""
    subscribe = call("mining.subscribe", ["x", None, "said.example", 1])

    assert told(subscribe, known=Known(pool="host.example"))["pool"] == "said.example:1"
    assert told(known=Known(pool="host.example"))["pool"] == "host.example"
    found = told(subscribe, known=Known(hops=("socks5",), pool="asked.example:1", agent="y"))
    assert (found["pool"], found["via"], found["agent"]) == ("asked.example:1", ["socks5"], "x")


def test_masked_unless_revealed():
    """By default wallet and worker are shown at their ends."""
    message = call("mining.authorize", [f"{MONERO}.rig", "pw"])
    found = gather([message], message, (), Known(), reveal=False)

    assert (found["wallet"], found["worker"]) == ("48ed...DeFg", "***")
    assert found["excerpt"] == json.dumps(call(message["method"], ["48ed...DeFg.***", "***"]))
