# SPDX-License-Identifier: Apache-2.0
"""What makes two flows equal."""

from __future__ import annotations

import pytest
from rig.records import endpoint, flow, permitted, totals

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


def test_totals_belong_to_their_flow():
    """A flow's totals have the key of its first sight."""
    sight = permitted()
    end = totals(sight, out=1, back=1)

    assert flow_key(sight) == flow_key(end)
    assert (is_totals(sight), is_totals(end)) == (False, True)
    assert end.hook is Hook.SOCK_RELEASE
