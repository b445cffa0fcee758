# SPDX-License-Identifier: Apache-2.0
"""Merging captures, and the table of packets a second."""

from __future__ import annotations

import subprocess

import pytest
from capture.making import enhanced, interface, pcap, say, section

from agentwall.capture.reader import read_captures
from bench.captures import AGENTWALL, AUDIT, NDPI, TSHARK, captures_table, commands, merge


def test_merge(tmp_path):
    """Ethernet packets of all captures come into one file, with their times; others stay out."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "a").write_bytes(pcap([say(b"a", sequence=1)]))
    (source / "b").write_bytes(section() + interface() + enhanced(say(b"b", sequence=2), 1_500_000))
    (source / "c").write_bytes(pcap([say(b"c", sequence=3)], link=101))
    (source / "d").write_bytes(b"none")
    merged = tmp_path / "merged"

    assert merge([str(source)], merged) == 2
    (result,) = read_captures([str(merged)])
    (found,) = result.conversations
    assert (found.client_head, result.packets, result.errors) == (b"ab", 2, [])
    assert found.begin_ns == 1_500_000_000


def test_table():
    """Ratios leave start-up out, and pair the runs of one round."""
    seconds = {
        (AUDIT, False): [2.0, 2.0], (AUDIT, True): [4.0, 4.0],
        (AGENTWALL, False): [1.0, 1.0], (AGENTWALL, True): [2.0, 2.0],
        (TSHARK, False): [1.0, 2.0], (TSHARK, True): [5.0, 6.0],
        (NDPI, False): [0.0, 0.0], (NDPI, True): [0.5, 0.5],
    }  # fmt: skip
    rows = captures_table(seconds, 100_000, 1_000_000).rows

    same = "1.00 (1.00-1.00)"
    assert rows[0][:6] == ["agentwall audit", "4000 ms", "2000 ms", "25 k/s", "50 k/s", same]
    assert rows[1][5:] == ["0.50 (0.50-0.50)", same, "0.50 (0.50-0.50)"]
    assert rows[2][5:] == ["2.00 (2.00-2.00)", "4.00 (4.00-4.00)", "1.38 (1.31-1.44)"]
    assert rows[3][5:] == ["0.25 (0.25-0.25)", "0.50 (0.50-0.50)", "0.12 (0.12-0.12)"]


@pytest.mark.parametrize("tool", [AUDIT, AGENTWALL])
def test_own_commands_run(tmp_path, tool):
    """What is measured is a run that comes to its end, and its output is not empty for nothing."""
    capture = tmp_path / "a.pcap"
    capture.write_bytes(pcap([say(b"a", sequence=1)]))

    done = subprocess.run(commands(capture)[tool], capture_output=True, check=True, text=True)

    assert ('"packets": 1' in done.stdout) is (tool == AUDIT)
