# SPDX-License-Identifier: Apache-2.0
"""What agents ask of the web over TLS is read, and none of it is taken for mining."""

from __future__ import annotations

import json

import pytest
from rig.lab import lab
from rig.tls_sandbox import BenignDay, benign_day
from rig.tls_web import QUICK

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def day(tmp_path_factory) -> BenignDay:
    """A usual test's number of requests; bench/ makes 10 000."""
    with lab() as made:
        return benign_day(made, tmp_path_factory.mktemp("benign"), QUICK)


def test_all_is_answered(day):
    """Every request of every client gets its whole answer."""
    assert day.load.errors == []
    assert day.load.is_complete
    assert sum(day.load.answered.values()) == QUICK


def test_nothing_is_found(day):
    """There is no detection, though pages, chats and logs quote what miners say."""
    found = [each for each in day.events if each["kind"] == "detection"]

    assert found == []


def test_sessions_are_read(day):
    """The text of all sessions is read: nothing passes because nobody looked."""
    sessions, read = day.sessions

    assert sessions > 50
    assert read == sessions


def test_nothing_is_lost(day):
    """The kernel had room for all that it told, and nothing was refused."""
    end = next(each["detail"] for each in day.events if each.get("state") == "finished")

    assert (end["lost"], end["lost_excerpts"], end["denied"]) == (0, 0, 0), json.dumps(end)
