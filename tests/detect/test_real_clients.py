# SPDX-License-Identifier: Apache-2.0
"""What real software for miners says, recorded on loopback, is recognised to the last detail."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest
from rig.dialogues import conversation
from rig.tree import ROOT

from agentwall.detect.decode import decode
from agentwall.flow.finding import Confidence, Finding

MODULES = ROOT / "build" / "clients" / "node_modules"
SCRIPT = ROOT / "tests" / "clients" / "record.js"
# A namespace with nothing but loopback: the clients can reach nobody else.
ALONE = ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")


@pytest.fixture(scope="module")
def talks():
    """Both sides of each recorded session, as bytes."""
    if os.geteuid() != 0:
        pytest.skip("needs root: runs clients in a network namespace of their own")
    if shutil.which("node") is None or not (MODULES / "stratum-client").is_dir():
        pytest.skip("real clients are not installed: tools/setup.sh clients")
    done = subprocess.run(
        [*ALONE, "node", str(SCRIPT)],
        env={**os.environ, "NODE_PATH": str(MODULES)},
        capture_output=True,
        timeout=60,
        check=True,
    )
    said = json.loads(done.stdout)
    return {
        name: (bytes.fromhex(talk["client"]), bytes.fromhex(talk["server"]))
        for name, talk in said.items()
    }


def only(talk: tuple[bytes, bytes]) -> Finding:
    """The one finding of both sides, and that either side alone is found for what it is."""
    assert [f.confidence for f in decode(conversation(b"", talk[1]))] == [Confidence.HIGH]
    (finding,) = decode(conversation(*talk))
    assert finding.confidence is Confidence.HIGH
    assert "hunter2" not in json.dumps(dict(finding.evidence))
    return finding


def test_stratum_client(talks):
    """Stratum v1 by npm's stratum-client."""
    finding = only(talks["stratum-client"])

    assert finding.dialect == "stratum-v1"
    assert finding.evidence["shares"] == 1
    assert decode(conversation(talks["stratum-client"][0]))


def test_coinhive_frames(talks):
    """A miner in a browser to coin-hive-stratum: masked frames, read on both sides."""
    finding = only(talks["coin-hive"])

    assert finding.dialect == "coinhive"
    assert finding.evidence["via"] == ["websocket"]
    assert finding.evidence["shares"] == 1
    assert decode(conversation(talks["coin-hive"][0]))


def test_coinhive_pool(talks):
    """coin-hive-stratum to its pool: a login without agent, without anything but a password."""
    finding = only(talks["coin-hive-pool"])

    assert finding.dialect == "cryptonote"
    assert finding.evidence["shares"] == 1
