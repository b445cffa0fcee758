# SPDX-License-Identifier: Apache-2.0
"""Below overlays, the files are found on which the kernel hangs uprobes."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import stat
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rig.cgroup import temp_cgroup
from rig.containers import podman_engine
from rig.mapped import PAGE, content, file_id, mapped, mapping_of, real, real_file, real_of
from rig.own_mounts import in_own_mounts
from rig.process import run_checked, wait_until

from agentwall.probes.mappings import (
    FileId,
    Mapping,
    _layers,
    executable_mappings,
    open_mapping,
)
from agentwall.probes.mounts import Mounts

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts")

LOWER = ("lower one", "lower:two", "lower,three", "lower\\four")


def escaped(name: str) -> str:
    """Return a directory's name as ``lowerdir=`` wants it."""
    return name.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")


NAMES = st.lists(
    st.binary(min_size=1, max_size=20).filter(lambda name: 0 not in name), min_size=1, max_size=5
)
WORDS = st.lists(
    st.one_of(
        st.sampled_from(
            [b"lowerdir=", b"lowerdir+=", b"datadir+=", b"upperdir=", b",", b":", b"\\"]
        ),
        st.binary(max_size=8),
    ),
    max_size=20,
)


def shown(value: bytes) -> bytes:
    """Return *value* as mountinfo shows it (fs/seq_file.c: seq_show_option)."""
    return b"".join(b"\\%03o" % each if each in b",= \t\n\\" else bytes([each]) for each in value)


@given(NAMES, st.booleans())
def test_names_of_layers_are_read_back(names, one_each):
    """Of any bytes, in the one list of older kernels and singly as newer ones take them."""
    upper, *lower = names
    backed = [re.sub(rb"([\\:])", rb"\\\1", each) for each in names]
    words = [b"rw", b"upperdir=" + shown(backed[0]), b"workdir=x"]
    if one_each:
        words += [b"lowerdir+=" + shown(each) for each in lower]
    elif lower:
        words.append(b"lowerdir=" + shown(b":".join(backed[1:])))

    assert list(_layers(b",".join(words))) == [upper, *lower]


@given(WORDS)
def test_options_of_any_kind_are_survived(words):
    """What makes no sense gives names of nothing, or none."""
    assert all(isinstance(each, bytes) for each in _layers(b"".join(words)))


class Layers:
    """Directories on a tmpfs, and overlays of them, in a mount namespace of the caller's own."""

    def __init__(self, top: Path) -> None:
        self.top = top
        run_checked("mount", "-t", "tmpfs", "tmpfs", str(top))
        for at, name in enumerate(LOWER):
            directory = top / name / "usr" / "lib"
            directory.mkdir(parents=True)
            (directory / f"lib{at}").write_bytes(str(at).encode().ljust(PAGE, b"."))
            # The first one hides those of the layers below.
            (directory / "everywhere").write_bytes(b"e%d" % at + b"." * (PAGE + at))

    def overlay(self, name: str, *options: str) -> Path:
        """Mount an overlay with an upper directory of its own; return where."""
        for each in ("upper", "work", "root"):
            (self.top / name / each).mkdir(parents=True)
        lower = ":".join(escaped(str(self.top / each)) for each in LOWER)
        upper, work = self.top / name / "upper", self.top / name / "work"
        words = [f"lowerdir={lower}", f"upperdir={upper}", f"workdir={work}", *options]
        root = self.top / name / "root"
        # Not mount(8), which has ideas of its own about backslashes and commas.
        libc = ctypes.CDLL(None, use_errno=True)
        data = ",".join(words).encode()
        if libc.mount(b"overlay", os.fsencode(root), b"overlay", 0, data) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), ",".join(words))
        return root


def test_two_overlays_of_one_lower_layer_have_one_file(tmp_path):
    """Two containers of an image share its libraries, whatever its directories are called."""

    def found() -> list[tuple[FileId, FileId, FileId]]:
        layers = Layers(tmp_path)
        roots = [layers.overlay(name) for name in ("a", "b b")]
        answers = []
        for at, lower in enumerate(LOWER):
            name = f"usr/lib/lib{at}"
            pair = []
            for root in roots:
                # One after the other: of both at once, kernels before 6.8 or so show one file.
                with mapped(root / name):
                    pair.append(real(root / name))
            answers.append((*pair, file_id(tmp_path / lower / name)))
        return answers

    answers = in_own_mounts(found)

    assert all(first == second == lower for first, second, lower in answers)
    assert len({lower for _, _, lower in answers}) == len(LOWER)


def test_the_topmost_layer_counts(tmp_path):
    """A file that several layers have is that of the first; one that was written to, the upper."""

    def found() -> list[tuple[FileId, FileId]]:
        root = Layers(tmp_path).overlay("a")
        upper = tmp_path / "a" / "upper" / "usr" / "lib"
        path = root / "usr" / "lib" / "everywhere"
        answers = []
        with mapped(path):
            answers.append((real(path), file_id(tmp_path / LOWER[0] / "usr" / "lib" / path.name)))
        with path.open("ab") as file:
            file.write(b"more")
        with mapped(path):
            answers.append((real(path), file_id(upper / path.name)))
        made = path.with_name("made")
        made.write_bytes(b"." * PAGE)
        with mapped(made):
            answers.append((real(made), file_id(upper / made.name)))
        return answers

    assert all(got == expected for got, expected in in_own_mounts(found))


def test_data_lie_below_metadata_that_were_copied_up(tmp_path):
    """With ``metacopy``, a change of owner leaves the data, and so the uprobes, where they were."""

    def found() -> tuple[FileId, FileId, int]:
        root = Layers(tmp_path).overlay("a", "metacopy=on")
        path = root / "usr" / "lib" / "lib1"
        path.chmod(0o755)
        upper = tmp_path / "a" / "upper" / "usr" / "lib" / "lib1"
        with mapped(path):
            lower = file_id(tmp_path / LOWER[1] / "usr" / "lib" / "lib1")
            return real(path), lower, upper.stat().st_blocks

    got, expected, blocks = in_own_mounts(found)

    assert blocks == 0
    assert got == expected


def test_part_of_an_overlay_mounted_elsewhere_is_looked_through(tmp_path):
    """A bind mount of a directory has another root, which counts."""

    def found() -> tuple[FileId, FileId]:
        root = Layers(tmp_path).overlay("a")
        other = tmp_path / "other"
        other.mkdir()
        run_checked("mount", "--bind", str(root / "usr"), str(other))
        with mapped(other / "lib" / "lib2"):
            lower = file_id(tmp_path / LOWER[2] / "usr" / "lib" / "lib2")
            return real(other / "lib" / "lib2"), lower

    got, expected = in_own_mounts(found)

    assert got == expected


def test_what_no_layer_has_is_the_overlays_own(tmp_path):
    """A deleted file has no name in any layer: it counts as the overlay's."""

    def found() -> tuple[FileId, FileId]:
        path = Layers(tmp_path).overlay("a") / "usr" / "lib" / "lib0"
        own = file_id(path)
        with mapped(path):
            path.unlink()
            return real(path), own

    got, expected = in_own_mounts(found)

    assert got == expected


def test_an_overlay_of_the_sandboxs_own_cannot_claim_a_file(tmp_path):
    """A sandbox may lay its own file over one of the host's name, size and time, in its mounts."""
    host, upper, work, root = (tmp_path / each for each in ("host", "upper", "work", "root"))
    host.mkdir()
    library = host / "library"
    library.write_bytes(b"host".ljust(PAGE, b"."))
    reader, writer = os.pipe()

    def sandbox() -> None:
        status = library.stat()
        run_checked("mount", "-t", "tmpfs", "tmpfs", str(tmp_path))
        for each in (host, upper, work, root):
            each.mkdir()
        library.write_bytes(b"evil".ljust(PAGE, b"."))
        os.utime(library, ns=(status.st_atime_ns, status.st_mtime_ns))
        words = f"lowerdir={host},upperdir={upper},workdir={work}"
        run_checked("mount", "-t", "overlay", "overlay", "-o", words, str(root))
        with mapped(root / "library"):
            os.write(writer, b"%d" % os.getpid())
            signal.pause()

    child = os.fork()
    if child == 0:
        try:
            in_own_mounts(sandbox)
        finally:
            os._exit(0)
    os.close(writer)
    pid = int(os.read(reader, 32))
    os.close(reader)
    try:
        mapping, mounts = mapping_of(root / "library", pid), Mounts(pid)
        fd = open_mapping(mounts, mapping)
        status = os.fstat(fd)
        begin, got = content(pid, mapping)[:4], real_of(mounts, fd)
        os.close(fd)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(child, 0)

    assert begin == b"evil"
    assert got == FileId(status.st_dev, status.st_ino)
    assert got != file_id(library)


@pytest.mark.kernel
@pytest.mark.slow
def test_two_containers_of_one_image_have_one_file(tmp_path):
    """What podman starts from one image is known by the file in the image."""
    with podman_engine() as engine, temp_cgroup("mappings") as parent, ExitStack() as stack:
        found = []
        for _ in range(2):
            container = stack.enter_context(engine.sandbox(parent))
            # Before that, it is the runtime which is to execute it.
            mapping = mapping_by(container.pid, b"/bin/busybox")
            fd = open_mapping(Mounts(container.pid), mapping)
            stack.callback(os.close, fd)
            found.append((real_file(container.pid, mapping), os.fstat(fd)))
        (first_real, _), (second_real, status) = found
        layer = [
            path
            for path in engine.directory.glob("root/overlay/*/diff/bin/busybox")
            if stat.S_ISREG(path.lstat().st_mode)
        ]

        assert first_real == second_real
        assert first_real in [file_id(path) for path in layer]
        assert second_real != FileId(status.st_dev, status.st_ino)


def test_a_process_that_ends_in_between_maps_nothing_else():
    """Whose mounts are gone is gone: its file is not taken for another than all others map."""
    with subprocess.Popen(["/bin/sleep", "100"]) as child:
        mounts = Mounts(child.pid)
        name = os.fsencode(os.path.realpath("/bin/sleep"))
        fd = open_mapping(mounts, mapping_by(child.pid, name))
        alive = real_of(mounts, fd)
        child.kill()
        # A zombie: it has a number, and no mounts.
        wait_until(lambda: state_of(child.pid) == "Z", what="its end")
        with pytest.raises(ProcessLookupError):
            real_of(Mounts(child.pid), fd)
    with pytest.raises(ProcessLookupError):
        real_of(Mounts(child.pid), fd)
    os.close(fd)

    assert alive.inode == os.stat("/bin/sleep").st_ino


def mapping_by(pid: int, name: bytes) -> Mapping:
    """Return the mapping of a program, once it is there: its name in /proc is there before it."""

    def found() -> list[Mapping]:
        return [each for each in executable_mappings(pid) if each.path == name]

    wait_until(found, what="it to be mapped")
    return found()[0]


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
