# SPDX-License-Identifier: Apache-2.0
"""Every capture of the corpus is read."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest
from rig.tree import ROOT

from agentwall.capture.reader import read_captures

CORPUS = ROOT.parent / "shared" / "corpus"
BROKEN = {
    "sv__bug-6875-01__fuzz.pcap": "record length",
    "sv__pgsql__pgsql-5000-query-results__input.pcap": "record cut short",
}

pytestmark = pytest.mark.skipif(
    not CORPUS.exists(), reason="the corpus of captures is not beside the tree"
)


def _labels() -> Iterator[tuple[Path, int | None]]:
    with (CORPUS / "labels.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            packets = int(row["packets"]) if row["packets"] else None
            yield CORPUS / row["dir"] / row["file"], packets


@pytest.mark.parametrize("folder", ["benign", "positive", "tunnels"])
def test_counts_and_errors(folder):
    """Each capture has the packets that its label says; only broken ones have errors."""
    wrong, seen = [], 0
    for path, packets in _labels():
        if path.parent.name != folder:
            continue
        (result,) = read_captures([str(path)])
        for _ in result.conversations:
            seen += 1
        expected = BROKEN.get(path.name)
        is_expected = [expected is not None and e.what.startswith(expected) for e in result.errors]
        if packets not in (None, result.packets) or is_expected != [True] * (expected is not None):
            wrong.append((path.name, result.packets, packets, result.errors))

    assert wrong == []
    assert seen > 0
