# SPDX-License-Identifier: Apache-2.0
"""A sandbox with libraries without end does not keep another one from being read, and it shows."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from rig.inside_ground import ground_that_reads
from rig.probed import build, calling

from agentwall.flow.record import SandboxKey
from agentwall.flow.tls import Unread

pytestmark = pytest.mark.kernel

MAX = 4
OTHER = SandboxKey(4242)


def test_the_other_one_is_read(tmp_path):
    """Its library is probed in place of one of the greedy one's, whose process is told unread."""
    parts = build(tmp_path)
    with ground_that_reads(tmp_path) as ground, ExitStack() as stack:
        attached = ground.inside._finder.attached
        attached.max_libraries = MAX
        # What is installed here is probed beforehand, and goes when there is need.
        greedy = []
        for number in range(2 * MAX):
            path = parts.copy(tmp_path / f"libssl{number}.so")
            greedy.append(stack.enter_context(ground.running(parts.caller, path)).pid)
        ground.go_on(lambda: all(ground.reading_of(pid) for pid in greedy))
        ground.keep_up(lambda: [ground.reading_of(pid).unread for pid in greedy].count(None) == MAX)
        path = parts.copy(tmp_path / "libssl-other.so")
        # In no cgroup of a sandbox: nothing but this says whose it is.
        other = stack.enter_context(calling(parts, path)).pid
        ground.inside.admit(OTHER, [other])

        def of_other():
            found = ground.inside.readings(OTHER)
            return found.processes[0].reading if found and found.processes else None

        ground.go_on(lambda: of_other() and of_other().unread is None)
        ground.keep_up(lambda: ground.inside.state().displaced)
        ground.keep_up(
            lambda: [ground.reading_of(pid).unread for pid in greedy].count(None) == MAX - 1
        )
        readings = [ground.reading_of(pid).unread for pid in greedy]
        state, reading = ground.inside.state(), of_other()

    assert state.over_limit >= MAX
    assert reading.path == str(path)
    assert readings.count(Unread.LIMIT) == MAX + 1
    assert readings.count(None) == MAX - 1
    assert state.displaced == 1
    assert {each.sandboxes for each in state.libraries} == {1}
