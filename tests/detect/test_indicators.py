# SPDX-License-Identifier: Apache-2.0
"""Names on lists of indicators."""

from __future__ import annotations

import pytest

from agentwall.detect.indicators import IndicatorIndex
from agentwall.detect.signature import Indicators
from agentwall.errors import SourceLocation
from agentwall.flow.finding import Confidence, DetectionClass, Stage
from agentwall.flow.severity import Severity


def listed(id_: str, *names: str) -> Indicators:
    """Return a list of *names*."""
    return Indicators(
        id=id_,
        cls=DetectionClass.MINING,
        dialect="pool",
        severity=Severity.HIGH,
        confidence=Confidence.MEDIUM,
        dated="2026-01-02",
        names=names,
        where=SourceLocation("pools.yaml", 1, 1),
    )


INDEX = IndicatorIndex(
    [listed("mining/a", "pool.example", "eu.other.example"), listed("mining/b", "pool.example")]
)


@pytest.mark.parametrize(
    ("name", "ids"),
    [
        ("pool.example", ["mining/a", "mining/b"]),
        ("eu1.stratum.pool.example", ["mining/a", "mining/b"]),
        ("eu.other.example", ["mining/a"]),
        ("other.example", []),
        ("whirlpool.example", []),
        ("pool.example.com", []),
        ("example", []),
        ("", []),
        ("..", []),
    ],
)
def test_suffixes(name, ids):
    """An entry stands for itself and all below it, label by label."""
    assert [found.signature for found in INDEX.find(name, "asked")] == ids


def test_finding():
    """A finding says what was done with the name, and which entry of a list of which date."""
    found = next(INDEX.find("x.pool.example", "asked"))

    assert found.stage is Stage.INDICATOR
    assert found.dialect == "pool"
    assert found.evidence == {
        "asked": "x.pool.example",
        "listed": "pool.example",
        "dated": "2026-01-02",
    }


def test_no_lists():
    """Without a list there is nothing to ask."""
    assert not IndicatorIndex()
    assert INDEX
