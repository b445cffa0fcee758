# SPDX-License-Identifier: Apache-2.0
"""Mappings that nobody was told of: the ring that tells of them was full."""

from __future__ import annotations

import pytest
from rig.inside_ground import Ground, ground_that_reads
from rig.probed import build

from agentwall.daemon import inside
from agentwall.daemon.speakers import Speakers
from agentwall.host.process import living
from agentwall.probes.mapped import Mapped, MappedFiles

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """A sandbox whose TLS is read."""
    with ground_that_reads(tmp_path_factory.mktemp("lost")) as made:
        yield made


def lose(monkeypatch, ground: Ground) -> None:
    """Have what is mapped from now on counted and not told, as where there is no room for it."""
    mapped = ground.inside._mapped

    def read(limit: int) -> list[Mapped]:
        mapped.lost += len(MappedFiles.read(mapped, limit))
        return []

    monkeypatch.setattr(mapped, "read", read)


def test_who_was_missed_is_looked_at(ground, tmp_path, monkeypatch):
    """With the next round of upkeep, each process of a sandbox, and it is read from then on."""
    (tmp_path / "parts").mkdir()
    parts = build(tmp_path / "parts")
    library = parts.copy(tmp_path / "libssl.so")
    lose(monkeypatch, ground)
    with ground.running(parts.caller, library) as one:
        ground.keep_up(lambda: ground.reading_of(one.pid))
        found = ground.reading_of(one.pid)
        monkeypatch.undo()

    assert found is not None
    assert (found.path, found.unread) == (str(library), None)


def test_nobody_is_looked_at_for_nothing():
    """Where nothing more was lost no cgroup of any process is asked for."""
    asked: list[int] = []
    speakers = Speakers(asked.append, lambda *_: None)
    first, again = (speakers.missed(1, [1, 2]) for _ in range(2))

    assert first == again == set()
    assert asked == [1, 2]


def test_lost_while_processes_are_listed(ground, tmp_path, monkeypatch):
    """Who is on no list yet, and missed before that is gone through, is looked at the next time."""
    (tmp_path / "parts").mkdir()
    parts = build(tmp_path / "parts")
    ground.settle()
    # From here on there are no rounds of upkeep but those of this test.
    ground.go_on(lambda: ground.inside._is_upkept)
    with ground.running(parts.caller, parts.library) as one:

        def list_and_lose() -> set[int]:
            ground.inside._mapped.lost += 1
            return living() - {one.pid}

        with monkeypatch.context() as patch:
            patch.setattr(inside, "living", list_and_lose)
            early = ground.inside._keep_up().missed
        late = ground.inside._keep_up().missed

    assert (one.pid in early, one.pid in late) == (False, True)
