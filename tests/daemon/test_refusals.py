# SPDX-License-Identifier: Apache-2.0
"""Refusals are told, within bounds."""

from __future__ import annotations

from agentwall.daemon.callers import Caller, Credentials
from agentwall.daemon.refusals import Refusals

CALLER = Caller(pid=7, uid=0, gids=frozenset(), cgroup="/x")


def test_flood(caplog):
    """Twenty a minute are told one by one, and the next says how many were not."""
    told = []
    refusals = Refusals(told.append, 0.0)
    for n in range(50):
        refusals.tell(CALLER, "status", "no", n / 10)
    refusals.tell(Credentials(8, 9, 9), "stop\x1b", "it is in /a\nb", 60.0)

    assert refusals.count == 51
    assert [each.more for each in told] == [0] * 20 + [30]
    assert told[-1].caller is None
    assert told[0].caller is CALLER
    assert caplog.messages[-1] == (
        "control: stop\\x1b of pid 8 (uid 9) refused: it is in /a\\x0ab;"
        " 30 more were refused before"
    )
    assert caplog.messages[0] == "control: status of pid 7 (uid 0) refused: no"
