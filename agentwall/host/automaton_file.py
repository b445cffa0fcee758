# SPDX-License-Identifier: Apache-2.0
"""Automata on disk, by the digest of what they were compiled from.

A file is trusted only where nobody else could have written it, and only if it is whole: the kernel
gets the table. Anything else counts as not there. Layout: :data:`_HEAD`, then JSON, then the
tables ``next``, ``accept_of`` and ``end_of`` as 16-bit little-endian numbers.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import secrets
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

import agentwall
from agentwall.detect.automaton import Automaton
from agentwall.detect.signature import Side, Transport

SYSTEM_CACHE = Path("/var/cache/agentwall")
"""Root's."""
MAX_KEPT = 8
"""Files in the directory; the ones longest unused go."""
MAX_BYTES = 64 << 20

_MAGIC = b"AWDFA\x00\r\n"
_VERSION = 1
# Magic, version, size of the JSON, digest of the signatures, checksum of all that follows.
_HEAD = struct.Struct("<8sII32s32s")
_SUFFIX = ".automaton"
_U16 = np.dtype("<u2")

_log = logging.getLogger(__name__)


def cache_directory() -> Path | None:
    """Return where this user's automata are kept; None where there is no such place."""
    if os.geteuid() == 0:
        return SYSTEM_CACHE
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        home = os.environ.get("HOME", "")
        if not os.path.isabs(home):
            return None
        base = os.path.join(home, ".cache")
    return Path(base) / "agentwall"


def load_automaton(directory: Path, digest: str, signatures: int) -> Automaton | None:
    """Return the automaton kept in *directory* for *digest*, a SHA-256 in hexadecimal.

    Args:
        directory: As :func:`cache_directory` returns it; it may be missing.
        digest: Of the signature set.
        signatures: How many there are in it.

    Returns:
        None where there is none, it is damaged, or others could have written it.
    """
    try:
        with _opened(directory) as folder:
            raw = _read(folder, _name(digest))
        return _decode(raw, _key(digest), signatures)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as err:
        _log.debug("%s: not used: %s", directory / _name(digest), err)
        return None


def store_automaton(directory: Path, digest: str, automaton: Automaton) -> bool:
    """Keep *automaton* in *directory* for *digest*; say whether that could be done."""
    draft = f"{secrets.token_hex(8)}.new"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _opened(directory) as folder, contextlib.ExitStack() as undo:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            descriptor = os.open(draft, flags, 0o600, dir_fd=folder)
            undo.callback(_forget, draft, folder)
            with open(descriptor, "wb") as file:
                file.write(_encode(automaton, _key(digest)))
            os.rename(draft, _name(digest), src_dir_fd=folder, dst_dir_fd=folder)
            undo.pop_all()
            _prune(folder, _name(digest))
    except OSError as err:
        _log.debug("%s: not kept: %s", directory / _name(digest), err)
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


def _forget(name: str, folder: int) -> None:
    with contextlib.suppress(OSError):
        os.unlink(name, dir_fd=folder)


def _prune(folder: int, newest: str) -> None:
    others = []
    for name in os.listdir(folder):
        if name.endswith(_SUFFIX) and name != newest:
            with contextlib.suppress(OSError):
                found = os.stat(name, dir_fd=folder, follow_symlinks=False)
                others.append((found.st_mtime_ns, name))
    for _, name in sorted(others, reverse=True)[MAX_KEPT - 1 :]:
        _forget(name, folder)


def _name(digest: str) -> str:
    return f"{_key(digest).hex()}{_SUFFIX}"


def _key(digest: str) -> bytes:
    """Return what the file is found by: the signatures, and which compiler made it of them."""
    made_by = f"{_VERSION}:{agentwall.__version__}:{_compiler()}:{digest}"
    return hashlib.sha256(made_by.encode()).digest()


def _compiler() -> str:
    sources = sorted((Path(agentwall.__file__).parent / "detect").glob("*.py"))
    compiler = hashlib.sha256()
    for path in sources:
        compiler.update(path.read_bytes())
    return compiler.hexdigest()


def _encode(automaton: Automaton, key: bytes) -> bytes:
    head = {
        "states": automaton.states,
        "width": automaton.width,
        "classes": automaton.classes.hex(),
        "starts": [[t.value, s.value, state] for (t, s), state in automaton.starts.items()],
        "first_accepting": automaton.first_accepting,
        "accepts": [list(each) for each in automaton.accepts],
    }
    text = json.dumps(head).encode()
    tables = (automaton.next, automaton.accept_of, automaton.end_of)
    rest = b"".join([text, *(table.astype(_U16).tobytes() for table in tables)])
    return _HEAD.pack(_MAGIC, _VERSION, len(text), key, hashlib.sha256(rest).digest()) + rest


def _decode(raw: bytes, key: bytes, signatures: int) -> Automaton:
    """Return the automaton in *raw*.

    Raises:
        ValueError: It is not whole, not of *key*, or no automaton of so many signatures.
    """
    if len(raw) < _HEAD.size:
        raise ValueError("too short")
    magic, version, size, of, checksum = _HEAD.unpack_from(raw)
    rest = raw[_HEAD.size :]
    if (magic, version, of) != (_MAGIC, _VERSION, key):
        raise ValueError("of another kind")
    if hashlib.sha256(rest).digest() != checksum:
        raise ValueError("damaged")
    try:
        automaton = _build(json.loads(rest[:size]), rest[size:])
    except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as err:
        raise ValueError(f"no automaton: {err}") from err
    _check(automaton, signatures)
    return automaton


def _build(head: dict[str, list[list[int]]], tables: bytes) -> Automaton:
    values: dict[str, object] = dict(head)
    states, width, first = values["states"], values["width"], values["first_accepting"]
    if not isinstance(states, int) or not isinstance(width, int) or not isinstance(first, int):
        raise ValueError("no numbers")
    numbers = np.frombuffer(tables, dtype=_U16).astype(np.uint16)
    cells = states * width
    if states < 1 or width < 1 or len(numbers) != cells + 2 * states:
        raise ValueError("tables of another size")
    return Automaton(
        classes=bytes.fromhex(str(values["classes"])),
        width=width,
        next=numbers[:cells].reshape(states, width),
        starts={(Transport(t), Side(side)): int(state) for t, side, state in head["starts"]},
        first_accepting=first,
        accepts=tuple(tuple(map(int, each)) for each in head["accepts"]),
        accept_of=numbers[cells : cells + states],
        end_of=numbers[cells + states :],
    )


def _check(automaton: Automaton, signatures: int) -> None:
    """Refuse what leads out of the tables.

    Raises:
        ValueError: Something does.
    """
    sets = len(automaton.accepts)
    indices = [index for each in automaton.accepts for index in each]
    is_sound = (
        len(automaton.classes) == 256
        and max(automaton.classes) < automaton.width
        and 0 <= automaton.first_accepting <= automaton.states
        and all(0 <= state < automaton.states for state in automaton.starts.values())
        and automaton.accepts[:1] == ((),)
        and all(0 <= index < signatures for index in indices)
        and _below(automaton.next, automaton.states)
        and _below(automaton.accept_of, sets)
        and _below(automaton.end_of, sets)
    )
    if not is_sound:
        raise ValueError("leads out of its tables")


def _below(numbers: npt.NDArray[np.uint16], limit: int) -> bool:
    return not numbers.size or int(numbers.max()) < limit
