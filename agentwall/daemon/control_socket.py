# SPDX-License-Identifier: Apache-2.0
"""The listening end of the control socket: made here, or handed over by systemd."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import struct
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agentwall.daemon.config_groups import Groups
from agentwall.errors import HostError

_FIRST_FD = 3
"""SD_LISTEN_FDS_START of sd_listen_fds(3)."""
_BACKLOG = 128
_TRIAL_S = 1.0
_DIRECTORY_MODE = 0o711
_MODE = 0o660

# linux/posix_acl_xattr.h: a version, then entries of tag, permissions and id.
_ACL = "system.posix_acl_access"
_ACL_HEADER = struct.Struct("<I")
_ACL_ENTRY = struct.Struct("<HHI")
_ACL_VERSION = 2
_NO_ID = 0xFFFFFFFF
_USER_OBJ, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x04, 0x08, 0x10, 0x20


@dataclass(frozen=True, slots=True)
class ControlSocket:
    """A listening socket, and the file that is to go with it."""

    socket: socket.socket
    path: Path | None
    """None where systemd made it, and keeps it."""
    inode: int | None

    def close(self, *, keep: bool = False) -> None:
        """Close it; remove its file unless *keep*, or unless it is another daemon's by now."""
        self.socket.close()
        if self.path is None or keep:
            return
        with _locked(self.path):
            try:
                if os.lstat(self.path).st_ino == self.inode:
                    self.path.unlink()
            except FileNotFoundError:
                pass


def make_control_socket(path: Path, groups: Groups) -> ControlSocket:
    """Make the socket at *path*, for root and the members of *groups*.

    The file that a dead daemon left is replaced.

    Raises:
        HostError: A daemon answers there, or something else than a socket is in the way.
    """
    try:
        _make_directory(path.parent)
        with _locked(path):
            _refuse_live(path)
            return _make(path, groups)
    except OSError as err:
        raise HostError(f"{path}: making the control socket: {err.strerror}") from err


def _make(path: Path, groups: Groups) -> ControlSocket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
        listening.bind(str(path))
        # Nobody can connect before it listens, whatever the umask made of its mode.
        _open_to(path, groups)
        _ready(listening)
        return ControlSocket(listening, path, os.lstat(path).st_ino)
    except BaseException:
        listening.close()
        raise


def _ready(listening: socket.socket) -> None:
    # Before the first connection: what is sent to a socket carries its sender only from then on.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    listening.listen(_BACKLOG)
    listening.setblocking(False)


def _open_to(path: Path, groups: Groups) -> None:
    members = sorted({each for each in (groups.operators, groups.readers) if each is not None})
    # Without groups it is root's alone; the first may be named by the file's own mode.
    os.chown(path, 0, members[0] if members else 0)
    os.chmod(path, _MODE if members else 0o600)
    if len(members) > 1:
        try:
            os.setxattr(path, _ACL, _encode_acl(members))
        except OSError as err:
            raise HostError(
                f"{path.parent}: no access lists there ({err.strerror}): control.readers and"
                f" control.operators have to be the same group, or one of them absent"
            ) from err


def _encode_acl(members: list[int]) -> bytes:
    entries = [
        (_USER_OBJ, 6, _NO_ID),
        (_GROUP_OBJ, 6, _NO_ID),
        *((_GROUP, 6, each) for each in members[1:]),
        (_MASK, 6, _NO_ID),
        (_OTHER, 0, _NO_ID),
    ]
    return _ACL_HEADER.pack(_ACL_VERSION) + b"".join(_ACL_ENTRY.pack(*each) for each in entries)


def _refuse_live(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise HostError(f"{path}: expected a socket or nothing, got another file")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial:
        trial.settimeout(_TRIAL_S)
        try:
            trial.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except (TimeoutError, BlockingIOError):
            pass  # Its queue is full: somebody listens.
    raise HostError(f"{path}: another daemon answers there")


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(parents=True)
    except FileExistsError:
        return
    # Whatever the umask: members of the groups have to get through.
    directory.chmod(_DIRECTORY_MODE)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep two daemons that start at once from each taking the other's socket for stale."""
    # A file of root's alone: a directory that others can open, they can lock.
    lock = path.with_name(f".{path.name}.lock")
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def take_control_sockets(environment: MutableMapping[str, str]) -> list[ControlSocket]:
    """Return the sockets that systemd handed over (sd_listen_fds(3)); none: an empty list.

    The variables are removed from *environment*: no child is to believe they are for it.

    Raises:
        HostError: One of them is no listening unix stream socket.
    """
    pid = environment.pop("LISTEN_PID", "")
    count = environment.pop("LISTEN_FDS", "")
    environment.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    return [_take(number) for number in range(_FIRST_FD, _FIRST_FD + int(count))]


def _take(number: int) -> ControlSocket:
    try:
        os.set_inheritable(number, False)
        listening = socket.socket(fileno=number)
    except OSError as err:
        what = "no socket" if err.errno == errno.ENOTSOCK else (err.strerror or str(err)).lower()
        raise HostError(f"LISTEN_FDS: descriptor {number}: {what}") from err
    is_listening = listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if (listening.family, listening.type) != (socket.AF_UNIX, socket.SOCK_STREAM) or (
        not is_listening
    ):
        listening.close()
        raise HostError(f"LISTEN_FDS: descriptor {number}: expected a listening unix stream socket")
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    listening.setblocking(False)
    return ControlSocket(listening, None, None)
