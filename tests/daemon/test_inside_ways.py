# SPDX-License-Identifier: Apache-2.0
"""Ways to hand text to a TLS library that clients off the shelf seldom go."""

from __future__ import annotations

import ctypes.util
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from rig.tls_clients import PYTHON
from rig.tls_inside import Ground, inside_ground

pytestmark = pytest.mark.kernel

CLIENTS = Path(__file__).parents[1] / "clients"
ADDRESS = "203.0.100.1"


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Iterator[Ground]:
    with inside_ground(tmp_path_factory.mktemp("ways")) as made:
        yield made


def mine(ground: Ground, *words: str | Path) -> tuple[int | None, list[dict[str, object]], bytes]:
    """Run a miner; return its exit code, what was found, and what the pool got."""
    ground.quick.clear()
    ran = ground.run(
        [*map(str, words), ADDRESS, str(ground.quick.port)],
        policy=f"allow:\n  - {{cidr: {ADDRESS}, ports: [1-65535]}}\n",
    )
    talks = ground.quick.settle()
    return ran.commands[0].code, ran.of_kind("detection"), b"".join(talk.text for talk in talks)


@pytest.mark.skipif(shutil.which("node") is None, reason="no node here")
def test_before_the_handshake_is_over(ground):
    """A first piece that Node.js hands over again and again is one piece, and the line is found."""
    code, (found,), text = mine(ground, "node", CLIENTS / "tls_early.js")

    assert code == 1
    assert (found["dialect"], found["verdict"]) == ("stratum-v1", "deny")
    assert found["bytes_left"] == len('{"id": 1, "method": "mining.sub')
    assert len(text) in (0, found["bytes_left"])


@pytest.mark.skipif(ctypes.util.find_library("gnutls") is None, reason="no GnuTLS here")
def test_gnutls_hides_lengths(ground):
    """Text that is to look longer than it is, is read as any other."""
    code, (found,), text = mine(ground, PYTHON, "-I", "-S", CLIENTS / "gnutls_range.py")

    assert code == 1
    assert (found["dialect"], found["verdict"], found["bytes_left"]) == ("stratum-v1", "deny", 0)
    assert text == b""
