# SPDX-License-Identifier: Apache-2.0
"""Mappings that nobody was told of: the ring that tells of them was full."""

from __future__ import annotations

import pytest
from rig.inside_ground import Ground, ground_that_reads
from rig.probed import build

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


def test_nobody_is_looked_at_for_nothing(ground, tmp_path, monkeypatch):
    """Where nothing more was lost no cgroup of any process is asked for."""
    asked: list[int] = []
    monkeypatch.setattr(ground.inside._speakers, "_sandbox_of", asked.append)
    lost = ground.inside._mapped.lost
    first = ground.inside._speakers.missed(lost + 1, [1, 2])
    again = ground.inside._speakers.missed(lost + 1, [1, 2])

    assert first == again == set()
    assert asked == [1, 2]
