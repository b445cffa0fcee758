# SPDX-License-Identifier: Apache-2.0
"""Which files a process executes code of, and the files themselves, from ``/proc/PID`` (proc(5)).

The process chooses what stands there: everything is bounded, and a file is known by its inode, not
by its name. Counterpart: ``probes/survey.py``.

Kernels differ in what ``maps`` shows of a file on overlayfs: the overlay's device and inode here
(6.18), on older ones those of the file below. ``fstat`` shows the overlay's everywhere, and on
btrfs a device of its own for each subvolume, of which ``maps`` knows nothing. So the
:class:`FileId` of a mapping serves to find it again; which file it is, :func:`open_real` says.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

from agentwall.errors import HostError
from agentwall.probes.mounts import Mount, Mounts, may_hang, mount_of, unescape
from agentwall.probes.starting import open_root
from agentwall.probes.walking import open_below, open_in

MAX_MAPS_BYTES = 16 << 20
"""Of ``maps`` that are read: what a process maps beyond is not seen."""
MAX_FILES = 4096
"""Files of one process that are returned."""
MAX_LAYERS = 512
"""Directories of one overlay that are searched; the kernel takes 500."""

_CHUNK = 1 << 17
_DELETED = b" (deleted)"
# What the kernel sets aside in an inode's number for the layer (overlayfs, "xino").
_INODE_BITS = (1 << 48) - 1
_BACKSLASH = re.compile(rb"\\(.)", re.DOTALL)
_LOWER = re.compile(rb"(?:[^:\\]|\\.)+", re.DOTALL)
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
    for chunk in _chunks(pid):
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


def open_mapping(mounts: Mounts, mapping: Mapping) -> int:
    """Open the file that a process has mapped, without rights (O_PATH); it may be deleted by now.

    Through ``map_files``, which needs CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE, else by its path
    below the process's root. A process that maps another file to the same place meanwhile has that
    one opened: go by what is returned. It is a regular file that may be opened for reading.

    Args:
        mounts: Those of the process.
        mapping: Of :func:`executable_mappings`.

    Raises:
        ProcessLookupError: There is no such process any more.
        MappingError: It cannot be opened, another file has taken its place, or it is on a file
            system that the sandbox may serve itself (:func:`~agentwall.probes.mounts.may_hang`).
    """
    directory = f"/proc/{mounts.pid}"
    where = f"{directory}/map_files/{mapping.start:x}-{mapping.end:x}"
    # Its inode is not compared: of a file that was copied up in an overlay, kernels before 6.8 or
    # so show another one in maps.
    inode = None
    try:
        found = os.open(where, os.O_PATH | os.O_CLOEXEC)
    except OSError as err:
        if not os.path.exists(directory):
            raise ProcessLookupError(f"process {mounts.pid}: gone") from err
        if mapping.is_deleted:
            raise MappingError(f"{where}: {err.strerror}") from err
        where = f"{directory}/root{os.fsdecode(mapping.path)}"
        found, inode = _open_path(mounts, mapping, where), mapping.file.inode
    try:
        # First of all: it asks nothing of the file system.
        if may_hang(fstype := mounts.fstype(found)):
            got = fstype or "one that is not mounted"
            raise MappingError(f"{where}: expected a file system of this host, got {got}")
        if why := _not_that_file(found, inode):
            raise MappingError(f"{where}: {why}")
    except BaseException:
        os.close(found)
        raise
    return found


def _open_path(mounts: Mounts, mapping: Mapping, where: str) -> int:
    path, opened = os.fsdecode(mapping.path), None
    if (root := open_root(mounts)) is not None:
        opened = open_below(mounts, root, path)
        os.close(root)
    if opened is None:
        raise MappingError(f"{where}: expected a file of this host, got none")
    if opened[1] != path:
        # The sandbox could have put a link there meanwhile.
        os.close(opened[0])
        raise MappingError(f"{where}: expected no links, got one")
    return opened[0]


def _not_that_file(fd: int, inode: int | None) -> str | None:
    # The inode alone: of the device, maps and fstat may have different opinions.
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        return "expected a regular file, got another kind"
    if inode is not None and (status.st_ino ^ inode) & _INODE_BITS:
        return f"expected inode {inode}, got {status.st_ino}"
    return None


def _chunks(pid: int) -> Iterator[bytes]:
    where, rest = f"/proc/{pid}/maps", MAX_MAPS_BYTES
    try:
        fd = os.open(where, os.O_RDONLY | os.O_CLOEXEC)
        try:
            while rest > 0 and (chunk := os.read(fd, _CHUNK)):
                rest -= len(chunk)
                yield chunk
        finally:
            os.close(fd)
    except (FileNotFoundError, ProcessLookupError) as err:
        raise ProcessLookupError(f"process {pid}: gone") from err
    except OSError as err:
        raise MappingError(f"{where}: {err.strerror}") from err


def open_real(mounts: Mounts, fd: int) -> int:
    """Return the file on which the kernel hangs uprobes of *fd*: *fd* itself, or another (O_PATH).

    On overlayfs that is the file of the upper or of a lower layer, the same for all containers of
    an image. A uprobe holds the mount that its file was opened through: that is then one of the
    host's, and not the container's, which is to go when the container does.

    Only overlays that this process's own mount namespace shows as well are looked through: the
    names of layers mean something there, and what a sandbox mounts by itself could claim any file.
    Of those, and of files that are in no layer any more, it is the overlay's own file.

    Args:
        mounts: Those of the process that has the file.
        fd: What was opened through one of them.

    Raises:
        ProcessLookupError: The process has ended, and nobody can tell what it had mounted.
    """
    mount = mounts.its.mount(mount_of(fd))
    if mount is None or mount.fstype != b"overlay":
        return fd
    ours = mounts.ours.mount(mount.device)
    path = _below(mounts, mount, fd)
    if ours is None or path is None:
        return fd
    own = os.fstat(fd)
    for layer in _some_layers(ours.options):
        place = _in_layer(layer, path)
        if place is None:
            continue
        found = os.fstat(place)
        same = found.st_size == own.st_size and found.st_mtime_ns == own.st_mtime_ns
        # Of a file whose metadata alone were copied up, the data lie in a layer below.
        if same and found.st_blocks:
            return place
        os.close(place)
        if not same:
            break
    return fd


def _in_layer(layer: bytes, path: bytes) -> int | None:
    """Return a descriptor without rights on *path* in a layer; None: it is not there."""
    tops = [layer] if layer.startswith(b"/") else [b"%s/%s" % (top, layer) for top in _STORES]
    for top in tops:
        with suppress(OSError):
            at = os.open(top, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                # A character device says that the file of the layers below was deleted.
                found = open_in(at, path, os.O_PATH | os.O_NOFOLLOW, may_link=False)
            finally:
                os.close(at)
            if found is not None:
                return found
    return None


def _below(mounts: Mounts, mount: Mount, fd: int) -> bytes | None:
    # The file's path within the file system that is mounted. readlink() begins at the root of the
    # process's mount namespace, the process's own table at the root directory of the process.
    try:
        path = os.readlink(b"/proc/self/fd/%d" % fd)
        root = b"/" if mounts.its is mounts.ours else os.readlink(b"/proc/%d/root" % mounts.pid)
    except OSError:
        return None
    if root != b"/" and path.startswith(root + b"/"):
        path = path[len(root) :]
    point = mount.point.rstrip(b"/")
    if not path.startswith(point + b"/") or path.endswith(_DELETED):
        return None
    return mount.root.rstrip(b"/") + path[len(point) :]


@lru_cache(maxsize=16)
def _some_layers(options: bytes) -> tuple[bytes, ...]:
    return tuple(islice(_layers(options), MAX_LAYERS))


def _layers(options: bytes) -> Iterator[bytes]:
    # Topmost first. In upperdir= and lowerdir= a backslash goes before what is meant as it stands;
    # lowerdir+= and datadir+= (Linux 6.7) name one directory each and know no such thing.
    fields = [each.partition(b"=") for each in options.split(b",")]
    for key, _, value in fields:
        if key == b"upperdir":
            yield _BACKSLASH.sub(rb"\1", unescape(value))
    for key, _, value in fields:
        if key == b"lowerdir":
            for name in _LOWER.findall(unescape(value)):
                yield _BACKSLASH.sub(rb"\1", name)
        elif key in (b"lowerdir+", b"datadir+"):
            yield unescape(value)
