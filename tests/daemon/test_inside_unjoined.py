# SPDX-License-Identifier: Apache-2.0
"""A connection inside TLS whose flow no call was seen to begin: it is cut off all the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from rig.tls_clients import PYTHON
from rig.tls_inside import inside_ground

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

MINER = Path(__file__).parents[1] / "clients" / "tls_two_threads.py"
ADDRESS = "203.0.100.1"


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    with inside_ground(tmp_path_factory.mktemp("unjoined")) as made:
        yield made


def mine(ground, more: str = "") -> tuple[object, list[dict[str, object]], bytes]:
    """Run the miner; return how it ended, the events, and what the pool got."""
    ground.quick.clear()
    ran = ground.run(
        [PYTHON, MINER, ADDRESS, str(ground.quick.port)],
        policy=f"allow:\n  - {{cidr: {ADDRESS}, ports: [1-65535]{more}}}\n",
    )
    return ran.commands[0], ran.events, b"".join(talk.text for talk in ground.quick.settle(0))


def test_another_thread_sends(ground):
    """The match is an alert, for its flow is not known; then that is refused with all it has."""
    ended, events, text = mine(ground)

    (found,) = [each for each in events if each["kind"] == "detection"]
    refused = [e for e in events if e["kind"] == "flow" and e["reason"]["code"] == "signature"]
    assert text == b""
    assert ended.code == 1
    assert (found["verdict"], found["remote"], found["evidence"]["inside"]) == (
        "allow",
        None,
        "tls",
    )
    assert {(each["verdict"], each["remote"]["address"]) for each in refused} == {("deny", ADDRESS)}


def test_where_the_rule_excepts_something(ground):
    """Behind a rule that has not everything looked for, a flow that is not known is left alone."""
    ended, events, text = mine(ground, ", except: [mining]")

    assert ended.code == 0
    assert b"mining.subscribe" in text
    assert not [e for e in events if e["kind"] == "flow" and e["verdict"] == "deny"]
