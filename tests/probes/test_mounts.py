# SPDX-License-Identifier: Apache-2.0
"""What a file is mounted as is known without touching it, and never from a table that is old."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from contextlib import contextmanager

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rig.descriptors import descriptors
from rig.own_mounts import enter_own_mounts, in_own_mounts
from rig.process import run_checked

from agentwall.probes import mounts as module
from agentwall.probes.mounts import Mount, Mounts, Table, may_hang, mount_of

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts")

FIELD = st.one_of(
    st.sampled_from([b"-", b"1", b"22", b"0:1", b"0:22", b"/", b"fuse", b"ext4", b""]),
    st.binary(max_size=6),
)


@contextmanager
def in_other_mounts(prepare):
    """Run a process in mounts of its own, once it has called *prepare* there."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            enter_own_mounts()
            prepare()
            os.write(writer, b"x")
            signal.pause()
        finally:
            os._exit(0)
    os.close(writer)
    try:
        assert os.read(reader, 1) == b"x"
        yield child
    finally:
        os.close(reader)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def fstype(mounts, path):
    """Return what *path* is on."""
    fd = os.open(path, os.O_PATH)
    try:
        return mounts.fstype(fd)
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        *(("ext4", False), ("overlay", False), ("tmpfs", False), ("nfs4", False)),
        *(("fuse", True), ("fuse.sshfs", True), ("fuseblk", True), ("fusectl", False)),
        (None, True),
    ],
)
def test_only_a_file_system_that_anybody_serves_may_hang(kind, answer):
    """FUSE, and what is not known."""
    assert may_hang(kind) is answer


def test_a_file_system_is_named(tmp_path):
    """As others name it."""
    expected = run_checked("findmnt", "-n", "-o", "FSTYPE", "-T", str(tmp_path)).strip()

    assert fstype(Mounts(os.getpid()), "/proc/self/stat") == "proc"
    assert fstype(Mounts(os.getpid()), tmp_path) == expected


def test_the_mount_is_that_of_fdinfo(tmp_path):
    """The number is what the kernel tells of a descriptor elsewhere (proc(5), fdinfo)."""
    for path in (tmp_path, "/proc", "/dev"):
        fd = os.open(path, os.O_PATH)
        with open(f"/proc/self/fdinfo/{fd}", "rb") as file:
            fields = file.read().split()
        number = mount_of(fd)
        os.close(fd)

        assert number == fields[fields.index(b"mnt_id:") + 1]


def test_one_table_serves_one_namespace():
    """A process with our mounts needs no table of its own; one that has ended has none."""
    with subprocess.Popen(["sleep", "1000"]) as child:
        mounts = Mounts(child.pid)
        same = mounts.its is mounts.ours
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(ProcessLookupError):
            assert Mounts(child.pid).its
    with pytest.raises(ProcessLookupError):
        assert Mounts(child.pid).its

    assert same
    assert fstype(Mounts(child.pid), "/") is None


@needs_root
def test_what_another_has_mounted(tmp_path):
    """In a namespace of its own a process has other file systems, of which ours say nothing."""

    def mount():
        run_checked("mount", "-t", "tmpfs", "tmpfs", str(tmp_path))
        (tmp_path / "inside").touch()

    with in_other_mounts(mount) as pid:
        mounts = Mounts(pid)
        fd = os.open(f"/proc/{pid}/root{tmp_path}/inside", os.O_PATH)
        kind, here = mounts.fstype(fd), Mounts(os.getpid()).fstype(fd)
        os.close(fd)

        assert mounts.its is not mounts.ours
    assert (kind, here) == ("tmpfs", None)


@needs_root
def test_a_table_that_has_changed_is_read_again(tmp_path):
    """What is mounted later is known, and what is not mounted any more is not."""

    def found() -> list[str | None]:
        table = Table("self")
        kinds = [fstype(Mounts(os.getpid(), table), tmp_path)]
        run_checked("mount", "-t", "tmpfs", "tmpfs", str(tmp_path))
        kinds.append(fstype(Mounts(os.getpid(), table), tmp_path))
        held = os.open(tmp_path, os.O_PATH)
        run_checked("umount", "-l", str(tmp_path))
        kinds += [Mounts(os.getpid(), table).fstype(held)]
        run_checked("mount", "-t", "ramfs", "ramfs", str(tmp_path))
        kinds += [fstype(Mounts(os.getpid(), table), tmp_path)]
        return kinds

    first, *others = in_own_mounts(found)

    assert first not in (None, "tmpfs", "ramfs")
    assert others == ["tmpfs", None, "ramfs"]


@needs_root
def test_a_table_that_has_not_changed_is_not(tmp_path, monkeypatch):
    """It is read once, however often it is asked."""

    def reads() -> list[int]:
        sizes: list[int] = []
        read = os.read

        def counted(fd: int, size: int) -> bytes:
            sizes.append(size)
            return read(fd, size)

        monkeypatch.setattr(module.os, "read", counted)
        table = Table("self")
        times = []
        for _ in range(3):
            fstype(Mounts(os.getpid(), table), tmp_path)
            times.append(len(sizes))
        return times

    first, *others = in_own_mounts(reads)

    assert first > 0
    assert others == [first, first]


@needs_root
def test_a_mount_that_is_gone_is_known_by_its_file_system(tmp_path):
    """Where the same file system is mounted elsewhere as well."""

    def found() -> str | None:
        one, other = tmp_path / "one", tmp_path / "other"
        one.mkdir()
        other.mkdir()
        run_checked("mount", "-t", "tmpfs", "tmpfs", str(one))
        run_checked("mount", "--bind", str(one), str(other))
        held = os.open(one, os.O_PATH)
        run_checked("umount", "-l", str(one))
        return Mounts(os.getpid()).fstype(held)

    assert in_own_mounts(found) == "tmpfs"


@needs_root
def test_names_are_no_devices(tmp_path):
    """Who mounts names the source, and a name may look like a device's."""

    def found() -> str | None:
        taken = os.stat("/proc").st_dev
        name = f"{os.major(taken)}:{os.minor(taken)}"
        run_checked("mount", "-t", "tmpfs", name, str(tmp_path))
        mount = Table("self").mount(name.encode())
        return None if mount is None else os.fsdecode(mount.fstype)

    assert in_own_mounts(found) == "proc"


def test_nothing_stays_open():
    """A table is closed when nobody has it any more."""
    before = descriptors()
    assert fstype(Mounts(os.getpid()), "/proc") == "proc"

    assert descriptors() <= before


@given(st.lists(st.lists(FIELD, max_size=12), max_size=6), FIELD)
@example([[b" ", b"1", b"0:1", b"/", b"/", b"rw", b"-", b"ext4", b"x", b"rw"]], b"")
def test_any_text_is_survived(lines, wanted):
    """Whatever a table looks like, what is found in it is what was asked for, or nothing."""
    text = b"\n".join(b" ".join(each) for each in lines)
    with tempfile.TemporaryFile() as file:
        file.write(text)
        file.flush()
        table = Table("self")
        table._fd = file.fileno()
        mount = table.mount(wanted)
    # As they stand there: what was drawn for one field may hold a blank or the end of a line.
    read = [each.split(b" ") for each in text.split(b"\n")]

    assert mount is None or any(wanted in (each + [b""] * 3)[:3] for each in read)


def test_fields_are_read_back():
    """What the kernel writes in octal included (proc(5), mountinfo)."""
    line = rb"36 35 98:0 /mnt1\0402 /mnt2\134 rw,noatime master:1 - ext3 /dev/root rw,errors=x"
    with tempfile.TemporaryFile() as file:
        file.write(b"35 1 98:1 / / rw - ext4 98:0 rw\n%s\n37 1 98:0 / /x rw - ext4 y rw\n" % line)
        file.flush()
        table = Table("self")
        table._fd = file.fileno()
        found = [table.mount(each) for each in (b"36", b"98:0", b"3", b"master:1")]

    assert found[0] == Mount(b"98:0", b"/mnt1 2", b"/mnt2\\", b"ext3", b"rw,errors=x")
    assert found == [found[0], found[0], None, None]
