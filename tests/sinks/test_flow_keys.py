# SPDX-License-Identifier: Apache-2.0
"""What makes two flows equal."""

from __future__ import annotations

import pytest
from rig.records import asked, endpoint, flow, permitted, totals

from agentwall.flow.verdict import Direction, Hook
from agentwall.sinks.flow_keys import flow_key, is_totals, judged_port


@pytest.mark.parametrize(
    ("record", "port"),
    [
        (flow(), 443),
        (flow(remote=None), 0),
        (
            flow(
                direction=Direction.IN,
                local=endpoint("10.0.0.2", 8888),
                remote=endpoint("10.0.0.1", 50000),
            ),
            8888,
        ),
        (flow(direction=Direction.IN, remote=endpoint("10.0.0.1", 50000)), 0),
    ],
)
def test_judged_port(record, port):
    """Outward the remote port is judged, inward the sandbox's own."""
    assert judged_port(record) == port


def test_names():
    """Flows to addresses of one name are equal, unless one of them is more serious."""
    first = flow(name="a.example")
    second = flow(name="a.example", remote=endpoint("203.0.113.8", 443))
    inside = flow(name="a.example", remote=endpoint("10.0.0.1", 443))

    assert flow_key(first) == flow_key(second)
    assert len({flow_key(record) for record in (first, inside, flow())}) == 3


def test_questions():
    """Who asks for a name's addresses asks for both kinds; anything else is something else."""
    keys = [flow_key(asked("a.example", type_)) for type_ in (1, 28, 16)]

    assert keys[0] == keys[1] != keys[2]
    assert flow_key(asked("b.example", 1)) != keys[0]


def test_totals_belong_to_their_flow():
    """A flow's totals have the key of its first sight."""
    sight = permitted()
    end = totals(sight, out=1, back=1)

    assert flow_key(sight) == flow_key(end)
    assert (is_totals(sight), is_totals(end)) == (False, True)
    assert end.hook is Hook.SOCK_RELEASE
