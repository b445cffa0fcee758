# SPDX-License-Identifier: Apache-2.0
"""Files about frozen sandboxes: their names, their bounds, and what stands in them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from rig.cgroup import cgroup_root, temp_cgroup
from rig.records import detection

from agentwall.daemon.snapshots import MAX_FILES, brief, name_snapshot, write_snapshot
from agentwall.host.argv import ArgvReader
from agentwall.host.cgroup import Cgroup

pytestmark = pytest.mark.kernel


@pytest.fixture
def cgroup():
    with temp_cgroup() as made:
        yield Cgroup(f"/{made.relative_to(cgroup_root())}", made)


@pytest.mark.parametrize(
    ("sandbox", "expected"),
    [("a-b_1", "a-b_1-"), ("../../etc/x", "______etc_x-"), ("", "_-"), ("x" * 99, "x" * 64 + "-")],
)
def test_names(sandbox, expected):
    """Names have the sandbox in them and lead nowhere else."""
    name = name_snapshot(sandbox)

    assert name.startswith(expected)
    assert name.endswith("Z.json")
    assert Path(name).name == name


def test_an_empty_one(cgroup: Cgroup, tmp_path: Path):
    """Of a sandbox without processes the file says so."""
    shot = write_snapshot(cgroup, detection(), tmp_path / "s" / "x.json", ArgvReader())
    document = json.loads((tmp_path / "s" / "x.json").read_text())

    assert shot.problem is None
    assert (document["processes"], document["process_count"]) == ([], 0)
    assert document["cgroup"] == cgroup.path
    assert brief(shot)["socket_count"] == 0


def test_nothing_is_overwritten(cgroup: Cgroup, tmp_path: Path):
    """A file or a link that is there already stays as it is."""
    (tmp_path / "target").write_text("kept")
    (tmp_path / "x.json").symlink_to(tmp_path / "target")
    shot = write_snapshot(cgroup, detection(), tmp_path / "x.json", ArgvReader())

    assert shot.problem == "not written: File exists"
    assert (tmp_path / "target").read_text() == "kept"
    assert brief(shot)["problems"] == ["snapshot not written: File exists"]


def test_the_oldest_make_room(cgroup: Cgroup, tmp_path: Path):
    """There are never more files than the bound, and other files are left alone."""
    for number in range(MAX_FILES + 3):
        path = tmp_path / f"{MAX_FILES + 3 - number:04}.json"
        path.write_text("")
        os.utime(path, (number, number))
    (tmp_path / "notes.txt").write_text("")
    write_snapshot(cgroup, detection(), tmp_path / "new.json", ArgvReader())
    left = sorted(path.name for path in tmp_path.glob("*.json"))

    assert len(left) == MAX_FILES
    assert "new.json" in left
    assert f"{MAX_FILES + 3:04}.json" not in left
    assert (tmp_path / "notes.txt").exists()
