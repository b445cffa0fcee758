# SPDX-License-Identifier: Apache-2.0
"""The question that leaves is the one that was judged, also where its buffer is written to."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from rig.answers import A, Asked, answer, pack_name, scripted_server
from rig.attempts import EVASION
from rig.cgroup import temp_cgroup
from rig.enclosure import Enclosure, enclosure, parse_policy
from rig.lab import Lab, lab
from rig.sniffer import Sniffer, sniff

from agentwall.flow.verdict import ReasonCode

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

RESOLVER = "198.51.100.53"
SENDS = 50_000
POLICY = parse_policy(
    f"""
    name: rewriting
    dns: {{servers: [{RESOLVER}]}}
    allow:
      - {{host: "*.names.example.com"}}
    """
)
PERMITTED, REFUSED = b"innocent.names.example.com", b"innocent.evil5.example.com"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A lab with a wall, a resolver and a sniffer, and the program that races."""

    lab: Lab
    enclosure: Enclosure
    wire: Sniffer
    program: Path

    def race(self, how: str, sends: int, cgroup: Path) -> tuple[int, int, int, int]:
        """Return the sends that succeeded and failed, and the permitted and refused on the wire."""
        self.wire.clear()
        texts = (_question(PERMITTED).hex(), _question(REFUSED).hex())
        command = (self.program, how, str(sends), RESOLVER, "53", *texts)
        done = self.lab.near.run(*command, cgroup=cgroup)
        assert done.returncode == 0, done.stderr
        self.wire.settle()
        left = [packet.payload for packet in self.wire.to(RESOLVER, 53)]
        permitted = sum(_question(PERMITTED) == payload for payload in left)
        succeeded, failed = map(int, done.stdout.split())
        return succeeded, failed, permitted, len(left) - permitted


def _question(name: bytes) -> bytes:
    head = bytes.fromhex("415701000001000000000000")
    return head + pack_name(name.decode()) + b"\0\x01\0\x01"


def _tell(asked: Asked) -> bytes:
    return answer(asked) if asked.kind == A else b""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """The bench, built once."""
    program = tmp_path_factory.mktemp("rewrite") / "rewrite"
    source = EVASION / "techniques" / "rewrite.c"
    subprocess.run(["cc", "-O2", "-Wall", "-Werror", "-pthread", "-o", program, source], check=True)
    with (
        lab() as made,
        enclosure(made.near) as wall,
        scripted_server(made.far, RESOLVER, _tell),
        sniff(made) as wire,
    ):
        yield Bench(lab=made, enclosure=wall, wire=wire, program=program)


@pytest.mark.parametrize("how", ["copied", "lent"])
def test_what_leaves_is_what_was_read(bench: Bench, how: str) -> None:
    """Without the wall both questions, and halves of both, leave; behind it the permitted one."""
    with temp_cgroup() as free:
        # Whether two threads meet in the midst of it depends on what else the machine does.
        unhindered = any(bench.race(how, SENDS // 10, free)[3] for _ in range(10))
    with temp_cgroup() as cgroup, bench.enclosure.enclosed(cgroup, POLICY) as key:
        succeeded, failed, permitted, strays = bench.race(how, SENDS, cgroup)
        reasons = {event.code for event in bench.enclosure.refusals(key)}

    assert unhindered, "void: no other question left without the wall"
    assert strays == 0
    assert failed
    if how == "lent":
        assert (succeeded, permitted) == (0, 0)
        assert reasons == {ReasonCode.NOT_A_QUESTION}
    else:
        assert permitted == succeeded > 0
        assert reasons <= {ReasonCode.QUESTION, ReasonCode.NOT_A_QUESTION}
