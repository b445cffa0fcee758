# SPDX-License-Identifier: Apache-2.0
"""Which files a process executes code of, and the files themselves, from ``/proc/PID`` (proc(5)).

The process chooses what stands there: everything is bounded, and a file is known by its inode, not
by its name. Counterpart: ``probes/survey.py``.

Kernels differ in what ``maps`` shows of a file on overlayfs: the overlay's device and inode here
(6.18), on older ones those of the file below. ``fstat`` shows the overlay's everywhere, and on
btrfs a device of its own for each subvolume, of which ``maps`` knows nothing. So the
:class:`FileId` of a mapping serves to find it again; :func:`real_file` says which file it is.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

from agentwall.errors import HostError

MAX_MAPS_BYTES = 16 << 20
"""Of ``maps`` that are read: what a process maps beyond is not seen."""
MAX_MOUNTINFO_BYTES = 4 << 20
MAX_FILES = 4096
"""Files of one process that are returned."""
MAX_LAYERS = 512
"""Directories of one overlay that are searched; the kernel takes 500."""

_CHUNK = 1 << 17
_DELETED = b" (deleted)"
_ANY = rb"[0-9:]+"
_ESCAPE = re.compile(rb"\\([0-7]{3})")
_BACKSLASH = re.compile(rb"\\(.)", re.DOTALL)
_LOWER = re.compile(rb"(?:[^:\\]|\\.)+", re.DOTALL)
# What the kernel sets aside in an inode's number for the layer (overlayfs, "xino").
_INODE_BITS = (1 << 48) - 1
# Where engines that give relative names of layers have been when they mounted.
_STORES = (
    b"/var/lib/containers/storage/overlay",
    b"/var/lib/docker/overlay2",
    b"/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots",
)


class MappingError(HostError):
    """A process's files cannot be told or opened; the message says why."""


@dataclass(frozen=True, slots=True, order=True)
class FileId:
    """A file, whatever its names."""

    device: int
    """As ``st_dev``: see :func:`os.makedev`."""
    inode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapping:
    """A file that a process has mapped to execute code of."""

    file: FileId
    """As ``maps`` shows it."""
    path: bytes
    """In the process's mount namespace, its root directory aside. Chosen by the sandbox."""
    is_deleted: bool
    """Nothing has this name any more; another file may."""
    start: int
    end: int
    """The first of its executable mappings: what ``map_files`` calls it."""


def executable_mappings(pid: int) -> list[Mapping]:
    """Return what process *pid* has mapped to execute, each file once, by address.

    Empty for a zombie. What has no file (vdso, code made at run time) is left out.

    Raises:
        ProcessLookupError: There is no such process.
        MappingError: Its mappings may not be read.
    """
    found: dict[FileId, Mapping] = {}
    rest = b""
    for chunk in _chunks(pid, "maps", MAX_MAPS_BYTES):
        text, _, rest = (rest + chunk).rpartition(b"\n")
        for line in text.split(b"\n"):
            # start-end rwxp offset major:minor inode path; no path: no file.
            fields = line.split(None, 5)
            if len(fields) == 6 and fields[1][2:3] == b"x" and fields[5].startswith(b"/"):
                mapping = _mapping(*fields)
                found.setdefault(mapping.file, mapping)
        if len(found) >= MAX_FILES:
            break
    return list(found.values())


def _mapping(
    span: bytes, _rights: bytes, _offset: bytes, device: bytes, inode: bytes, path: bytes
) -> Mapping:
    start, _, end = span.partition(b"-")
    major, _, minor = device.partition(b":")
    name = path.removesuffix(_DELETED)
    return Mapping(
        file=FileId(os.makedev(int(major, 16), int(minor, 16)), int(inode)),
        path=name.replace(b"\\012", b"\n"),  # only newlines are escaped
        is_deleted=name != path,
        start=int(start, 16),
        end=int(end, 16),
    )


def open_mapping(pid: int, mapping: Mapping) -> int:
    """Open the file that *pid* has mapped, for reading; it may be deleted or replaced.

    Through ``map_files``, which needs CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE, else by its path
    below the process's root. A process that maps another file to the same place meanwhile has that
    one opened: go by :func:`real_file` of what is returned.

    Raises:
        ProcessLookupError: There is no such process any more.
        MappingError: It cannot be opened, another file has taken its place, or it is on a file
            system that the sandbox may serve itself (:func:`may_hang`).
    """
    directory = f"/proc/{pid}"
    where = f"{directory}/map_files/{mapping.start:x}-{mapping.end:x}"
    # O_PATH first: it asks nothing of the file system, and opening a device would do something.
    try:
        found = os.open(where, os.O_PATH | os.O_CLOEXEC)
    except OSError as err:
        if not os.path.exists(directory):
            raise ProcessLookupError(f"process {pid}: gone") from err
        if mapping.is_deleted:
            raise MappingError(f"{where}: {err.strerror}") from err
    else:
        # Its inode is not compared: of a file that was copied up in an overlay, kernels before
        # 6.8 or so show another one in maps.
        return _open_found(pid, mapping, where, found, is_exact=True)
    where = f"{directory}/root{os.fsdecode(mapping.path)}"
    try:
        found = _descend(f"{directory}/root".encode(), mapping.path)
    except OSError as err:
        raise MappingError(f"{where}: {err.strerror}") from err
    return _open_found(pid, mapping, where, found, is_exact=False)


def _open_found(pid: int, mapping: Mapping, where: str, found: int, *, is_exact: bool) -> int:
    try:
        fstype = filesystem_below(pid, found) or filesystem_of(pid, mapping.file.device)
        if may_hang(fstype):
            got = fstype or "one that is not mounted"
            raise MappingError(f"{where}: expected a file system of this host, got {got}")
        if why := _not_that_file(found, None if is_exact else mapping.file.inode):
            raise MappingError(f"{where}: {why}")
        return os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as err:
        raise MappingError(f"{where}: {err.strerror}") from err
    finally:
        os.close(found)


def _not_that_file(fd: int, inode: int | None) -> str | None:
    # The inode alone: of the device, maps and fstat may have different opinions.
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        return "expected a regular file, got another kind"
    if inode is not None and (status.st_ino ^ inode) & _INODE_BITS:
        return f"expected inode {inode}, got {status.st_ino}"
    return None


def _descend(top: bytes, path: bytes) -> int:
    # Below top no symbolic link is followed: the sandbox could make one that leads out.
    at = os.open(top, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    for name in path.split(b"/"):
        if name in (b"", b"."):
            continue
        try:
            if name == b"..":
                raise MappingError("path: expected no .., got one")
            below = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
        finally:
            os.close(at)
        at = below
    return at


def filesystem_of(pid: int, device: int) -> str | None:
    """Return the type of the file system with *device*, such as ``ext4`` or ``fuse.sshfs``.

    Nothing of the file system itself is touched. None: neither *pid* nor this process has it
    mounted, or the process is gone. Kernels before 6.8 or so show in ``maps`` the device below an
    overlay, which may be mounted nowhere: :func:`open_mapping` knows better.
    """
    wanted = f"{os.major(device)}:{os.minor(device)}".encode()
    mount = _mount(pid, _ANY, wanted) or _mount("self", _ANY, wanted)
    return None if mount is None else os.fsdecode(mount.fstype)


def filesystem_below(pid: int, fd: int) -> str | None:
    """Return the type of the file system that *fd* was opened on; None: it is mounted nowhere.

    Nothing of the file system itself is touched.
    """
    number = mount_of(fd)
    # Who has changed its root directory is shown only what is mounted below that.
    mount = _mount(pid, number, _ANY) or _mount("self", number, _ANY)
    return None if mount is None else os.fsdecode(mount.fstype)


def may_hang(fstype: str | None) -> bool:
    """Say whether opening or reading a file of such a file system may wait for a sandbox for ever.

    FUSE, which an unprivileged user may serve; and what is not known. An overlay that a sandbox has
    laid over its own FUSE is not recognised.
    """
    return fstype is None or fstype.partition(".")[0] in {"fuse", "fuseblk"}


def real_file(pid: int, mapping: Mapping, fd: int) -> FileId:
    """Return the identity of the inode on which the kernel hangs uprobes of the file *fd*.

    *fd* is what :func:`open_mapping` returned. On overlayfs that is the file of the upper or of a
    lower layer, the same for all containers of an image. Only overlays that this process's own
    mount namespace shows as well are looked through: the names of layers mean something there, and
    what a sandbox mounts by itself could claim any file. Of those, and of files that are in no
    layer any more, it is the overlay's own file.
    """
    file, real = open_real(pid, mapping, fd)
    os.close(real)
    return file


def open_real(pid: int, mapping: Mapping, fd: int) -> tuple[FileId, int]:
    """Return :func:`real_file`, and that file open for reading: the caller closes it.

    A uprobe holds the mount that its file was opened through. Opened in its layer, that is a mount
    of the host's, and not the container's, which is to go when the container does.

    Raises:
        ProcessLookupError: The process has ended, and nobody can tell what it had mounted.
        OSError: There are too many descriptors.
    """
    own = os.fstat(fd)
    layered = _open_layered(pid, fd, own)
    if layered is None:
        return FileId(own.st_dev, own.st_ino), os.dup(fd)
    found = os.fstat(layered)
    return FileId(found.st_dev, found.st_ino), layered


def _open_layered(pid: int, fd: int, status: os.stat_result) -> int | None:
    try:
        mount = _find_mount(pid, mount_of(fd), _ANY)
    except MappingError as err:  # what one that has just ended shows
        raise ProcessLookupError(f"process {pid}: gone") from err
    if mount is None or mount.fstype != b"overlay":
        return None
    ours = _mount("self", _ANY, mount.device)
    path = _below(pid, mount, fd)
    if ours is None or path is None:
        return None
    for layer in islice(_layers(ours.options), MAX_LAYERS):
        place = _in_layer(layer, path)
        if place is None:
            continue
        try:
            found = os.fstat(place)
            same = found.st_size == status.st_size and found.st_mtime_ns == status.st_mtime_ns
            # Of a file whose metadata alone were copied up, the data lie in a layer below.
            if same and found.st_blocks:
                with suppress(OSError):
                    return os.open(
                        f"/proc/self/fd/{place}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
                    )
            if not same:
                return None
        finally:
            os.close(place)
    return None


def _in_layer(layer: bytes, path: bytes) -> int | None:
    """Return a descriptor without rights on *path* in a layer; None: it is not there."""
    tops = [layer] if layer.startswith(b"/") else [b"%s/%s" % (top, layer) for top in _STORES]
    for top in tops:
        with suppress(OSError):
            # A character device says that the file of the layers below was deleted.
            return _descend(top, path)
    return None


@dataclass(frozen=True, slots=True)
class _Mount:
    device: bytes
    root: bytes
    point: bytes
    fstype: bytes
    options: bytes  # of the file system, still escaped


def _mount(pid: int | str, number: bytes, device: bytes) -> _Mount | None:
    # As _find_mount, and none of a process that has ended.
    with suppress(OSError, MappingError):
        return _find_mount(pid, number, device)
    return None


def _find_mount(pid: int | str, number: bytes, device: bytes) -> _Mount | None:
    # The first of the process's namespace whose fields match these patterns.
    text = b"".join(_chunks(pid, "mountinfo", MAX_MOUNTINFO_BYTES))
    if line := re.search(rb"^%s [0-9]+ %s .*$" % (number, device), text, re.MULTILINE):
        own, _, filesystem = line[0].partition(b" - ")
        fields, more = own.split(b" "), filesystem.split(b" ")
        if len(fields) >= 6 and len(more) >= 3:
            root, point = _unescape(fields[3]), _unescape(fields[4])
            return _Mount(fields[2], root, point, more[0], more[2])
    return None


def _unescape(field: bytes) -> bytes:
    return _ESCAPE.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), field)


def mount_of(fd: int) -> bytes:
    """Return the number of the mount that *fd* was opened through; nothing of it is touched."""
    text = b"".join(_chunks("self", f"fdinfo/{fd}", MAX_MOUNTINFO_BYTES))
    match = re.search(rb"^mnt_id:\s*([0-9]+)$", text, re.MULTILINE)
    return match[1] if match else b"none"


def _below(pid: int, mount: _Mount, fd: int) -> bytes | None:
    # The file's path within the file system that is mounted. readlink() begins at the root of the
    # process's mount namespace, mountinfo at the root directory of the process.
    try:
        path = os.readlink(b"/proc/self/fd/%d" % fd)
        root = os.readlink(b"/proc/%d/root" % pid)
    except OSError:
        return None
    if root != b"/" and path.startswith(root + b"/"):
        path = path[len(root) :]
    point = mount.point.rstrip(b"/")
    if not path.startswith(point + b"/") or path.endswith(_DELETED):
        return None
    return mount.root.rstrip(b"/") + path[len(point) :]


def _layers(options: bytes) -> Iterator[bytes]:
    # Topmost first. In upperdir= and lowerdir= a backslash goes before what is meant as it stands;
    # lowerdir+= and datadir+= (Linux 6.7) name one directory each and know no such thing.
    fields = [each.partition(b"=") for each in options.split(b",")]
    for key, _, value in fields:
        if key == b"upperdir":
            yield _BACKSLASH.sub(rb"\1", _unescape(value))
    for key, _, value in fields:
        if key == b"lowerdir":
            for name in _LOWER.findall(_unescape(value)):
                yield _BACKSLASH.sub(rb"\1", name)
        elif key in (b"lowerdir+", b"datadir+"):
            yield _unescape(value)


def _chunks(pid: int | str, name: str, limit: int) -> Iterator[bytes]:
    where = f"/proc/{pid}/{name}"
    try:
        fd = os.open(where, os.O_RDONLY | os.O_CLOEXEC)
        try:
            while limit > 0 and (chunk := os.read(fd, _CHUNK)):
                limit -= len(chunk)
                yield chunk
        finally:
            os.close(fd)
    except (FileNotFoundError, ProcessLookupError) as err:
        raise ProcessLookupError(f"process {pid}: gone") from err
    except OSError as err:
        raise MappingError(f"{where}: {err.strerror}") from err
