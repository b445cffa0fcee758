# SPDX-License-Identifier: Apache-2.0
"""What was compiled, on disk, by the digest of what it was compiled from.

A file is trusted only where nobody else could have written it, and only if it is whole: the kernel
gets what is in it. Anything else counts as not there. Layout: :data:`_HEAD`, then JSON, tables.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import secrets
import stat
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import agentwall

SYSTEM_CACHE = Path("/var/cache/agentwall")
"""Root's."""
MAX_KEPT = 8
"""Files of a kind in the directory; the ones longest unused go."""
MAX_BYTES = 64 << 20

# Magic, version, size of the JSON, digest of the sources, checksum of all that follows.
_HEAD = struct.Struct("<8sII32s32s")
_Kept = TypeVar("_Kept")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of file."""

    magic: bytes
    """8 bytes."""
    version: int
    suffix: str
    made_by: str
    """The modules that make what is in it, as a pattern below the package: others, another file."""


def cache_directory() -> Path | None:
    """Return where this user's files are kept; None where there is no such place."""
    if os.geteuid() == 0:
        return SYSTEM_CACHE
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        home = os.environ.get("HOME", "")
        if not os.path.isabs(home):
            return None
        base = os.path.join(home, ".cache")
    return Path(base) / "agentwall"


def load(
    directory: Path,
    kind: Kind,
    digest: str,
    decode: Callable[[Mapping[str, object], bytes], _Kept],
) -> _Kept | None:
    """Return what is kept in *directory* for *digest*, a SHA-256 in hexadecimal.

    Args:
        directory: As :func:`cache_directory` returns it; it may be missing.
        kind: Of what.
        digest: Of what it was compiled from.
        decode: Makes it of the file's JSON object and tables; raises ValueError, KeyError,
            TypeError, AttributeError, OverflowError or RecursionError if it cannot.

    Returns:
        None where there is none, it is damaged, or others could have written it.
    """
    name = _name(kind, digest)
    try:
        with _opened(directory) as folder:
            raw = _read(folder, name)
        head, tables = _whole(raw, kind, _key(kind, digest))
        return decode(head, tables)
    except FileNotFoundError:
        return None
    except (
        *(OSError, ValueError, KeyError, TypeError),
        *(AttributeError, OverflowError, RecursionError),
    ) as err:
        _log.debug("%s: not used: %s", directory / name, err)
        return None


def store(
    directory: Path, kind: Kind, digest: str, head: Mapping[str, object], tables: bytes
) -> bool:
    """Keep *head*, as JSON, and *tables* in *directory*; say whether that could be done."""
    draft, name = f"{secrets.token_hex(8)}.new", _name(kind, digest)
    text = json.dumps(head).encode()
    rest = text + tables
    checksum = hashlib.sha256(rest).digest()
    packed = _HEAD.pack(kind.magic, kind.version, len(text), _key(kind, digest), checksum)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _opened(directory) as folder, contextlib.ExitStack() as undo:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            descriptor = os.open(draft, flags, 0o600, dir_fd=folder)
            undo.callback(_forget, draft, folder)
            with open(descriptor, "wb") as file:
                file.write(packed + rest)
            os.rename(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
            undo.pop_all()
            _prune(folder, kind, name)
    except OSError as err:
        _log.debug("%s: not kept: %s", directory / name, err)
        return False
    return True


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[int]:
    """Open *directory*, and refuse one that another user can put something into."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    for above in directory.parents:
        _check_above(os.stat(above), above)
    folder = os.open(directory, flags)
    try:
        _check_own(os.fstat(folder), str(directory))
        yield folder
    finally:
        os.close(folder)


def _check_above(found: os.stat_result, path: Path) -> None:
    # In a sticky directory nobody else can take away what is ours.
    is_writable = bool(found.st_mode & 0o022) and not found.st_mode & stat.S_ISVTX
    if found.st_uid not in (0, os.geteuid()) or is_writable:
        raise PermissionError(f"{path} can be written by others")


def _check_own(found: os.stat_result, path: str) -> None:
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise PermissionError(f"{path} can be written by others")


def _read(folder: int, name: str) -> bytes:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(name, flags, dir_fd=folder), "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("no file")
        _check_own(found, name)
        raw = file.read(MAX_BYTES + 1)
        # Its time is when it was last of use.
        with contextlib.suppress(OSError):
            os.utime(file.fileno())
    if len(raw) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES >> 20} MiB")
    return raw


def _whole(raw: bytes, kind: Kind, key: bytes) -> tuple[Mapping[str, object], bytes]:
    """Return the JSON object and the tables in *raw*.

    Raises:
        ValueError: It is not whole, or not of *key*.
    """
    if len(raw) < _HEAD.size:
        raise ValueError("too short")
    magic, version, size, of, checksum = _HEAD.unpack_from(raw)
    rest = raw[_HEAD.size :]
    if (magic, version, of) != (kind.magic, kind.version, key):
        raise ValueError("of another kind")
    if hashlib.sha256(rest).digest() != checksum:
        raise ValueError("damaged")
    head = json.loads(rest[:size])
    if not isinstance(head, dict):
        raise ValueError("no object")
    return head, rest[size:]


def _forget(name: str, folder: int) -> None:
    with contextlib.suppress(OSError):
        os.unlink(name, dir_fd=folder)


def _prune(folder: int, kind: Kind, newest: str) -> None:
    others = []
    for name in os.listdir(folder):
        if name.endswith(kind.suffix) and name != newest:
            with contextlib.suppress(OSError):
                found = os.stat(name, dir_fd=folder, follow_symlinks=False)
                others.append((found.st_mtime_ns, name))
    for _, name in sorted(others, reverse=True)[MAX_KEPT - 1 :]:
        _forget(name, folder)


def _name(kind: Kind, digest: str) -> str:
    return f"{_key(kind, digest).hex()}{kind.suffix}"


def _key(kind: Kind, digest: str) -> bytes:
    """Return what the file is found by: the sources, and which compiler made it of them."""
    made_by = f"{kind.version}:{agentwall.__version__}:{_compiler(kind.made_by)}:{digest}"
    return hashlib.sha256(made_by.encode()).digest()


@functools.cache
def _compiler(made_by: str) -> str:
    sources = sorted(Path(agentwall.__file__).parent.glob(made_by))
    compiler = hashlib.sha256()
    for path in sources:
        compiler.update(path.read_bytes())
    return compiler.hexdigest()
