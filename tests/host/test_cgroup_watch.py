# SPDX-License-Identifier: Apache-2.0
"""Cgroups are seen as they come and go, in any order and number."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rig.cgroup import cgroup_root, temp_cgroup

from agentwall.errors import HostError
from agentwall.host.cgroup_watch import Appeared, CgroupWatch, Vanished
from agentwall.host.mountinfo import Mount

pytestmark = pytest.mark.kernel


@pytest.fixture
def scope():
    """A cgroup of the test's own."""
    with temp_cgroup("watch") as made:
        yield made


def spelled(directory: Path) -> str:
    return "/" + directory.relative_to(cgroup_root()).as_posix()


@contextlib.contextmanager
def watching(*roots: Path, **options):
    """Watch *roots*; by the host's mounts the hierarchy's root too, where others make cgroups."""
    with contextlib.closing(CgroupWatch([spelled(root) for root in roots], **options)) as watch:
        yield watch


def mounted(directory: Path) -> tuple[Mount, ...]:
    """Mounts that show *directory* and nothing above it, so that only the test wakes the watch."""
    writable = frozenset({"rw"})
    root, point = spelled(directory), str(directory)
    return (Mount(root=root, point=point, options=writable, fstype="cgroup2"),)


def names(seen, scope: Path) -> list[str]:
    """The path of each thing seen, below *scope*, with ``+`` or ``-`` before."""
    return [
        ("-" if isinstance(each, Vanished) else "+") + each.path.removeprefix(spelled(scope))
        for each in seen
    ]


def test_scan_returns_what_is_there(scope):
    """Parents come first, with directory and id; what is seen by a scan is not told again."""
    (scope / "b/c").mkdir(parents=True)
    (scope / "a").mkdir()
    with watching(scope) as watch:
        found = watch.scan()

        assert names(found, scope) == ["+", "+/a", "+/b", "+/b/c"]
        assert [each.directory for each in found] == [
            scope,
            scope / "a",
            scope / "b",
            scope / "b/c",
        ]
        assert [each.cgroup_id for each in found] == [
            each.directory.stat().st_ino for each in found
        ]
        assert watch.read() == []
        assert names(watch.scan(), scope) == ["+", "+/a", "+/b", "+/b/c"]


def test_come_and_go(scope):
    """Each is told in order; what was there only in between is not."""
    (top := scope / "top").mkdir()
    with watching(top, mounts=mounted(scope)) as watch:
        watch.scan()
        (top / "a/b").mkdir(parents=True)

        assert select.select([watch], [], [], 60)[0]
        assert names(watch.read(), top) == ["+/a", "+/a/b"]
        (top / "a/b").rmdir()
        (top / "brief").mkdir()
        (top / "brief").rmdir()
        assert names(watch.read(), top) == ["-/a/b"]
        (top / "a").rmdir()
        (top / "a").mkdir()
        assert names(watch.read(), top) == ["-/a", "+/a"]
        assert not select.select([watch], [], [], 0)[0]


def test_one_that_is_replaced_is_another(scope):
    """A cgroup of the same path is told apart by its id, on a scan too."""
    with watching(scope) as watch:
        (scope / "a").mkdir()
        watch.scan()
        before = (scope / "a").stat().st_ino
        (scope / "a").rmdir()
        (scope / "a").mkdir()
        found = watch.scan()

        assert [each.cgroup_id for each in found if each.path.endswith("/a")] != [before]
        assert names(watch.read(), scope)[0] == "-/a"


def test_a_scope_that_is_not_there_yet(scope):
    """It is seen when it comes, when it goes and when it comes again, from any depth above."""
    root = scope / "not/yet"
    with watching(root) as watch:
        assert watch.scan() == []
        (root / "sandbox").mkdir(parents=True)
        (scope / "beside").mkdir()
        assert names(watch.read(), scope) == ["+/not/yet", "+/not/yet/sandbox"]
        (root / "sandbox").rmdir()
        root.rmdir()
        (scope / "not").rmdir()
        assert names(watch.read(), scope) == ["-/not/yet/sandbox", "-/not/yet"]
        root.mkdir(parents=True)
        assert names(watch.read(), scope) == ["+/not/yet"]
        (root / "another").mkdir()
        assert names(watch.read(), scope) == ["+/not/yet/another"]


def test_several_scopes_that_change(scope):
    """Scopes that are left vanish from the view, not from the host."""
    for name in ("a/x", "b/y", "c/z"):
        (scope / name).mkdir(parents=True)
    with watching(scope / "a", scope / "b") as watch:
        assert names(watch.scan(), scope) == ["+/a", "+/a/x", "+/b", "+/b/y"]
        watch.renew([spelled(scope / "b"), spelled(scope / "c")])
        assert watch.read() == []
        assert names(watch.scan(), scope) == ["+/b", "+/b/y", "+/c", "+/c/z"]
        for name in ("a/new", "b/new", "c/new"):
            (scope / name).mkdir()
        assert names(watch.read(), scope) == ["+/b/new", "+/c/new"]


def test_nothing_is_looked_for_in_a_sandbox(scope):
    """What lies below one that needs no look is not seen, nor does it cost anything."""
    with watching(scope, descend=lambda path: not path.endswith("/box")) as watch:
        watch.scan()
        (scope / "box/inner").mkdir(parents=True)

        assert names(watch.read(), scope) == ["+/box"]
        assert names(watch.scan(), scope) == ["+", "+/box"]
        (scope / "box/inner").rmdir()
        (scope / "box").rmdir()
        assert names(watch.read(), scope) == ["-/box"]


def test_too_many(scope):
    """Beyond the limit none is seen, which is said, until there is room and a scan."""
    with watching(scope, limit=3) as watch:
        for name in "abcd":
            (scope / name).mkdir()
        watch.scan()

        assert watch.problem == "cgroup watch: more than 3 cgroups: the others are not seen"
        for name in "cd":
            (scope / name).rmdir()
        assert names(watch.scan(), scope) == ["+", "+/a", "+/b"]
        assert watch.problem is None


def test_beyond_all_reason(scope):
    """A sandbox that makes cgroups within one another ever deeper is not followed."""
    (scope / "/".join("x" * 40)).mkdir(parents=True)
    with watching(scope) as watch:
        assert max(each.path.count("/") for each in watch.scan()) == 32
        (scope / "y").mkdir()
        assert names(watch.read(), scope) == ["+/y"]
        assert watch.problem is None


def test_events_that_the_kernel_dropped(scope):
    """After an overflow everything is listed again."""
    depth = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    with watching(scope) as watch:
        (scope / "old").mkdir()
        watch.scan()
        (scope / "old").rmdir()
        for _ in range(depth // 2 + 2):
            (scope / "busy").mkdir()
            (scope / "busy").rmdir()
        (scope / "new").mkdir()
        seen = []
        while select.select([watch], [], [], 0)[0]:
            seen += watch.read()

        assert [name for name in names(seen, scope) if "busy" not in name] == ["-/old", "+/new"]


def test_no_mount_shows_it(tmp_path):
    """A path that cannot be looked at is refused, and so is the root."""
    mount = Mount(root="/a", point=str(tmp_path), options=frozenset({"rw"}), fstype="cgroup2")

    for path in ("/b", "/", "a", "/a/../b", "/a//b"):
        with pytest.raises(HostError, match=r"^cgroup "):
            CgroupWatch([path], mounts=(mount,))
    with contextlib.closing(CgroupWatch(["/a/b"], mounts=(mount,))) as watch:
        assert watch.scan() == []
        (tmp_path / "b/c").mkdir(parents=True)
        assert [each.path for each in watch.read()] == ["/a/b", "/a/b/c"]


def test_a_thousand_cost_little(scope):
    """Neither descriptors nor processor time grow with the sandboxes that are at rest."""
    held = len(os.listdir("/proc/self/fd"))
    (top := scope / "top").mkdir()
    with watching(top, mounts=mounted(scope)) as watch:
        watch.scan()
        for number in range(1000):
            (top / f"s{number}").mkdir()
        assert len([each for each in watch.read() if isinstance(each, Appeared)]) == 1000
        # Who is not woken takes no time.
        assert not select.select([watch], [], [], 0.2)[0]
        assert watch.problem is None
        assert len(os.listdir("/proc/self/fd")) < held + 100


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["make", "remove", "read"]), st.sampled_from(["a", "a/b", "a/b/c", "d"])
    ),
    max_size=20,
)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(STEPS)
def test_what_was_told_adds_up(tmp_path, steps):
    """Whatever happened, appearing and vanishing lead to what is there."""
    top = tmp_path / "root"
    shutil.rmtree(top, ignore_errors=True)
    mount = Mount(root="/", point=str(tmp_path), options=frozenset({"rw"}), fstype="cgroup2")
    with contextlib.closing(CgroupWatch(["/root"], mounts=(mount,))) as watch:
        assert watch.scan() == []
        there: set[str] = set()

        def tell() -> None:
            for seen in watch.read():
                if isinstance(seen, Appeared):
                    assert seen.path not in there
                    assert seen.path.rpartition("/")[0] in there | {""}
                    there.add(seen.path)
                else:
                    there.remove(seen.path)

        for what, name in steps:
            if what == "make":
                (top / name).mkdir(parents=True, exist_ok=True)
            elif what == "read":
                tell()
            else:
                with contextlib.suppress(OSError):
                    (top / name).rmdir()
        tell()
        expected = {f"/root/{each.relative_to(top)}" for each in top.rglob("*")}

        assert there == (expected | {"/root"} if top.exists() else set())
