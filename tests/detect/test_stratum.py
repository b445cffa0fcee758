# SPDX-License-Identifier: Apache-2.0
"""Clues add up to how sure a finding is; the narrowest dialect of the surest family names it."""

from __future__ import annotations

import pytest
from rig import dialogues
from rig.dialogues import JOB, answer, call, push

from agentwall.detect.stratum import Spoken, clues_of, score
from agentwall.detect.stratum_answers import SOFTWARE
from agentwall.detect.stratum_verbs import Carrier, Clue
from agentwall.flow.finding import Confidence
from agentwall.flow.severity import Severity

GET_WORK = call("eth_getWork", [])
WORK = answer(dialogues.WORK)
KEEPALIVE = call("keepalived", {"id": "1"})


def spoken(*messages: dict[str, object], carrier: Carrier = Carrier.LINE) -> list[Spoken]:
    """Messages that the client said."""
    return [Spoken(value=m, from_client=True, carrier=carrier) for m in messages]


@pytest.mark.parametrize(
    ("messages", "heads", "confidence"),
    [
        ([GET_WORK], [], Confidence.MEDIUM),
        ([GET_WORK] * 2, [], Confidence.MEDIUM),
        ([GET_WORK] * 3, [], Confidence.HIGH),
        ([GET_WORK, WORK], [], Confidence.HIGH),
        ([GET_WORK], [Clue("getwork", None, SOFTWARE)], Confidence.HIGH),
        ([KEEPALIVE], [], Confidence.LOW),
        ([KEEPALIVE] * 9, [], Confidence.LOW),
        ([KEEPALIVE], [Clue("getwork", None, SOFTWARE)], Confidence.MEDIUM),
        ([call("mining.foo", [])], [], Confidence.LOW),
        ([call("mining.ping", [])], [], Confidence.MEDIUM),
        ([{"Method": "mining.subscribe", "PARAMS": []}], [], Confidence.HIGH),
        ([call("login", {"login": "a", "pass": "b"})], [], None),
        ([call("login", {"login": "a"}), answer({"job": JOB})], [], Confidence.HIGH),
        ([], [Clue("getwork", None, SOFTWARE)], None),
        ([], [Clue("getwork", Confidence.MEDIUM, "X-Mining-Extensions")], Confidence.MEDIUM),
        ([], [], None),
    ],
)
def test_how_sure(messages, heads, confidence):
    """One strong clue, two that fit, a repeated one, or a miner's name beside it."""
    finding = score(spoken(*messages), heads)

    assert (finding.confidence if finding else None) is confidence
    if finding:
        low = confidence is Confidence.LOW
        assert finding.severity is (Severity.MEDIUM if low else Severity.HIGH)


def test_family_and_dialect():
    """The surest clue decides the family; within it the narrowest dialect."""
    subscribe = call("mining.subscribe", ["a", "EthereumStratum/1.0.0"])
    kaspa = push("mining.notify", ["7", [1, 2, 3, 4], 17])

    for messages, dialect in (
        ([subscribe], "ethereum-stratum"),
        ([subscribe, kaspa], "kaspa"),
        ([call("mining.authorize", ["a"]), answer([None, "c208"])], "zcash"),
        ([call("getjobtemplate", None), call("mining.submit", [])], "stratum-v1"),
    ):
        finding = score(spoken(*messages))
        assert finding is not None
        assert finding.dialect == dialect


def test_documents():
    """A document's methods do not count, its results do."""
    method = Spoken(value=GET_WORK, from_client=False, carrier=Carrier.HTTP, is_document=True)
    result = Spoken(value=WORK, from_client=False, carrier=Carrier.HTTP, is_document=True)

    assert clues_of(method) == []
    assert [clue.dialect for clue in clues_of(result)] == ["eth-getwork"]
