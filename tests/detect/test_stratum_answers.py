# SPDX-License-Identifier: Apache-2.0
"""Answers and heads of HTTP give mining away by their shape."""

from __future__ import annotations

import pytest
from rig.dialogues import HASH, JOB, WORK

from agentwall.detect.stratum_answers import SOFTWARE, answer_clues, header_clues
from agentwall.detect.stratum_verbs import Carrier
from agentwall.flow.finding import Confidence

HIGH, MEDIUM = Confidence.HIGH, Confidence.MEDIUM
TEMPLATE = {"previousblockhash": HASH, "curtime": 1, "bits": "1d", "coinbasevalue": 5}


@pytest.mark.parametrize(
    ("result", "dialect", "confidence"),
    [
        ([[["mining.notify", "ae"]], "08", 4], "stratum-v1", HIGH),
        ([["mining.notify", "ae"], "08", 4], "stratum-v1", HIGH),
        ([True, "EthereumStratum/1.0.0"], "ethereum-stratum", HIGH),
        ([None, "c208"], "zcash", None),
        (WORK, "eth-proxy", MEDIUM),
        ([*WORK, "0x1"], "eth-proxy", MEDIUM),
        ({"id": "1", "job": JOB}, "cryptonote", HIGH),
        (JOB, "cryptonote", HIGH),
        ({"pre_pow": "00", "difficulty": 1}, "grin", HIGH),
        ({"proto": "EthereumStratum/2.0.0"}, "ethereum-stratum-2", HIGH),
        (TEMPLATE, "getblocktemplate", HIGH),
        ({"blocktemplate_blob": "00"}, "getblocktemplate", HIGH),
        ({"data": "00" * 128, "target": HASH}, "getwork", HIGH),
    ],
)
def test_answer(result, dialect, confidence):
    """Each shape speaks for its dialect."""
    clue = answer_clues({"result": result}, Carrier.LINE)[-1]

    assert (clue.dialect, clue.confidence) == (dialect, confidence)


@pytest.mark.parametrize(
    "result",
    [
        *(None, True, "x", [], {}, [[]], [[[]]], [["server.version", "x"]], ["0x" + HASH] * 2),
        *(["0x" + HASH] * 3, [*WORK, WORK[0]]),
        *(["0x1"] * 3, [HASH] * 3, {"job": "x"}, {"job": {"id": 1}}, [None, None], {"proto": 1}),
        {"previousblockhash": HASH, "bits": "1d", "time": 5, "height": 1},
    ],
)
def test_no_answer(result):
    """Results of wallets, explorers and other software are none."""
    assert answer_clues({"result": result}, Carrier.LINE) == []


def test_headers():
    """Headers that only miners and pools send are clues; software's name only supports others."""
    assert header_clues({"host": "a"}, "/") == []
    found = header_clues(
        {"x-mining-extensions": "midstate", "x-stratum": "stratum+tcp://a:1"}
        | {"user-agent": "cgminer 4.12"},
        "/?miner=30@0x",
    )
    assert [(c.what, c.confidence) for c in found] == [
        ("X-Mining-Extensions", MEDIUM),
        ("X-Stratum", MEDIUM),
        (SOFTWARE, None),
        (SOFTWARE, None),
    ]
