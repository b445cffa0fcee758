# SPDX-License-Identifier: Apache-2.0
"""What a process executes is found, and opened as exactly the file that it is."""

from __future__ import annotations

import dataclasses
import mmap
import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rig.mapped import PAGE, content, executes, file_id, mapped, mapping_of, real
from rig.process import wait_until
from rig.scratch import scratch
from rig.silent_fuse import NoFuseError, process_on_silent_fuse

from agentwall.errors import HostError
from agentwall.probes.mappings import (
    Mapping,
    MappingError,
    executable_mappings,
    open_mapping,
)
from agentwall.probes.mounts import Mounts

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts")


@contextmanager
def sleeping():
    """Run a process that does nothing."""
    program = os.path.realpath(shutil.which("sleep"))
    child = subprocess.Popen([program, "1000"])
    try:
        wait_until(lambda: executes(child.pid, program), what="exec")
        yield child
    finally:
        child.kill()
        child.wait()


@pytest.fixture
def page(tmp_path):
    """A file of one page."""
    path = tmp_path / "page"
    path.write_bytes(b"old ".ljust(PAGE, b"."))
    return path


def test_what_is_mapped_to_execute_is_listed_once():
    """Each file once, and neither data nor memory without a file."""
    found = executable_mappings(os.getpid())
    names = {Path(os.fsdecode(each.path)).name for each in found}

    assert len(found) == len({each.file for each in found})
    assert any(name.startswith("libc.so") or name.startswith("libc-") for name in names)
    assert all(each.path.startswith(b"/") and each.start < each.end for each in found)
    assert all(not each.path.startswith(b"[") for each in found)


def test_data_is_no_mapping(page):
    """A file that is only read is none of the process's code."""
    with mapped(page, mmap.PROT_READ):
        assert os.fsencode(page) not in [e.path for e in executable_mappings(os.getpid())]


@pytest.mark.parametrize(
    "name", [b"two\nlines", b"back\\slash", b" blanks ", b"tab\tand\rreturn", b"\xff\xfe", b"a:b,c"]
)
def test_names_of_any_bytes_are_read(page, name):
    """A sandbox may call its files what it likes."""
    path = os.fsencode(page.parent) + b"/" + name
    os.rename(page, path)
    with mapped(path):
        found = mapping_of(path)

        assert found.file.inode == os.stat(path).st_ino
        assert not found.is_deleted
        assert content(os.getpid(), found).startswith(b"old ")


NAMES = st.binary(min_size=1, max_size=200).filter(
    # What the kernel's own marks look like cannot be told from them.
    lambda name: (
        not {0, 47} & set(name)
        and name not in (b".", b"..")
        and b"\\012" not in name
        and not name.endswith(b" (deleted)")
    )
)


@given(NAMES)
@settings(max_examples=150, deadline=None)
def test_any_name_is_read_back(name):
    """Whatever bytes a name has, the file is found by it, and every other mapping still is."""
    with scratch("names") as directory:
        path = os.fsencode(directory) + b"/" + name
        with open(path, "wb") as file:
            file.write(bytes(PAGE))
        before = len(executable_mappings(os.getpid()))
        with mapped(path):
            assert mapping_of(path).file.inode == os.stat(path).st_ino
            assert len(executable_mappings(os.getpid())) == before + 1


def test_a_deleted_file_is_opened(page):
    """What is mapped stays there to be opened, whatever becomes of its name."""
    with mapped(page):
        page.unlink()
        found = mapping_of(page)

        assert found.is_deleted
        assert content(os.getpid(), found).startswith(b"old ")


def test_a_replaced_file_is_not_mistaken(page):
    """As an upgrade does it: the process still has the old library, not what has its name now."""
    with mapped(page):
        new = page.with_name("new")
        new.write_bytes(b"new ".ljust(PAGE, b"."))
        new.rename(page)

        assert content(os.getpid(), mapping_of(page)).startswith(b"old ")


def without_map_files(mapping: Mapping) -> Mapping:
    """Return *mapping* with a place that ``map_files`` does not know."""
    return dataclasses.replace(mapping, start=mapping.start + PAGE)


def test_the_path_serves_where_the_mapping_moved(page):
    """If only the path is left, it leads to the same file or to none."""
    with mapped(page):
        found = without_map_files(mapping_of(page))

        assert content(os.getpid(), found).startswith(b"old ")
        page.rename(page.with_name("other"))
        page.write_bytes(b"new")
        with pytest.raises(MappingError, match=r"expected inode \d+, got \d+"):
            open_mapping(Mounts(os.getpid()), found)


@pytest.mark.parametrize("kind", ["fifo", "link", "directory-link", "none"])
def test_a_path_that_leads_elsewhere_is_not_followed(page, kind):
    """A sandbox cannot make us wait for a FIFO, or follow its links out of its root."""
    home = page.parent / "home"
    home.mkdir()
    path = page.rename(home / "page")
    with mapped(path):
        found = without_map_files(mapping_of(path))
        away = home.rename(home.with_name("away"))
        if kind == "directory-link":
            home.symlink_to(away)
        else:
            home.mkdir()
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "link":
            path.symlink_to(away / "page")

        with pytest.raises(MappingError) as caught:
            open_mapping(Mounts(os.getpid()), found)
        assert str(caught.value).startswith(f"/proc/{os.getpid()}/root{path}: ")
        assert isinstance(caught.value, HostError)


@needs_root
def test_a_file_that_the_sandbox_serves_is_refused_unopened(tmp_path):
    """Opening it would wait for an answer that never comes."""
    try:
        with process_on_silent_fuse(tmp_path, "library") as pid:
            mapping = mapping_of(tmp_path / "library", pid)
            with pytest.raises(MappingError, match=r"of this host, got fuse\.silent$"):
                open_mapping(Mounts(pid), mapping)
            # Nor is it looked for by its path: who serves the directory is not asked for a name.
            with pytest.raises(MappingError, match=r"of this host, got none$"):
                open_mapping(Mounts(pid), without_map_files(mapping))
    except NoFuseError as err:
        pytest.skip(f"no FUSE here: {err}")


def test_a_process_that_is_gone_is_said_to_be():
    """Nothing is there any more: neither mappings nor files."""
    with sleeping() as child:
        found = mapping_of(os.path.realpath(shutil.which("sleep")), child.pid)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)

        assert executable_mappings(child.pid) == []
    with pytest.raises(ProcessLookupError):
        executable_mappings(child.pid)
    with pytest.raises(ProcessLookupError):
        open_mapping(Mounts(child.pid), found)


def test_mappings_that_may_not_be_read_are_said_to_be():
    """Without rights over the process, there is a reason instead of mappings."""
    if os.geteuid() != 0:
        pytest.skip("needs root: becomes another user")
    with sleeping() as child:
        reader, writer = os.pipe()
        other = os.fork()
        if other == 0:
            try:
                os.setresuid(65534, 65534, 65534)
                executable_mappings(child.pid)
            except Exception as err:  # noqa: BLE001 - told to the parent
                os.write(writer, str(err).encode())
            finally:
                os._exit(0)
        os.waitpid(other, 0)
        os.close(writer)
        with os.fdopen(reader, "rb") as file:
            assert file.read() == f"/proc/{child.pid}/maps: Permission denied".encode()


def test_without_an_overlay_the_real_file_is_the_file(page):
    """On other file systems, identity is what stat says, also of a deleted file."""
    with mapped(page):
        expected = file_id(page)

        assert real(page) == expected
        page.unlink()
        assert real(page) == expected
