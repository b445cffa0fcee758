# SPDX-License-Identifier: Apache-2.0
"""Changes of files, as editors, git and installers make them."""

from __future__ import annotations

import os
import select
import subprocess
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rig.keeping import make_edition, owned

from agentwall.daemon.watching import MAX_DELAY_S, SETTLE_S, FileWatch


@pytest.fixture
def edition(tmp_path):
    """An edition with one policy."""
    return make_edition(tmp_path, {"web": "allow: []\n"}, owned("/agentwall-test"))


@pytest.fixture
def watch(edition):
    """A watch of it."""
    made = FileWatch(edition)
    yield made
    made.close()


def is_seen(watch: FileWatch) -> bool:
    """Whether something has changed since, and once it has settled is due once.

    The kernel tells of a change before the call that makes it returns.
    """
    if select.select([watch.fileno()], [], [], 0)[0]:
        watch.read()
    later_s = time.monotonic() + SETTLE_S
    found = watch.is_due(later_s)
    assert not watch.is_due(later_s)
    return found


def git(directory, *arguments: str) -> None:
    """Run git in *directory*."""
    named = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-C", str(directory)]
    subprocess.run(["git", *named, *arguments], check=True, capture_output=True)


def write(path) -> None:
    path.write_text("version: 1\nname: web\n")


def rename_over(path) -> None:
    draft = path.with_name(".web.yaml.swp")
    draft.write_text("version: 1\nname: web\n")
    draft.rename(path)


def keep_a_backup(path) -> None:
    path.rename(path.with_name("web.yaml~"))
    path.write_text("version: 1\nname: web\n")


def replace_directory(path) -> None:
    other = path.parent.with_name("policies.new")
    other.mkdir()
    (other / "web.yaml").write_text("version: 1\nname: web\n")
    path.parent.rename(path.parent.with_name("policies.old"))
    other.rename(path.parent)


@pytest.mark.parametrize(
    "change",
    [
        write,
        rename_over,
        keep_a_backup,
        replace_directory,
        lambda path: path.unlink(),
        lambda path: path.with_name("new.yaml").touch(),
        lambda path: (path.parent.parent / "agentwall.yaml").write_text("version: 1\n"),
    ],
)
def test_however_it_is_changed(watch, tmp_path, change):
    """Written in place, renamed over, put back from a backup, removed, or the whole directory."""
    change(tmp_path / "policies" / "web.yaml")

    assert is_seen(watch)
    assert not is_seen(watch)


def test_what_replaced_a_directory_is_watched_once_it_is_read(watch, edition, tmp_path):
    """The watch goes with the new edition."""
    path = tmp_path / "policies" / "web.yaml"
    replace_directory(path)
    first = is_seen(watch)
    watch.renew(edition)
    write(path)

    assert first
    assert is_seen(watch)


def test_a_checkout_is_seen(watch, tmp_path):
    """``git checkout`` of another commit is one change, however many files it writes."""
    git(tmp_path, "init", "-q", "-b", "main")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    for name in "abc":
        (tmp_path / "policies" / f"{name}.yaml").write_text(f"version: 1\nname: {name}\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "two")
    watch.settle()
    git(tmp_path, "checkout", "-q", "HEAD~1")

    assert is_seen(watch)
    assert not is_seen(watch)


def test_reading_is_no_change(watch, tmp_path):
    """Else every reload would cause the next."""
    (tmp_path / "policies" / "web.yaml").read_text()
    os.listdir(tmp_path / "policies")

    assert not is_seen(watch)


def test_what_is_about_to_be_read_is_settled(watch, tmp_path):
    """A reload takes what was changed before it; only what follows causes another."""
    write(tmp_path / "policies" / "web.yaml")
    watch.settle()

    assert not is_seen(watch)


def test_who_does_not_want_it_is_left_alone(edition, tmp_path):
    """``watch: false``: on SIGHUP only; switched on by a reload, it begins."""
    off = replace(edition, config=replace(edition.config, watch=False))
    watch = FileWatch(off)
    write(tmp_path / "policies" / "web.yaml")
    before = is_seen(watch)
    watch.renew(edition)
    write(tmp_path / "policies" / "web.yaml")
    after = is_seen(watch)
    watch.renew(off)
    write(tmp_path / "policies" / "web.yaml")

    assert (before, after, is_seen(watch)) == (False, True, False)
    watch.close()


def test_a_directory_that_has_gone_is_told(edition, tmp_path):
    """It was there when it was read: the daemon starts all the same."""
    gone = replace(edition, directories=(*edition.directories, str(tmp_path / "gone")))
    watch = FileWatch(gone)
    problems = dict(watch.problems)
    watch.renew(edition)

    assert problems == {str(tmp_path / "gone"): "changes are not seen: no such file or directory"}
    assert watch.problems == {}
    watch.close()


def test_a_link_that_is_turned_is_seen(tmp_path):
    """Releases beside one another, and a link to the one that counts; others are no matter."""
    for name in ("1", "2"):
        (tmp_path / "releases" / name).mkdir(parents=True)
        (tmp_path / "releases" / name / "web.yaml").write_text("version: 1\nname: web\n")
    (tmp_path / "releases" / "now").symlink_to("1")
    edition = make_edition(tmp_path, {}, owned("/agentwall-test"))
    linked = replace(edition.config, policies=tmp_path / "releases" / "now")
    watch = FileWatch(replace(edition, config=linked, directories=(str(linked.policies),)))
    (tmp_path / "releases" / "other").touch()
    before = is_seen(watch)
    (tmp_path / "releases" / "next").symlink_to("2")
    (tmp_path / "releases" / "next").rename(tmp_path / "releases" / "now")

    assert (before, is_seen(watch)) == (False, True)
    watch.close()


def test_a_directory_that_comes_later_is_seen(tmp_path):
    """The policies are installed after the daemon."""
    edition = make_edition(tmp_path, {}, owned("/agentwall-test"))
    config = replace(edition.config, policies=tmp_path / "later")
    watch = FileWatch(replace(edition, config=config, directories=()))
    (tmp_path / "later").mkdir()

    assert is_seen(watch)
    watch.close()


# Binary fractions: of others, the difference of two sums is not always what was added.
@given(st.lists(st.integers(1, 128).map(lambda number: number / 64), min_size=1, max_size=20))
def test_what_goes_on_is_acted_on_in_the_end(gaps):
    """Never while something was changed just now, but for who changes something all the time."""
    watch = FileWatch.__new__(FileWatch)
    start_s = watch._first_s = watch._last_s = 100.0
    now_s, due_s = start_s, None
    for gap_s in gaps:
        now_s += gap_s
        if watch.is_due(now_s):
            due_s = now_s
            break
        watch._last_s = now_s

    if due_s is not None:
        assert due_s - watch._last_s >= SETTLE_S or due_s - start_s >= MAX_DELAY_S
    else:
        assert all(gap_s < SETTLE_S for gap_s in gaps)
        assert now_s - start_s < MAX_DELAY_S
        assert watch.is_due(now_s + SETTLE_S)
