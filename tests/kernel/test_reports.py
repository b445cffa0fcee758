# SPDX-License-Identifier: Apache-2.0
"""Events, excerpts and totals of a predecessor are read beside the wall's own, each once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from agentwall.kernel import abi
from agentwall.kernel.abi_event import Event
from agentwall.kernel.abi_scan import ExcerptEvent
from agentwall.kernel.adoption import Inheritance
from agentwall.kernel.bpfmap import BpfMap, MapShape
from agentwall.kernel.decode import no_names
from agentwall.kernel.libbpf import MapType
from agentwall.kernel.reports import Reports

pytestmark = pytest.mark.kernel


class Before(Inheritance):
    """What a predecessor left, given instead of read from pins."""

    def __init__(self) -> None:
        self.given: dict[str, list[bytes]] = {}
        self.entries: list[tuple[bytes, bytes]] = []
        self.lost: list[str] = []

    def records(self, *names: str) -> Iterator[bytes]:
        for name in names:
            yield from self.given.pop(name, [])

    def flows(self) -> Iterator[tuple[bytes, bytes]]:
        found, self.entries = self.entries, []
        return iter(found)

    def lose_event(self, name: str) -> None:
        self.lost.append(name)


@pytest.fixture
def maps() -> Iterator[dict[str, BpfMap]]:
    """Real, empty rings and a flow table."""
    layout = abi.MAP_LAYOUTS["aw_flow_table"]
    with contextlib.ExitStack() as stack:
        made = {}
        for name in (*abi.RINGS, abi.EXCERPTS, "aw_flow_table"):
            is_ring = name != "aw_flow_table"
            shape = MapShape(
                name=name,
                type=MapType.RINGBUF if is_ring else MapType.HASH,
                key_size=0 if is_ring else layout.key_size,
                value_size=0 if is_ring else layout.value_size,
                max_entries=4096,
            )
            made[name] = BpfMap.create(shape)
            stack.callback(made[name].close)
        yield made


def event(**changes: int) -> bytes:
    given = {"verdict": abi.Verdict.DENY, "hook": abi.Hook.CONNECT4, "reason": abi.Reason.NO_RULE}
    return bytes(Event(**(given | changes)))


def flow(pid: int) -> tuple[bytes, bytes]:
    key = abi.FlowKey(pid=pid, verdict=abi.Verdict.ALLOW, reason=abi.Reason.RULE, protocol=6)
    return bytes(key), bytes(abi.Flow(bytes_out=pid))


def excerpt(**changes: int) -> bytes:
    return bytes(ExcerptEvent(event=Event.from_buffer_copy(event(**changes)), length=3))


def test_beside_its_own(maps):
    """What the predecessor's programs still report comes with the wall's own."""
    before = Before()
    reports = Reports(maps, no_names, before)
    before.given = {name: [event(pid=index)] for index, name in enumerate(abi.RINGS, 1)}
    before.given[abi.EXCERPTS] = [excerpt(pid=9)]
    before.entries = [flow(4)]
    maps["aw_flow_table"].update(*flow(5))
    events, again = reports.attempts(), reports.attempts()
    excerpts, totals = reports.excerpts(), reports.totals()
    reports.close()

    assert ([found.task.pid for found in events], again) == ([1, 2], [])
    assert [found.attempt.task.pid for found in excerpts] == [9]
    assert sorted(found.bytes_out for found in totals) == [4, 5]


def test_the_last_of_it(maps):
    """What is there when the wall lets go is kept until it is asked for; later there is nothing."""
    before = Before()
    reports = Reports(maps, no_names, before)
    before.given = {abi.RINGS[0]: [event(pid=1)], abi.EXCERPTS: [excerpt(pid=2)]}
    before.entries = [flow(3)]
    reports.let_go()
    before.given = {abi.RINGS[0]: [event(pid=4)]}
    events, excerpts, totals = reports.attempts(), reports.excerpts(), reports.totals()
    rest = reports.attempts(), reports.excerpts(), reports.totals()
    reports.close()

    assert [found.task.pid for found in events] == [1]
    assert [found.attempt.task.pid for found in excerpts] == [2]
    assert [found.bytes_out for found in totals] == [3]
    assert rest == ([], [], [])


def test_what_cannot_be_decoded(maps):
    """An event of the predecessor that means nothing here is counted, and the next one is read."""
    before = Before()
    reports = Reports(maps, no_names, before)
    before.given = {abi.RINGS[0]: [event(verdict=200), event(pid=2)], abi.EXCERPTS: [b"short"]}
    before.entries = [(flow(1)[0], b"short")]
    events, excerpts, totals = reports.attempts(), reports.excerpts(), reports.totals()
    reports.close()

    assert [found.task.pid for found in events] == [2]
    assert (excerpts, totals) == ([], [])
    assert before.lost == [abi.RINGS[0], abi.EXCERPTS, "aw_flow_table"]
