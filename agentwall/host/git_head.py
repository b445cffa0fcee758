# SPDX-License-Identifier: Apache-2.0
"""The commit that a git checkout is at, read from its files.

git itself is not run: it would run as root with the configuration, and so the programs, of whoever
owns the checkout. The formats are those of gitrepository-layout(5) and git-pack-refs(1).
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

MAX_REF_BYTES = 4096
"""Of a file with one ref or one path in it."""
MAX_PACKED_BYTES = 64 << 20
"""Of packed-refs; half a million refs."""
MAX_SYMBOLIC = 5
"""How many refs may name another one; as git itself."""
_MAX_PARENTS = 128

_COMMIT = re.compile(rb"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_CONTROL = re.compile(r"[\x00-\x20\x7f]")
_PER_WORKTREE = ("refs/bisect/", "refs/worktree/", "refs/rewritten/")


class _Unreadable(Exception):
    """Why the commit cannot be told; the message is for people."""


@dataclass(frozen=True, slots=True)
class _Repository:
    own: Path
    """Of this working tree: HEAD."""
    shared: Path
    """Of all working trees: refs. The same directory but for linked working trees."""


def commit_of(directory: str | os.PathLike[str]) -> tuple[str | None, str | None]:
    """Return the commit of the checkout that *directory* lies in, and else why there is none.

    The commit is 40 hexadecimal digits, 64 where the repository uses SHA-256. Says nothing of
    whether the files are as that commit has them. Both are None where there is no checkout.
    """
    try:
        repository = _find(Path(os.path.realpath(directory)))
        return (None, None) if repository is None else (_resolve(repository), None)
    except _Unreadable as err:
        return None, str(err)


def log_directory_of(directory: str | os.PathLike[str]) -> str | None:
    """Return the directory in which git notes every move of the commit that *directory* is at.

    None where there is no checkout, or it keeps no log (core.logAllRefUpdates). What does not move
    the commit, such as a fetch, changes nothing there.
    """
    try:
        repository = _find(Path(os.path.realpath(directory)))
        logs = repository.own / "logs" if repository is not None else None
        return str(logs) if logs is not None and (logs / "HEAD").is_file() else None
    except (_Unreadable, OSError):
        return None


def _find(directory: Path) -> _Repository | None:
    for parent in (directory, *directory.parents)[:_MAX_PARENTS]:
        dot_git = parent / ".git"
        try:
            mode = dot_git.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as err:
            raise _Unreadable(f"{dot_git}: {_reason(err)}") from err
        own = dot_git if stat.S_ISDIR(mode) else _pointed_to(dot_git)
        # git looks further up, too, where a directory of that name is something else.
        if not stat.S_ISDIR(mode) or (own / "HEAD").is_file():
            return _Repository(own, _shared(own))
    return None


def _pointed_to(dot_git: Path) -> Path:
    """Return the directory that a .git file, of a linked working tree or submodule, names."""
    text = _read_path(dot_git)
    if text is None or not text.startswith("gitdir: "):
        raise _Unreadable(f"{dot_git}: expected a line with gitdir: and a path")
    return dot_git.parent / text.removeprefix("gitdir: ")


def _shared(own: Path) -> Path:
    text = _read_path(own / "commondir")
    return own if text is None else own / text


def _resolve(repository: _Repository) -> str:
    ref, steps = "HEAD", 0
    while True:
        content = _loose(repository, ref)
        if content is not None and content.startswith(b"ref:"):
            steps += 1
            if steps > MAX_SYMBOLIC:
                raise _Unreadable(f"expected at most {MAX_SYMBOLIC} refs that name another one")
            ref = _checked(content.removeprefix(b"ref:").strip())
            continue
        if content is None:
            content = _packed(repository, ref)
        if content is None:
            raise _Unreadable(_absence(repository, ref))
        if not _COMMIT.fullmatch(content):
            raise _Unreadable(f"{ref}: expected the name of a commit")
        return content.decode("ascii")


def _checked(raw: bytes) -> str:
    ref = os.fsdecode(raw)
    names = ref.split("/")
    if names[0] != "refs" or any(n in ("", ".", "..") for n in names) or _CONTROL.search(ref):
        raise _Unreadable(f"expected a ref below refs/, got {ref[:80]!a}")
    return ref


def _loose(repository: _Repository, ref: str) -> bytes | None:
    own = not ref.startswith("refs/") or ref.startswith(_PER_WORKTREE)
    content = _read(repository.own if own else repository.shared, ref)
    return None if content is None else content.strip()


def _read_path(path: Path) -> str | None:
    content = _read(path.parent, path.name)
    if content is None:
        return None
    text = os.fsdecode(content.rstrip(b"\r\n"))
    if "\0" in text:
        raise _Unreadable(f"{path}: expected a path")
    return text


def _read(directory: Path, name: str) -> bytes | None:
    """Return the content of a small file; None where there is no such file."""
    path = directory / name
    try:
        with open(_open(path), "rb") as file:
            content = file.read(MAX_REF_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError as err:
        raise _Unreadable(f"{path}: {_reason(err)}") from err
    if len(content) > MAX_REF_BYTES:
        raise _Unreadable(f"{path}: expected at most {MAX_REF_BYTES} bytes")
    return content


def _packed(repository: _Repository, ref: str) -> bytes | None:
    path = repository.shared / "packed-refs"
    wanted = b" " + os.fsencode(ref)
    try:
        with open(_open(path), "rb") as file:
            left = MAX_PACKED_BYTES
            # Bounded line by line, so that none needs more memory than a ref.
            while left > 0 and (line := file.readline(MAX_REF_BYTES)):
                left -= len(line)
                if line.rstrip(b"\n").endswith(wanted) and not line.startswith(b"#"):
                    return line.partition(b" ")[0]
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError as err:
        raise _Unreadable(f"{path}: {_reason(err)}") from err
    if left <= 0:
        raise _Unreadable(f"{path}: expected at most {MAX_PACKED_BYTES >> 20} MiB")
    return None


def _open(path: Path) -> int:
    # A FIFO would block, and the checkout may be anybody's.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        # A branch a/b leaves a directory a, and a may be packed.
        raise IsADirectoryError
    raise _Unreadable(f"{path}: expected a regular file")


def _absence(repository: _Repository, ref: str) -> str:
    if (repository.shared / "reftable").is_dir():
        return f"{repository.shared}: its refs are in a reftable, which agentwall does not read"
    return f"{ref}: no commit yet"


def _reason(err: OSError) -> str:
    return (err.strerror or str(err)).lower()
