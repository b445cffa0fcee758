# SPDX-License-Identifier: Apache-2.0
"""The commit of a checkout, read from repositories that the real git made."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from agentwall.host.git_head import MAX_REF_BYTES, MAX_SYMBOLIC, commit_of, log_directory_of
from agentwall.host.inotify import Inotify

ENVIRONMENT = {
    **{key: value for key, value in os.environ.items() if not key.startswith("GIT_")},
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
    **{f"GIT_{who}_NAME": "a" for who in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{who}_EMAIL": "a@example.com" for who in ("AUTHOR", "COMMITTER")},
}


def git(directory: Path, *words: str | Path) -> str:
    command = ["git", "-C", str(directory), *map(str, words)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout.strip()


def repository(directory: Path, *words: str) -> Path:
    """A repository with one commit on the branch main."""
    directory.mkdir()
    git(directory, "init", "-q", "-b", "main", *words)
    commit(directory)
    return directory


def commit(directory: Path) -> str:
    git(directory, "commit", "-q", "--allow-empty", "-m", "x")
    return git(directory, "rev-parse", "HEAD")


@pytest.fixture
def tree(tmp_path) -> Path:
    """A repository with one commit."""
    return repository(tmp_path / "tree")


def reason(directory: Path) -> str:
    found, why = commit_of(directory)
    assert found is None
    assert why is not None
    return why


def test_loose_ref(tree):
    """The commit of the branch, from the checkout's top and from deep within it."""
    deep = tree / "a" / "b"
    deep.mkdir(parents=True)
    head = git(tree, "rev-parse", "HEAD")

    assert commit_of(tree) == (head, None)
    assert commit_of(deep) == (head, None)


def test_no_checkout(tmp_path):
    """Outside of any checkout there is neither a commit nor a problem; nor in a missing place."""
    (tmp_path / "plain" / ".git").mkdir(parents=True)

    assert commit_of(tmp_path) == (None, None)
    assert commit_of(tmp_path / "plain") == (None, None)
    assert commit_of(tmp_path / "absent") == (None, None)


def test_through_a_symlink(tree, tmp_path):
    """A link to a directory in a checkout leads to that checkout."""
    (tree / "policies").mkdir()
    link = tmp_path / "policies"
    link.symlink_to(tree / "policies")

    assert commit_of(link) == (git(tree, "rev-parse", "HEAD"), None)


def test_next_commit(tree):
    """What is read is what is there now."""
    before = commit_of(tree)
    after = commit(tree)

    assert before != (after, None)
    assert commit_of(tree) == (after, None)


def test_packed_refs(tree):
    """After git pack-refs, and for a loose ref that is newer than the packed one."""
    packed = git(tree, "rev-parse", "HEAD")
    git(tree, "tag", "-a", "-m", "x", "v1")
    git(tree, "branch", "domain")
    git(tree, "pack-refs", "--all")

    assert not (tree / ".git" / "refs" / "heads" / "main").exists()
    assert commit_of(tree) == (packed, None)

    newer = commit(tree)
    assert commit_of(tree) == (newer, None)


def test_packed_name_is_whole(tree):
    """A ref whose name only ends alike is another one."""
    git(tree, "checkout", "-q", "-b", "x/refs/heads/new")
    commit(tree)
    git(tree, "pack-refs", "--all")
    (tree / ".git" / "HEAD").write_text("ref: refs/heads/new\n")

    assert reason(tree) == "refs/heads/new: no commit yet"


def test_branch_in_a_directory(tree):
    """A packed branch whose name is a directory of what was another branch."""
    git(tree, "checkout", "-q", "-b", "a")
    head = commit(tree)
    git(tree, "pack-refs", "--all")
    (tree / ".git" / "refs" / "heads" / "a").mkdir()

    assert commit_of(tree) == (head, None)


def test_detached(tree):
    """HEAD may name a commit itself."""
    head = git(tree, "rev-parse", "HEAD")
    commit(tree)
    git(tree, "checkout", "-q", "--detach", head)

    assert commit_of(tree) == (head, None)


def test_sha256(tmp_path):
    """Repositories with longer names work, too."""
    tree = repository(tmp_path / "tree", "--object-format=sha256")
    found, why = commit_of(tree)

    assert found == git(tree, "rev-parse", "HEAD")
    assert (len(found), why) == (64, None)


def test_worktrees(tree, tmp_path):
    """A linked working tree has a HEAD of its own, and shares the branches."""
    other = tmp_path / "other"
    git(tree, "worktree", "add", "-q", "-b", "side", other)
    side = commit(other)
    git(tree, "pack-refs", "--all")
    git(other, "worktree", "add", "-q", "--detach", tmp_path / "third", "main")

    assert commit_of(other) == (side, None)
    assert commit_of(tree) == (git(tree, "rev-parse", "main"), None)
    assert commit_of(tmp_path / "third") == (git(tree, "rev-parse", "main"), None)
    assert side != git(tree, "rev-parse", "main")


def test_submodule(tree, tmp_path):
    """A submodule's commit is its own, not that of the tree around it."""
    outer = repository(tmp_path / "outer")
    git(outer, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(tree), "sub")
    inner = commit(outer / "sub")

    assert (outer / "sub" / ".git").is_file()
    assert commit_of(outer / "sub") == (inner, None)
    assert commit_of(outer) == (git(outer, "rev-parse", "HEAD"), None)


def test_symbolic_branch(tree):
    """A branch may be another name for one, a few times over."""
    for number in range(MAX_SYMBOLIC):
        target = "main" if number == 0 else f"s{number - 1}"
        git(tree, "symbolic-ref", f"refs/heads/s{number}", f"refs/heads/{target}")
    at_limit, beyond = MAX_SYMBOLIC - 2, MAX_SYMBOLIC - 1

    (tree / ".git" / "HEAD").write_text(f"ref: refs/heads/s{at_limit}\n")
    assert commit_of(tree) == (git(tree, "rev-parse", "main"), None)

    (tree / ".git" / "HEAD").write_text(f"ref: refs/heads/s{beyond}\n")
    assert reason(tree) == f"expected at most {MAX_SYMBOLIC} refs that name another one"


def test_cycle(tree):
    """Refs that name each other end the search."""
    (tree / ".git" / "refs" / "heads" / "main").write_text("ref: refs/heads/main\n")

    assert "refs that name another one" in reason(tree)


def test_unborn(tmp_path):
    """A repository without a commit has none, and says on which branch."""
    git(tmp_path, "init", "-q", "-b", "main")

    assert reason(tmp_path) == "refs/heads/main: no commit yet"


def test_reftable(tree):
    """Refs in a reftable are not read; the reason says so."""
    # As git 2.45 lays it out with --ref-format=reftable.
    (tree / ".git" / "HEAD").write_text("ref: refs/heads/.invalid\n")
    (tree / ".git" / "reftable").mkdir()

    assert "reftable" in reason(tree)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("HEAD", "ref: ../../etc/passwd\n", "expected a ref below refs/"),
        ("HEAD", "ref: refs/../../../../etc/passwd\n", "expected a ref below refs/"),
        ("HEAD", "ref: refs/heads/\x1b[31m\n", "expected a ref below refs/"),
        ("HEAD", "root:x:0:0\n", "HEAD: expected the name of a commit"),
        ("HEAD", "", "HEAD: expected the name of a commit"),
        ("HEAD", "a" * (MAX_REF_BYTES + 1), "expected at most 4096 bytes"),
        ("refs/heads/main", "abc\n", "refs/heads/main: expected the name of a commit"),
    ],
)
def test_damaged(tree, name, content, expected):
    """Whatever stands in the files, the answer is a reason, without what they hold."""
    (tree / ".git" / name).write_text(content)
    why = reason(tree)

    assert expected in why
    assert "\x1b" not in why
    assert "root:x" not in why


@pytest.mark.parametrize("content", ["", "gitdir:\n", "gitdir: a\0b\n", "hello\n"])
def test_damaged_pointer(tmp_path, content):
    """A .git file that names no directory gives a reason."""
    (tmp_path / ".git").write_text(content)

    assert "expected" in reason(tmp_path)


def test_pointer_to_nothing(tmp_path):
    """A .git file whose directory is gone gives a reason."""
    (tmp_path / ".git").write_text("gitdir: gone\n")

    assert reason(tmp_path) == "HEAD: no commit yet"


def test_fifo(tree):
    """A FIFO in place of HEAD or of the refs does not block."""
    (tree / ".git" / "refs" / "heads" / "main").unlink()
    os.mkfifo(tree / ".git" / "packed-refs")

    assert "expected a regular file" in reason(tree)


def test_no_hook_runs(tree, tmp_path):
    """Nothing of what the checkout's configuration names is run."""
    mark = tmp_path / "ran"
    git(tree, "config", "core.fsmonitor", f"touch {mark}")
    git(tree, "config", "core.pager", f"touch {mark}")

    assert commit_of(tree)[1] is None
    assert not mark.exists()


@pytest.mark.parametrize("is_linked", [False, True], ids=["checkout", "linked working tree"])
def test_moves_are_noted(tree, tmp_path, is_linked):
    """Whoever watches the directory of the log hears of a commit, and of nothing else."""
    where = tree
    if is_linked:
        where = tmp_path / "linked"
        git(tree, "worktree", "add", "-q", where)
    found = log_directory_of(where)
    assert found is not None
    with contextlib.closing(Inotify()) as watch:
        watch.watch_content(found)
        git(where, "status")
        git(where, "fetch", "-q", tree)
        before = watch.read()
        commit(where)
        after = watch.read()

    assert not before
    assert after


def test_moves_that_are_not_noted(tree, tmp_path):
    """Where git keeps no log, and where there is no checkout, there is nothing to watch."""
    git(tree, "config", "core.logAllRefUpdates", "false")
    shutil.rmtree(tree / ".git" / "logs")

    assert log_directory_of(tree) is None
    assert log_directory_of(tmp_path) is None
