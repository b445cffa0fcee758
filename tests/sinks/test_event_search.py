# SPDX-License-Identifier: Apache-2.0
"""Which events are wanted, and what a sandbox is called."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rig.daemon_log import CONTAINER, WEB
from rig.records import SANDBOX, detection, flow, permitted, state
from rig.tls_records import tls

from agentwall.flow.verdict import Verdict
from agentwall.sinks.event_search import Wanted, is_called


@pytest.mark.parametrize(
    ("handle", "means"),
    [
        (WEB.id, True),
        (CONTAINER, True),
        (CONTAINER[:4], True),
        (CONTAINER[:3], False),
        ("web", True),
        ("we", False),
        (WEB.cgroup, True),
        ("/system.slice", True),
        ("/system.slice/", True),
        ("/system", False),
        ("docker", False),
        ("", False),
    ],
)
def test_names(handle, means):
    """An id, a container or its beginning, a name, a cgroup or one above it; nothing shorter."""
    assert is_called(WEB, handle) is means


def test_without_an_origin():
    """What `run` made has an id and a cgroup, and no container."""
    assert is_called(SANDBOX, SANDBOX.id)
    assert not is_called(SANDBOX, "7f3a")


@pytest.mark.parametrize(
    ("wanted", "record", "accepts"),
    [
        (Wanted(), state("started"), True),
        (Wanted(kind="flow"), flow(), True),
        (Wanted(kind="flow"), detection(), False),
        (Wanted(verdict=Verdict.DENY), flow(verdict=Verdict.WOULD_DENY), True),
        (Wanted(verdict=Verdict.WOULD_DENY), flow(), False),
        (Wanted(verdict=Verdict.ALLOW), permitted(), True),
        (Wanted(verdict=Verdict.ALLOW), state("started"), False),
        (Wanted(verdict=Verdict.DENY), detection(), True),
        (Wanted(kind="tls"), tls(), True),
        (Wanted(kind="tls"), flow(), False),
        (Wanted(verdict=Verdict.ALLOW), tls(), False),
        (Wanted(labels={"episode": "41"}), flow(), True),
        (Wanted(labels={"episode": "41", "x": "y"}), flow(), False),
        (Wanted(labels={"episode": "4"}), flow(), False),
        (Wanted(since_ns=flow().time_ns), flow(), True),
        (Wanted(since_ns=flow().time_ns + 1), flow(), False),
        (Wanted(sandbox="web"), replace(flow(), sandbox=WEB), True),
        (Wanted(sandbox="web", kind="gap"), replace(flow(), sandbox=WEB), False),
    ],
)
def test_conditions(wanted, record, accepts):
    """All that are given must hold."""
    assert wanted.accepts(record) is accepts
